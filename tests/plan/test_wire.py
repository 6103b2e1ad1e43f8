"""Points whose tensors are packed: what they are called, how they are predicted and checked."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from paretopipe_worker.cuts import FIRST, LAST, PLAIN, Footprint
from paretopipe_worker.plan import identity, memory, spec
from paretopipe_worker.plan.attempts import Attempt
from paretopipe_worker.plan.plan import PlanError, Point
from paretopipe_worker.records.lines import Item, LegEnd, PointEnd
from paretopipe_worker.wire.formats import FORMATS
from tests.helpers.attempts import leg
from tests.helpers.tables import make, table

CUT = "layer1"
RAW = table().cuts[1].payload_bytes


def points(**keys: object) -> dict[str, Point]:
    """The points that are cut there over a slow link, by format."""
    keys = {"links": [{"name": "slow", "rate_mbit": 1}], "wire": list(FORMATS), **keys}
    made = make(splits={"cuts": [CUT]}, **keys)
    assert len(made.sessions) == 1, "formats are measured within one session"
    return {point.wire: point for point in made.points if point.split == (CUT,)}


def test_a_plan_without_a_choice_of_formats_is_the_one_of_before() -> None:
    before, plain, both = make(), make(wire=[PLAIN]), make(wire=[PLAIN, "int8"])
    assert identity.digest(before) == identity.digest(plain) != identity.digest(both)
    assert {point.id for point in before.points} < {point.id for point in both.points}
    assert len(both.points) == 2 * len(before.points)
    assert make(wire="int8").experiment.wire == ("int8",)


def test_unknown_formats_are_refused_with_those_that_there_are() -> None:
    with pytest.raises(spec.SpecError, match=r"wire\[1\]: must be one of 'fp32', 'fp16'"):
        make(wire=["fp16", "int3"])
    with pytest.raises(spec.SpecError, match="wire"):
        make(wire=["fp16", "fp16"])


def test_each_format_counts_towards_the_limit() -> None:
    limit = {"points": len(make().points)}
    assert make(limit=limit)
    with pytest.raises(PlanError, match=r"limit\.points"):
        make(limit=limit, wire=[PLAIN, "int8"])


def test_predictions_use_the_packed_size_where_there_is_one() -> None:
    found = points()
    sizes = {wire: point.message_sizes for wire, point in found.items()}
    assert sizes["fp32"] == (range(RAW, RAW + 1), range(40, 41))
    assert sizes["fp16"][0] == range(RAW // 2, RAW // 2 + 1)
    assert sizes["zstd"][0] == range(1, RAW + 2)
    assert {each[1] for each in sizes.values()} == {range(40, 41)}
    latency_s = {wire: point.predicted_latency_s for wire, point in found.items()}
    assert latency_s["int4"] < latency_s["int8"] < latency_s["fp16"] < latency_s["fp32"]
    assert latency_s["fp16"] == latency_s["bf16"]
    assert latency_s["zstd"] == latency_s["lz4"] == latency_s["fp32"]


def test_a_stage_needs_memory_for_packed_messages() -> None:
    bare = replace(table(), footprint=Footprint(held=(), peaks=(0, 0, 0, 0)))
    hops, window, back = [bare.cuts[1].tensors, bare.output], 3, 40
    needs = {wire: memory.needed(bare, (CUT,), hops, window, wire) for wire in FORMATS}
    assert needs[PLAIN] == ((window + 1) * back + 2 * RAW, (window + 1) * RAW + 2 * back)
    # Two results that wait become four packed buffers and one copy.
    for wire, most in (("fp16", RAW // 2), ("zstd", RAW + 1)):
        assert needs[wire] == (
            (window + 1) * back + (window + 1) * most + RAW,
            (window + 1) * most + 2 * back,
        )
    assert memory.needed(bare, (FIRST,), [(), ()], window, "int8") == (0, 0)
    # What runs nowhere before is packed where it begins; between equal cuts it is passed on.
    given = bare.crossing(LAST)
    sent = [given, given, bare.output]
    found = memory.needed(bare, (LAST, LAST), sent, window, "bf16")
    size = sum(each.nbytes for each in given) // 2
    assert found[0] == (window + 1) * back + (window + 1) * size + 2 * size
    assert found[1] == (window + 1) * size


@pytest.mark.parametrize(
    ("wire", "each", "status"),
    [
        ("int8", -1, "failed"),
        ("int8", 0, "ok"),
        ("int8", 1, "failed"),
        ("zstd", -1000, "ok"),
        ("zstd", 0, "ok"),
        ("zstd", 1, "failed"),
        ("zstd", -(RAW + 1), "failed"),
    ],
)
def test_the_bytes_handed_over_are_those_of_packed_messages(
    wire: str, each: int, status: str
) -> None:
    """`each` is by how much every message of rank 0 is larger than the largest planned."""
    made = make(links=["none"], wire=[wire], splits={"cuts": [CUT]})
    [point] = [point for point in made.points if point.split == (CUT,)]
    [session] = made.sessions
    attempt = Attempt(session, 1, points=session.points, items=Counter())
    attempt.ended[point.id] = PointEnd(point.id, "ok", None, True, "exact", 0.0)
    for rank in range(2):
        for number, phase in enumerate(("latency", "throughput")):
            for line in leg(point, rank, phase, number=number):
                if isinstance(line, Item) and rank == 0:
                    attempt.items[point.id, line.phase, line.leg] += 1
                if isinstance(line, LegEnd):
                    more = 20 * each if rank == 0 else 0
                    line = replace(line, payload_sent_bytes=line.payload_sent_bytes + more)
                    attempt.legs.setdefault(point.id, []).append((rank, line))
    outcome = attempt.outcome(point)
    assert outcome.status == status, outcome
    if status == "failed":
        assert "bytes were to cross" in str(outcome.reason)
