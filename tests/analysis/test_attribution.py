"""Where a made-up run's time went: parts of items, tables, what is marked, the figure's bars."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.figures.breakdown import breakdown
from analysis.figures.latency_parts import heights
from analysis.measures.attribution import KINDS, STEPS, TOTALS, attribution, parts, sums, totals
from analysis.measures.attribution_columns import ATTRIBUTION
from analysis.measures.clocks import comparisons
from analysis.measures.replicates import replicates
from analysis.run import Run, read
from analysis.tables.points import points
from analysis.tables.stages import stages
from paretopipe_worker.plan.plan import Point
from tests.helpers.fake_clocks import Clocks
from tests.helpers.fake_plan import TWO_LINKS, expected_ms, make, tiny_table
from tests.helpers.fake_run import FakeRun
from tests.helpers.figures import assert_texts_are_clear
from tests.helpers.record_files import edit

pytestmark = pytest.mark.slow

CUT = "body.1"


@pytest.fixture
def fake(tmp_path: Path) -> FakeRun:
    plan = make(tiny_table(), links=TWO_LINKS)
    return FakeRun(tmp_path / "made-up", plan, items=12, noise=0)


@pytest.fixture
def run(fake: FakeRun) -> Run:
    return read(fake.all_sessions().path)


def point_of(run: Run, split: str, link: str) -> Point:
    """The plan's point at a cut."""
    return next(p for p in run.plan.points if (p.split, p.link) == ((split,), link))


def table_of(run: Run) -> pd.DataFrame:
    """``attribution.csv`` by point, rank and kind."""
    made = attribution(run.items, run.plan, replicates(run), comparisons(run))
    assert list(made.columns) == [column.name for column in ATTRIBUTION]
    return made.set_index(["point", "rank", "kind"])


@pytest.mark.parametrize("link", ["none", "rate20"])
@pytest.mark.parametrize("split", ["@last", "body.0", CUT])
def test_each_kind_is_what_the_made_up_pipeline_does(run: Run, split: str, link: str) -> None:
    point = point_of(run, split, link)
    stage, wire = expected_ms(run.plan, point)
    table = table_of(run).loc[point.id]
    for rank in (0, 1):
        assert table.loc[(rank, "compute"), "ms"] == pytest.approx(stage[rank], abs=1e-3)
        # Hosts' clocks are seconds apart and drift: only the offset's error is left.
        bound_ms = table.loc[(rank, "wire"), "bound_ms"]
        assert 0 < bound_ms < 0.1
        assert table.loc[(rank, "wire"), "ms"] == pytest.approx(wire[rank], abs=bound_ms)
        for kind in ("queue", "serialise", "send_queue"):
            assert table.loc[(rank, kind), "ms"] == pytest.approx(0, abs=1e-3)
    assert table["bound_ms"].notna().sum() == 2


def test_a_message_that_waits_to_be_sent_is_in_nobodys_wire(fake: FakeRun) -> None:
    for session in fake.plan.sessions:
        source, _ = fake.session(session)

        def pack(line: dict[str, Any]) -> None:
            if line["packed_ns"] is not None:
                line["packed_ns"] -= 2_000_000
                line["computed_ns"] -= 5_000_000

        edit(source, pack)
    run = read(fake.path)
    point = point_of(run, CUT, "rate20")
    table = table_of(run).loc[point.id]
    assert table.loc[(0, "serialise"), "ms"] == pytest.approx(3, abs=1e-3)
    assert table.loc[(0, "send_queue"), "ms"] == pytest.approx(2, abs=1e-3)
    row = points(run).set_index("point").loc[point.id]
    assert (row["serialise_ms"], row["queue_ms"]) == pytest.approx((3, 2), abs=1e-2)
    assert row["attribution_ok"]


def test_packing_and_copies_are_told_from_what_lies_around_them(fake: FakeRun) -> None:
    steps_ms = {"unpack": 0.1, "copy_in": 0.2, "copy_out": 0.3, "pack": 0.4}
    for session in fake.plan.sessions:
        _, sink = fake.session(session)

        def step(line: dict[str, Any]) -> None:
            line["ready_ns"] -= 2_000_000  # which the wire before takes less
            line["start_ns"] -= 1_000_000
            line["computed_ns"] -= 1_000_000
            line |= {f"{name}_ns": round(ms * 1e6) for name, ms in steps_ms.items()}

        edit(sink, step)
    run = read(fake.path)
    point = point_of(run, CUT, "rate20")
    stage, _ = expected_ms(run.plan, point)
    own = table_of(run).loc[point.id].loc[1]["ms"]
    kinds = {name: own[name] for name in (*steps_ms, "queue", "compute", "serialise")}
    wanted = {"queue": 0.9, "compute": stage[1] - 0.5, "serialise": 0.6}
    assert kinds == pytest.approx(steps_ms | wanted, abs=1e-3)
    row = points(run).set_index("point").loc[point.id]
    assert (row["pack_ms"], row["copy_ms"]) == pytest.approx((0.5, 0.5), abs=1e-3)
    assert row["attribution_ok"]


def test_a_backend_that_cannot_tell_departures_sends_when_it_has_packed(fake: FakeRun) -> None:
    plain = table_of(read(fake.all_sessions().path))
    for file in fake.path.glob("records/*/*.jsonl"):
        edit(file, lambda line: line.update(departed_ns=None))
    found = table_of(read(fake.path))
    pd.testing.assert_series_equal(found["ms"], plain["ms"])
    assert points(read(fake.path))["attribution_ok"].all()


def test_sums_are_exact_whatever_the_clocks_do(tmp_path: Path) -> None:
    # A hundred days apart.
    far = Clocks(ahead_ns=8_640_000_000_000_001, drift_ppm=50)
    fake = FakeRun(tmp_path / "run", make(tiny_table()), items=8, clocks=far)
    run = read(fake.all_sessions().path)
    added = sums(parts(run.items)).dropna(subset="wire_ms")
    assert len(added) == 3 * 2 * 8
    assert np.allclose(added["attributed_ms"], added["latency_ms"], rtol=1e-4)
    assert points(run)["attribution_ok"].all()


def test_without_compared_clocks_single_wires_are_null_and_their_sum_is_not(
    fake: FakeRun, run: Run
) -> None:
    table = attribution(run.items, run.plan, replicates(run))
    assert table.loc[table["kind"] == "wire", ["ms", "bound_ms"]].isna().all(axis=None)
    assert table.loc[table["kind"] != "wire", "ms"].notna().all()
    measured = points(run).set_index("point")
    point = point_of(run, CUT, "rate20")
    _, wire = expected_ms(run.plan, point)
    assert measured.loc[point.id, "wire_ms"] == pytest.approx(sum(wire), abs=1e-2)


def test_a_point_at_which_nothing_crosses_has_no_message_parts(run: Run) -> None:
    point = point_of(run, "@first", "none")
    assert table_of(run).loc[point.id].index.tolist() == [(0, "queue"), (0, "compute")]
    row = points(run).set_index("point").loc[point.id]
    assert row[["serialise_ms", "wire_ms"]].isna().all()
    assert row["compute_ms"] == pytest.approx(row["latency_median_ms"], abs=1e-3)
    assert row["attribution_ok"]


def test_rows_come_in_the_order_of_the_plan_and_of_the_items_way(run: Run) -> None:
    table = table_of(run).reset_index()
    assert list(table["point"].unique()) == [point.id for point in run.plan.points]
    crossing = table[table["point"] == point_of(run, CUT, "none").id]
    assert list(zip(crossing["rank"], crossing["kind"], strict=True)) == [
        (rank, kind) for rank in (0, 1) for kind in KINDS if kind not in STEPS
    ]
    assert list(crossing["host"].unique()) == ["pi", "server"]


def test_loaded_items_wait_and_their_parts_add_up_too(run: Run) -> None:
    point = point_of(run, CUT, "none")
    table = table_of(run).loc[point.id]
    waits = table.loc[table.index.get_level_values("kind") == "queue", "loaded_ms"].sum()
    row = points(run).set_index("point").loc[point.id]
    assert waits > 10
    assert table["loaded_ms"].sum() == pytest.approx(row["loaded_latency_median_ms"], rel=1e-3)


def test_items_left_over_at_the_source_do_not_count_on_other_ranks(fake: FakeRun) -> None:
    source, _ = fake.session(fake.plan.sessions[0])

    def drain(line: dict[str, Any]) -> None:
        if line["phase"] == "throughput" and line["seq"] > 6:
            line["phase"] = "drain"

    edit(source, drain)
    split = parts(read(fake.path).items)
    assert split.loc[split["phase"] == "throughput", "seq"].max() == 6


@pytest.mark.parametrize(
    ("name", "value"),
    [("packed_ns", None), ("packed_ns", 1), ("start_ns", 1), ("latency_ns", 10**9)],
)
def test_a_time_that_is_missing_or_in_the_wrong_order_marks_the_point(
    fake: FakeRun, name: str, value: int | None
) -> None:
    source, _ = fake.session(fake.plan.sessions[0])
    point = point_of(read(fake.path), CUT, "none").id
    spoilt = iter([True])

    def spoil(line: dict[str, Any]) -> None:
        # One item of all is enough.
        if (line["point"], line["phase"]) == (point, "latency") and next(spoilt, False):
            line[name] = value

    edit(source, spoil)
    table = totals(read(fake.path).items).set_index("point")
    assert not table.loc[point, "attribution_ok"]
    assert table.drop(point)["attribution_ok"].all()
    share = table.loc[point, "attributed_share"]
    assert pd.isna(share) == (value is None)


def test_an_item_that_a_rank_did_not_record_marks_the_point(fake: FakeRun) -> None:
    _, sink = fake.session(fake.plan.sessions[0])
    lines = sink.read_text().splitlines()
    lost = next(i for i, line in enumerate(lines) if '"phase":"latency"' in line)
    point = json.loads(lines[lost])["point"]
    sink.write_text("\n".join([*lines[:lost], *lines[lost + 1 :], ""]))
    row = points(read(fake.path)).set_index("point").loc[point]
    assert row["status"] == "ok" and not row["attribution_ok"]
    assert np.isnan(row["attributed_share"])


def test_replicates_are_averaged_and_one_that_is_marked_marks_the_point(tmp_path: Path) -> None:
    plan = make(tiny_table(), replicates=2)
    fake = FakeRun(tmp_path / "run", plan, items=8, noise=0)
    for session in plan.sessions:
        fake.session(session, scale=1 + session.replicate)
    run = read(fake.path)
    point = point_of(run, CUT, "none")
    stage, _ = expected_ms(plan, point)
    row = points(run).set_index("point").loc[point.id]
    assert row["compute_ms"] == pytest.approx(1.5 * sum(stage), rel=1e-3)
    assert table_of(run).loc[(point.id, 0, "compute"), "ms"] == pytest.approx(
        1.5 * stage[0], rel=1e-3
    )
    again = plan.sessions[1]
    edit(
        fake.file(again, 0, again.placement[0]),
        lambda line: line.update(packed_ns=line["packed_ns"] and 1),
    )
    marked = points(read(fake.path)).set_index("split")["attribution_ok"]
    assert not marked[CUT] and marked["@first"]


def test_a_run_without_any_record_has_an_empty_table(fake: FakeRun) -> None:
    run = read(fake.path)
    assert table_of(run).empty
    assert points(run)[[*TOTALS, "attributed_share"]].isna().all(axis=None)


def test_bars_are_the_attributed_kinds_and_reach_the_latency(run: Run) -> None:
    measured = replicates(run)
    table, of_ranks = points(run, measured=measured), stages(run, measured)
    made = attribution(run.items, run.plan, measured, comparisons(run))
    bars = heights(table, of_ranks, made)
    row = bars[(table["split"] == CUT) & (table["link"] == "rate20")].iloc[0]
    stage, wire = expected_ms(run.plan, point_of(run, CUT, "rate20"))
    names = ["stage 0 compute", "stage 1 compute", "wire forward", "wire back"]
    assert row[names].tolist() == pytest.approx([*stage, *wire], abs=0.1)
    assert np.allclose(bars.sum(axis=1), table["latency_median_ms"], rtol=1e-3)
    rest = "latency - compute (not attributed)"
    assert bars[["wire, there and back", rest]].isna().all(axis=None)
    [figure] = breakdown(table, of_ranks, made)
    assert_texts_are_clear(figure)
    # A point that the table lacks has what is left over, named as that.
    lost = heights(table, of_ranks, made[made["point"] != table["point"].iloc[0]])
    assert lost[rest].notna().tolist() == [True] + [False] * (len(table) - 1)


def test_a_bar_has_one_part_for_both_wires_where_clocks_were_not_compared(run: Run) -> None:
    measured = replicates(run)
    table = points(run, measured=measured)
    made = attribution(run.items, run.plan, measured)
    bars = heights(table, stages(run, measured), made)
    crossing = table["split"] != "@first"
    assert bars["wire, there and back"].notna().tolist() == crossing.tolist()
    assert bars.loc[crossing, "wire forward"].isna().all()
    assert np.allclose(bars.loc[crossing, "wire, there and back"], table.loc[crossing, "wire_ms"])
    # The way back alone is as unknown as the way there.
    assert bars["wire back"].isna().all()
