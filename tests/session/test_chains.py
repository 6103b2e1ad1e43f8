"""Sessions of three and four stages, which real stage processes run over sockets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis.measures.attribution import parts, sums
from analysis.measures.clocks import comparisons
from analysis.run import Run, read
from analysis.tables.points import points
from paretopipe_worker.plan.plan import Point
from paretopipe_worker.records.clocks import Clock
from paretopipe_worker.records.lines import End, Item, LegEnd, PointEnd
from paretopipe_worker.records.probes import Probe
from paretopipe_worker.session.probe import TRANSFER_BYTES
from tests import ROOT
from tests.helpers.sessions import PHASES, Finished, Lab, experiment, lab, only

pytestmark = pytest.mark.slow

UNET = {
    "name": "unet",
    "factory": "own:UNet",
    "path": str(ROOT / "experiments/models/own.py"),
    "input": [3, 32, 32],
}
HOSTS = ("edge", "hub", "server", "cloud")

SHARED, EMPTY, CARRIED = "down.0+up.1", "down.1+down.1", "down.2+bottom.5"
WHOLE_RING = (SHARED, EMPTY, CARRIED, "@last+down.2", "@last+@last", "@first+@first")
SHORT_RING = ("down.1+@first", "@last+@first")


def listed(*splits: str) -> dict[str, Any]:
    """Splits as a spec lists them."""
    return {"cuts": [split.split("+") for split in splits]}


def first(count: int, **keys: Any) -> dict[str, dict[str, Any]]:
    """So many hosts, all described alike."""
    return dict.fromkeys(HOSTS[:count], keys)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A U-Net over three hosts: the session of all of them, and the one without the last."""
    unet = {"models": [UNET], "phases": PHASES, "splits": listed(*WHOLE_RING, *SHORT_RING)}
    made = lab(tmp_path_factory.mktemp("lab"), unet, **first(3))
    for splits in (WHOLE_RING, SHORT_RING):
        made.run(only(made, *splits))
    return made


@pytest.fixture(scope="module")
def whole(made: Lab) -> Finished:
    return Finished(made, only(made, *WHOLE_RING))


@pytest.fixture(scope="module")
def short(made: Lab) -> Finished:
    return Finished(made, only(made, *SHORT_RING))


@pytest.fixture(scope="module")
def run(made: Lab) -> Run:
    return read(made.results)


def point_of(found: Finished, split: str) -> Point:
    """The plan's point of a split."""
    return found.lab.plan.point(found.point(split))


def test_every_rank_of_the_ring_records_every_item(whole: Finished, short: Finished) -> None:
    for found in (whole, short):
        ranks = range(len(found.session.placement))
        for point in map(found.lab.plan.point, found.session.points):
            assert len(point.hops) == len(ranks)
            items = [
                [(i.phase, i.seq) for i in found.of(Item, rank) if i.point == point.id]
                for rank in ranks
            ]
            if not point.crosses:
                assert not any(items[1:]), "all of it is the source's"
                continue
            # How many are in flight at the end is the source's alone to know.
            wanted = {(phase, seq) for phase, seq in items[0] if phase == "latency"}
            assert len(wanted) >= 8
            for of_rank in items[1:]:
                assert wanted == {(phase, seq) for phase, seq in of_rank if phase == "latency"}
                assert len(of_rank) == len(items[0])


def test_every_split_returns_what_the_model_returns_bit_by_bit(
    whole: Finished, short: Finished
) -> None:
    ends = [end for found in (whole, short) for end in found.of(PointEnd)]
    assert len(ends) == len(WHOLE_RING) + len(SHORT_RING)
    for end in ends:
        assert (end.status, end.gate, end.output) == ("ok", True, "exact"), end


def test_a_value_that_is_needed_two_stages_on_goes_through_the_stage_between(
    whole: Finished,
) -> None:
    # What the levels above the bottom made is all used on the last host; the bottom, on the hub,
    # uses the last of it alone.
    skips = {(1, 8, 32, 32), (1, 16, 16, 16), (1, 32, 8, 8)}
    *forward, back = point_of(whole, CARRIED).hops
    assert [{tensor.shape for tensor in hop} for hop in forward] == [skips, skips | {(1, 64, 4, 4)}]
    assert [tensor.shape for tensor in back] == [(1, 2, 32, 32)]
    assert {end.output for end in whole.of(PointEnd)} == {"exact"}


def test_a_rank_with_an_empty_stage_passes_on_what_it_gets(whole: Finished) -> None:
    hops = point_of(whole, EMPTY).hops
    assert hops[0] == hops[1] != hops[2]
    for phase in ("latency", "throughput"):
        sent = [whole.legs(rank, EMPTY, phase)[0].payload_sent_bytes for rank in range(3)]
        assert sent[0] == sent[1] > 0
        busy = [sum(item.cpu_ns for item in whole.items(rank, EMPTY, phase)) for rank in range(3)]
        assert busy[1] < 0.1 * min(busy[0], busy[2]), busy


def test_bytes_cross_each_hop_as_planned(whole: Finished, short: Finished) -> None:
    for found in (whole, short):
        for rank in range(len(found.session.placement)):
            for end in found.of(LegEnd, rank):
                payload = found.lab.plan.point(end.point).hop_bytes[rank]
                assert end.wire_sent_bytes is not None
                assert end.payload_sent_bytes >= payload * end.items
                assert (end.wire_sent_bytes > 0) == (payload > 0)


def test_a_host_behind_the_sink_is_not_reached(short: Finished, made: Lab) -> None:
    assert short.session.placement == ("edge", "hub")
    assert {point_of(short, split).placement for split in SHORT_RING} == {("edge", "hub", "server")}
    files = sorted((made.results / "records" / "server").glob("*.jsonl"))
    assert [file.name for file in files] == [f"{only(made, *WHOLE_RING).id}.1.jsonl"]
    [end] = short.of(End)
    assert end.status == "ok"


def test_every_hop_is_probed_and_every_clock_compared(whole: Finished, short: Finished) -> None:
    for found in (whole, short):
        ranks = len(found.session.placement)
        probes = found.of(Probe)
        assert [probe.after_points for probe in probes] == [0, len(found.session.points)]
        for probe in probes:
            assert len(probe.goodput_mbit) == ranks and min(probe.goodput_mbit) > 10
            assert {(part.hop, part.bytes) for part in probe.transfers} == {
                (hop, size) for hop in range(ranks) for size in TRANSFER_BYTES
            }
        others = [clock.rank for clock in found.of(Clock)]
        assert others == list(range(1, ranks)) * (len(others) // (ranks - 1))
        assert len(others) >= (ranks - 1) * (len(found.session.points) + 3)


def test_the_parts_of_every_item_add_up_to_its_latency(run: Run) -> None:
    added = sums(parts(run.items))
    assert (added["attributed_ms"] / added["latency_ms"]).between(0.98, 1.02).all()
    assert (added["least_ms"] >= 0).all(), "two time stamps are in the wrong order"
    # All processes read one clock here, so that there is a truth to hold each hop's offsets
    # against.
    split = parts(run.items, comparisons(run))
    wires = split[split["sends"]]
    assert set(wires["rank"]) == {0, 1, 2} and wires["bound_ms"].between(0, 5).all()
    assert ((wires["wire"] - wires["round_wire"]).abs() <= wires["bound_ms"]).all()


def test_the_analysis_has_every_point_of_both_rings(run: Run) -> None:
    table = points(run).set_index("split").loc[[*WHOLE_RING, *SHORT_RING]]
    assert set(table["status"]) == {"ok"} and set(table["placement"]) == {"edge>hub>server"}
    assert table["attribution_ok"].all()
    crossing = table.drop("@first+@first")
    assert crossing["crossed"].all()
    forward = crossing["forward_latency_median_ms"]
    assert (forward.dropna() < crossing["latency_median_ms"].loc[forward.notna()]).all()


CHAINS = [
    ("rpc", 3, ("1+3", "3+3", "@last+4")),
    ("gloo", 3, ("1+3", "3+3", "@last+4")),
    ("tcp", 4, ("1+3+4", "3+3+3", "@last+@last+@last")),
]


@pytest.mark.parametrize(("backend", "ranks", "splits"), CHAINS, ids=["rpc", "gloo", "four ranks"])
def test_chains_run_over_every_backend_and_over_four_ranks(
    tmp_path: Path, backend: str, ranks: int, splits: tuple[str, ...]
) -> None:
    # The libraries take the first address of an interface.
    made = lab(
        tmp_path,
        experiment(backends=[backend], splits=listed(*splits)),
        **first(ranks, data_address="127.0.0.1"),
    )
    found = made.run(only(made, *splits))
    assert len(found.session.placement) == ranks
    assert len(found.of(PointEnd)) == len(splits)
    for end in found.of(PointEnd):
        assert (end.status, end.output) == ("ok", "exact"), end
    table = points(read(made.results)).set_index("split").loc[list(splits)]
    assert set(table["status"]) == {"ok"} and table["crossed"].all()
