"""Sessions whose tensors are packed: what crosses, what it costs, and values that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis.measures.attribution import parts, sums
from analysis.run import read
from analysis.tables.points import points
from paretopipe_worker.plan.plan import Point
from paretopipe_worker.records.lines import End, Item, LegEnd, PointEnd
from paretopipe_worker.wire.formats import FORMATS
from tests.helpers.sessions import HOSTS, Finished, Lab, experiment, lab, only
from tests.helpers.synthetic import BREAKS_AT

pytestmark = pytest.mark.slow

LOSSLESS = ("zstd", "lz4")
EXACT = ("fp32", *LOSSLESS)
CUT = "2"
RAW = 4 * 8 * 16 * 16
"""Bytes that cross there: eight channels."""
BYTES = {
    "fp32": RAW,
    "fp16": RAW // 2,
    "bf16": RAW // 2,
    "int8": RAW // 4 + 64,
    "int4": RAW // 8 + 64,
}
ON_LOOPBACK = {"data_address": "127.0.0.1"}


def each(made: Lab, done: Finished, cut: str) -> dict[str, Point]:
    """The points that are cut there, by wire format."""
    found = map(made.plan.point, done.session.points)
    return {point.wire: point for point in found if "+".join(point.split) == cut}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A small network in every format, cut in the middle and at its ends."""
    asked = experiment(wire=list(FORMATS), splits={"cuts": [CUT]})
    made = lab(tmp_path_factory.mktemp("lab"), asked)
    [session] = made.plan.sessions
    return made.run(session)


def test_what_is_lossless_is_exact_and_what_is_rounded_says_by_how_much(
    measured: Finished,
) -> None:
    ends = {end.point: end for end in measured.of(PointEnd)}
    assert {end.status for end in ends.values()} == {"ok"}, ends
    found = each(measured.lab, measured, CUT)
    assert list(found) and set(found) == set(FORMATS)
    errors = {wire: ends[point.id].max_relative_error or 0.0 for wire, point in found.items()}
    outputs = {wire: ends[point.id].output for wire, point in found.items()}
    assert outputs == {wire: "exact" if wire in EXACT else "close" for wire in FORMATS}
    assert errors["fp32"] == errors["zstd"] == errors["lz4"] == 0
    assert 0 < errors["fp16"] < errors["bf16"] < errors["int4"] < 0.5, errors
    assert errors["fp16"] < errors["int8"] < errors["int4"], errors
    alone = each(measured.lab, measured, "@first")
    assert {ends[point.id].output for point in alone.values()} == {"exact"}


def test_bytes_are_counted_after_packing_and_the_answer_goes_home_as_it_is(
    measured: Finished,
) -> None:
    for wire, point in each(measured.lab, measured, CUT).items():
        for rank in range(2):
            for end in (end for end in measured.of(LegEnd, rank) if end.point == point.id):
                items = [i for i in measured.of(Item) if (i.point, i.leg) == (end.point, end.leg)]
                assert end.wire_sent_bytes is not None
                assert end.wire_sent_bytes >= end.payload_sent_bytes + 32 * len(items)
                if rank == 1:
                    assert end.payload_sent_bytes == 40 * len(items)
                elif wire in LOSSLESS:
                    assert 0 < end.payload_sent_bytes < (RAW + 1) * len(items)
                else:
                    assert end.payload_sent_bytes == BYTES[wire] * len(items)
    table = points(read(measured.lab.results)).set_index(["split", "wire"])
    assert (table["status"] == "ok").all(), set(table["reason"])
    assert (table.loc[[CUT, "@last"], "crossed"] == True).all()  # noqa: E712
    for wire, size in BYTES.items():
        assert table.loc[(CUT, wire), "wire_bytes"] == size
        assert table.loc[(CUT, wire), "payload_bytes"] == RAW
    # Half of what is behind a ReLU is zero.
    assert 0.3 * RAW < table.loc[(CUT, "zstd"), "wire_bytes"] < 0.95 * RAW
    assert (table.loc["@first", "wire_bytes"] == 0).all()
    assert (table.loc["@first", "max_relative_error"] == 0).all()
    assert table["top1_agreement"].isna().all(), "there are no images"


def test_packing_is_timed_where_it_is_done_and_nothing_is_missing(measured: Finished) -> None:
    for wire, point in each(measured.lab, measured, CUT).items():
        for rank in range(2):
            items = [item for item in measured.of(Item, rank) if item.point == point.id]
            packs = [item.pack_ns for item in items]
            unpacks = [item.unpack_ns for item in items]
            packed = wire != "fp32"
            assert all((ns is not None and ns > 0) == (packed and rank == 0) for ns in packs)
            assert all((ns is not None and ns > 0) == (packed and rank == 1) for ns in unpacks)
            for item in items:
                assert item.packed_ns is not None
                assert item.ready_ns + (item.unpack_ns or 0) <= item.start_ns
                assert item.computed_ns + (item.pack_ns or 0) <= item.packed_ns
    items = read(measured.lab.results).items
    whole = sums(parts(items[items["phase"] == "latency"]))
    assert (whole["least_ms"] >= 0).all()
    assert (whole["attributed_ms"] / whole["latency_ms"]).between(0.99, 1.01).all()
    table = points(read(measured.lab.results))
    assert table["attribution_ok"].all()
    assert (
        table["pack_ms"].notna() == ((table["wire"] != "fp32") & (table["split"] != "@first"))
    ).all()


@pytest.mark.parametrize("backend", ["rpc", "gloo"])
def test_the_libraries_carry_fixed_and_varying_sizes(backend: str, tmp_path: Path) -> None:
    asked = experiment(backends=[backend], wire=["int8", "zstd"], splits={"cuts": [CUT]})
    made = lab(tmp_path, asked, **dict.fromkeys(HOSTS, ON_LOOPBACK))
    done = made.run(only(made, CUT, "@last"))
    assert {end.status for end in done.of(PointEnd)} == {"ok"}, done.of(PointEnd)
    table = points(read(made.results)).set_index(["split", "wire"])
    assert table.loc[(CUT, "int8"), "wire_bytes"] == BYTES["int8"]
    assert 0 < table.loc[(CUT, "zstd"), "wire_bytes"] < RAW
    assert table.loc[(CUT, "zstd"), "output"] == "exact"
    assert (table.loc[CUT, "crossed"] == True).all()  # noqa: E712


@pytest.mark.parametrize("hosts", [pytest.param(2, marks=pytest.mark.long), 3])
def test_values_that_do_not_fit_fail_their_point_and_the_session_goes_on(
    hosts: int, tmp_path: Path
) -> None:
    names = ("edge", "hub", "server")[:hosts]
    cuts: list[Any] = ["0", "1"] if hosts == 2 else [["0", "0"], ["0", "1"], ["1", "2"]]
    asked = experiment("tests.helpers.synthetic:huge", wire=["fp16", "bf16"], splits={"cuts": cuts})
    made = lab(tmp_path, asked, **{name: {} for name in names})
    wanted = {"+".join(cut) if isinstance(cut, list) else cut for cut in cuts}
    done = made.run(only(made, *wanted))
    for end in done.of(PointEnd):
        point = made.plan.point(end.point)
        failing = next((rank for rank, cut in enumerate(point.split) if cut == "1"), None)
        if point.wire == "bf16" or failing is None:
            assert end.status == "ok", end
            continue
        assert end.status == "failed"
        words = "tensor 0 of the message: float32 values up to "
        assert words in str(end.reason) and "largest is 65504" in str(end.reason)
        assert names[failing] in str(end.reason), end
    statuses = [end.status for end in done.of(PointEnd)]
    assert statuses.count("failed") == hosts - 1 and "ok" in statuses
    assert all(isinstance(lines[-1], End) and lines[-1].status == "ok" for lines in done.lines)
    if hosts == 3:
        passed_on(made, done, "0+0")


def passed_on(made: Lab, done: Finished, split: str) -> None:
    """What a rank without a stage is given leaves it as it came."""
    for point in each(made, done, split).values():
        one, other = (
            [leg.payload_sent_bytes for leg in done.of(LegEnd, rank) if leg.point == point.id]
            for rank in (0, 1)
        )
        assert one == other and min(one) > 0
        items = [item for item in done.of(Item, 1) if item.point == point.id]
        assert items and all(item.pack_ns is None is item.unpack_ns for item in items)


@pytest.mark.parametrize("cut", ["0", pytest.param("1", marks=pytest.mark.long)])
def test_a_stage_that_fails_with_batches_in_flight_fails_its_point_alone(
    cut: str, tmp_path: Path
) -> None:
    phases = {
        "min_items": BREAKS_AT - 50,
        "min_s": 0,
        "max_s": 20,
        "warmup_items": 20,
        "retries": 0,
    }
    asked = experiment(
        "tests.helpers.synthetic:breaking", splits={"cuts": [cut]}, phases=phases, window=[3, 4]
    )
    made = lab(tmp_path, asked)
    broken, whole = made.run(only(made, cut)).of(PointEnd)
    assert (broken.status, whole.status) == ("failed", "ok")
    host = HOSTS[cut == "0"]
    assert host in str(broken.reason) and "out of order for once" in str(broken.reason)
    phases_of = {
        leg.phase for leg in read(made.results).legs.itertuples() if leg.point == broken.point
    }
    assert phases_of == {"latency"}, "the throughput leg was to break"
