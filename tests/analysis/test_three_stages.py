"""Runs of three stages: tables and figures of splits of two cuts."""

from __future__ import annotations

import doctest
import itertools
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis import pareto
from analysis.figures import front_figure
from analysis.figures.breakdown import breakdown
from analysis.figures.captions import MARKERS
from analysis.figures.latency_parts import heights
from analysis.figures.load_figure import load_figure
from analysis.figures.names import called
from analysis.measures.attribution import attribution
from analysis.measures.clocks import comparisons
from analysis.measures.replicates import replicates
from analysis.report import terminal
from analysis.run import Run, read
from analysis.tables import points as points_module
from analysis.tables.load_curve import load_curve
from analysis.tables.points import points, position
from analysis.tables.stages import stages
from tests.helpers.fake_plan import THREE, expected_ms, make, mobilenet_table, tiny_table
from tests.helpers.fake_run import FakeRun
from tests.helpers.figures import assert_texts_are_clear, names, one_page

pytestmark = pytest.mark.slow

UNEVEN = {
    "name": "uneven",
    "hops": [{"rate_mbit": 100, "delay_ms": 1}, {"rate_mbit": 20, "delay_ms": 3}],
    "return": {"rate_mbit": 50, "delay_ms": 2},
}
ORDER = ("@last", "body.0", "body.1", "@first")
SPLITS = ["+".join(pair) for pair in itertools.combinations_with_replacement(ORDER, 2)]


def pairs(cuts: Sequence[str]) -> list[list[str]]:
    """Every split of two cuts, endpoints included, as a spec lists them."""
    order = ("@last", *cuts, "@first")
    return [list(pair) for pair in itertools.combinations_with_replacement(order, 2)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of ten splits, those that leave the cloud idle in a session of two ranks."""
    plan = make(tiny_table(), hosts=THREE, links=[UNEVEN], splits={"cuts": pairs(ORDER[1:-1])})
    assert sorted(len(session.placement) for session in plan.sessions) == [2, 3]
    folder = tmp_path_factory.mktemp("three")
    return read(FakeRun(folder / "run", plan, noise=0).all_sessions().path)


@pytest.fixture(scope="module")
def table(run: Run) -> pd.DataFrame:
    return points(run).set_index("split")


def test_every_split_is_measured_and_ordered_by_its_first_cut_then_its_second(
    table: pd.DataFrame,
) -> None:
    assert table.index.tolist() == SPLITS
    assert table["position"].tolist() == list(range(10))
    assert set(table["placement"]) == {"pi>server>cloud"} and set(table["status"]) == {"ok"}
    assert doctest.testmod(points_module).failed == 0


@pytest.mark.parametrize(("cuts", "ranks"), [(21, 2), (5, 3), (4, 4), (3, 5)])
def test_positions_number_all_splits_in_order(cuts: int, ranks: int) -> None:
    every = itertools.combinations_with_replacement(range(cuts), ranks - 1)
    for number, places in enumerate(every):
        assert position(places, cuts) == number


def test_latency_and_its_parts_are_those_of_all_stages_and_hops(
    run: Run, table: pd.DataFrame
) -> None:
    parts = attribution(run.items, run.plan, replicates(run), comparisons(run))
    parts = parts.set_index(["split", "rank", "kind"]).sort_index()
    for point in run.plan.points:
        split = "+".join(point.split)
        stage, wire = expected_ms(run.plan, point)
        row = table.loc[split]
        assert row["latency_median_ms"] == pytest.approx(sum(stage) + sum(wire), rel=1e-4)
        assert row["compute_ms"] == pytest.approx(sum(stage), rel=1e-3)
        assert row["attribution_ok"]
        if not point.crosses:
            assert parts.loc[split].index.unique("rank").tolist() == [0]
            continue
        assert row["wire_ms"] == pytest.approx(sum(wire), rel=1e-3)
        for rank in range(len(point.hops)):
            of_rank = parts.loc[(split, rank)]
            assert of_rank.loc["compute", "ms"] == pytest.approx(stage[rank], abs=1e-3)
            bound_ms = of_rank.loc["wire", "bound_ms"]
            assert 0 < bound_ms < 0.2
            assert of_rank.loc["wire", "ms"] == pytest.approx(wire[rank], abs=bound_ms)


def test_forward_latency_ends_at_the_last_rank_that_computes(run: Run, table: pd.DataFrame) -> None:
    for point in run.plan.points:
        if point.crosses:
            stage, wire = expected_ms(run.plan, point)
            row = table.loc["+".join(point.split)]
            found, bound_ms = row["forward_latency_median_ms"], row["forward_latency_bound_ms"]
            assert found == pytest.approx(sum(stage) + sum(wire[:-1]), abs=bound_ms)


def test_what_was_asked_of_a_link_is_told_for_the_ring_of_the_point(table: pd.DataFrame) -> None:
    names = ["rate_mbit", "delay_ms", "return_rate_mbit", "return_delay_ms"]
    # Forward the slowest hop and the sum of the delays; the server answers the pi itself where the
    # cloud idles.
    assert table.loc["body.0+body.1", names].tolist() == [20, 4, 50, 2]
    assert table.loc["body.0+@first", names].tolist() == [100, 1, 50, 2]
    assert set(table["link_asked"]) == {
        "rank 0 to 1: 100 Mbit/s, 1 ms one way; rank 1 to 2: 20 Mbit/s, 3 ms one way; "
        "back: 50 Mbit/s, 2 ms one way"
    }
    assert table["link_certified"].all()
    goodput = table["link_goodput_before_mbit"]
    assert goodput["body.0+body.1"] == pytest.approx(20 / 1.045)
    assert goodput["body.0+@first"] == pytest.approx(100 / 1.045)


def test_what_each_rank_sends_adds_up_to_the_payload(run: Run, table: pd.DataFrame) -> None:
    of_ranks = stages(run, replicates(run)).set_index(["split", "rank"]).sort_index()
    sends = of_ranks["sends_bytes"]
    assert sends["body.0+body.1"].tolist() == [2048, 4096, 4000]
    assert sends["body.0+body.0"].tolist() == [2048, 2048, 4000]
    assert sends["body.0+@first"].tolist() == [2048, 4000]
    assert sends["@first+@first"].tolist() == [0]
    assert table.loc["body.0+body.1", ["payload_bytes", "return_bytes"]].tolist() == [6144, 4000]
    assert of_ranks.loc["body.0+body.0", "compute_ms"].tolist()[1] == 0


def test_splits_are_called_by_their_cuts_and_by_who_computes(table: pd.DataFrame) -> None:
    rows = table.reset_index()
    assert dict(zip(rows["split"], called(rows), strict=True)) == {
        "@last+@last": "all on cloud",
        "@last+body.0": "b.0 (no pi)",
        "@last+body.1": "b.1 (no pi)",
        "@last+@first": "all on server",
        "body.0+body.0": "b.0 (no server)",
        "body.0+body.1": "b.0+b.1",
        "body.0+@first": "b.0 (no cloud)",
        "body.1+body.1": "b.1 (no server)",
        "body.1+@first": "b.1 (no cloud)",
        "@first+@first": "all on pi",
    }


def test_bars_show_every_hop_and_without_clocks_their_sum(run: Run) -> None:
    measured = replicates(run)
    table, of_ranks = points(run, measured=measured), stages(run, measured)
    hops = ["wire 0 to 1", "wire 1 to 2", "wire back"]
    split = attribution(run.items, run.plan, measured, comparisons(run))
    bars = heights(table, of_ranks, split).set_axis(table["split"])
    assert bars[hops].notna().sum(axis=1).to_dict() == {
        name: 0 if name == "@first+@first" else 2 if name.endswith("+@first") else 3
        for name in SPLITS
    }
    assert bars["wire, there and back"].isna().all()
    unclocked = heights(table, of_ranks, attribution(run.items, run.plan, measured))
    assert unclocked[hops].isna().all(axis=None)
    around = unclocked["wire, there and back"]
    pd.testing.assert_series_equal(around, table["wire_ms"], check_names=False)


def test_bars_of_placements_of_any_length_stand_side_by_side(tmp_path: Path) -> None:
    two, three = ["pi", "server"], ["pi", "server", "cloud"]
    plan = make(tiny_table(), hosts=THREE, placements=[two, three])
    run = read(FakeRun(tmp_path / "run", plan, items=8).all_sessions().path)
    measured = replicates(run)
    figure = one_page(breakdown(points(run, measured=measured), stages(run, measured)))
    bars = [sorted({bar.get_x() for bar in axes.patches}) for axes in figure.axes]  # type: ignore[attr-defined]
    assert [len(places) for places in bars] == [4, 4]
    for places in bars:
        assert {round(b - a, 6) for a, b in itertools.pairwise(places)} == {1}
    ticks = [[text.get_text() for text in axes.get_xticklabels()] for axes in figure.axes]
    assert ticks == [
        ["all on server", "b.0", "b.1", "all on pi"],
        ["all on cloud", "all on server", "b.0+b.1", "all on pi"],
    ]


def test_the_printed_front_calls_an_endpoint_by_its_host(run: Run, undrawn: None) -> None:
    document = pareto.analyse(run.path)
    ends = [row["split"] for row in document["front"] if "body" not in row["split"]]
    assert ends, "an endpoint is on the front of this run"
    printed, _ = terminal.text(document).split("points measured")
    assert "all on server" in printed and not [split for split in ends if split in printed]


def markers(figure: Figure) -> set[object]:
    """The markers of a figure's points."""
    lines = [line for axes in figure.axes for line in axes.lines]
    return {line.get_marker() for line in lines if line.get_gid() == front_figure.GID}


@pytest.mark.parametrize("cuts", [3, 17])
def test_figures_of_three_stages_can_be_read(tmp_path: Path, cuts: int) -> None:
    known = mobilenet_table()
    kept = [cut.name for cut in known.cuts[:: 19 // cuts]][:cuts]
    plan = make(known, hosts=THREE, links=[UNEVEN], splits={"cuts": pairs(kept)})
    assert len(plan.points) == (cuts + 3) * (cuts + 2) // 2
    run = read(FakeRun(tmp_path / "run", plan, items=8, loads=(0.5,)).all_sessions().path)
    measured = replicates(run)
    table, of_ranks = points(run, measured=measured), stages(run, measured)
    split = attribution(run.items, run.plan, measured, comparisons(run))
    front = one_page(front_figure.front(table, of_ranks))
    bars = one_page(breakdown(table, of_ranks, split))
    load = one_page(load_figure(table, of_ranks, load_curve(run, table, measured)))
    for figure in (front, bars, load):
        assert_texts_are_clear(figure)
    ends = {"all on pi", "all on server", "all on cloud"}
    assert ends <= {text.get_text() for text in names(front)}
    assert markers(front) == {"o", *MARKERS[:3]}
    ticks = [text.get_text() for text in bars.axes[-1].get_xticklabels()]
    assert ends <= set(ticks) and not [tick for tick in ticks if "@" in tick]
