"""From raw records to one row per point: definitions, replicates, attempts, refusals."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.column import PERCENTILE_ITEMS
from analysis.measures.replicates import percentiles
from analysis.run import read
from analysis.tables import front
from analysis.tables.columns import FRONT, POINTS
from analysis.tables.points import points
from paretopipe_worker.plan.plan import Point
from tests.helpers.fake_run import (
    TWO_LINKS,
    FakeRun,
    expected_ms,
    make,
    mobilenet_table,
    tiny_table,
)

CUT = "body.1"


def measure(fake: FakeRun) -> pd.DataFrame:
    """The points of a run, by split."""
    return points(read(fake.path)).set_index("split")


def edit(path: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Rewrite a record file line by line; null drops the line."""
    lines = [change(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines if line is not None))


@pytest.fixture
def fake(tmp_path: Path) -> FakeRun:
    return FakeRun(tmp_path / "made-up", make(tiny_table()), items=20, noise=0)


@pytest.fixture
def twice(tmp_path: Path) -> FakeRun:
    return FakeRun(tmp_path / "made-up", make(tiny_table(), replicates=2), items=20, noise=0)


def point_of(fake: FakeRun, split: str = CUT) -> Point:
    """The plan's point at a cut."""
    return next(point for point in fake.plan.points if point.split == (split,))


def test_every_point_of_the_plan_has_a_row_in_the_order_of_the_data(tmp_path: Path) -> None:
    plan = make(mobilenet_table(), links=TWO_LINKS)
    table = points(read(FakeRun(tmp_path / "run", plan, items=8).path))
    names = ["@last", *(f"features.{n}" for n in range(19)), "@first"]
    assert table["split"].tolist() == names * 2
    assert table["link"].tolist() == ["none"] * 21 + ["rate20"] * 21
    assert set(table["status"]) == {"missing"}
    assert set(table["reason"]) == {"was not tried yet"}
    assert list(table.columns) == list(POINTS)
    assert set(FRONT) <= set(front.fronts(table).columns)


def test_latency_and_throughput_are_what_the_made_up_pipeline_does(fake: FakeRun) -> None:
    table = measure(fake.all_sessions())
    for split, row in table.iterrows():
        stage, wire = expected_ms(fake.plan, point_of(fake, str(split)))
        assert row["latency_median_ms"] == pytest.approx(sum(stage) + sum(wire), rel=1e-5)
        assert row["throughput_images_s"] == pytest.approx(1e3 / max(*stage, *wire), rel=1e-5)
        assert row["loaded_latency_median_ms"] == pytest.approx(3 * max(*stage, *wire), rel=1e-5)
        assert row["stage0_compute_ms"] == pytest.approx(stage[0], rel=1e-4, abs=1e-6)
    assert table.loc[CUT, "stage0_wall_over_cpu"] == pytest.approx(1 / 0.99, rel=1e-4)
    assert table.loc[CUT, "stage1_compute_ms"] > 0
    assert table.loc[CUT, ["latency_items", "latency_short", "latency_ended_by"]].tolist() == [
        20,
        False,
        "minimum",
    ]


def test_latency_counts_only_items_of_its_phase_at_the_source(fake: FakeRun) -> None:
    source, _ = fake.session(fake.plan.sessions[0])
    values = iter(range(1, 10_000))

    def change(line: dict[str, Any]) -> dict[str, Any]:
        if line["kind"] == "item" and line["point"] == point_of(fake).id:
            counted = line["phase"] == "latency"
            line["latency_ns"] = next(values) * 1_000_000 if counted else 10**15
        return line

    edit(source, change)
    assert measure(fake).loc[CUT, "latency_median_ms"] == np.median(range(1, 21))


def test_throughput_counts_completions_after_the_first_one(fake: FakeRun) -> None:
    source, _ = fake.session(fake.plan.sessions[0])
    done = iter(range(0, 180, 10))

    def change(line: dict[str, Any]) -> dict[str, Any]:
        mine = line["kind"] == "item" and line["point"] == point_of(fake).id
        if mine and line["phase"] == "throughput":
            at = next(done, None)
            # Those still in flight when the phase ended do not count.
            line["phase"] = "drain" if at is None else "throughput"
            line["done_ns"] = (5_000 if at is None else at) * 1_000_000
        return line

    edit(source, change)
    row = measure(fake).loc[CUT]
    assert (row["throughput_items"], row["throughput_images_s"]) == (18, pytest.approx(100.0))


def test_throughput_counts_images_not_batches(tmp_path: Path) -> None:
    table = mobilenet_table(batch=8)
    fake = FakeRun(tmp_path / "run", make(table, batch=8), noise=0).all_sessions()
    row = measure(fake).loc["features.3"]
    stage, wire = expected_ms(fake.plan, point_of(fake, "features.3"))
    assert row["throughput_images_s"] == pytest.approx(8e3 / max(*stage, *wire), rel=1e-5)


def test_less_than_two_windows_of_items_are_no_throughput_and_say_so(tmp_path: Path) -> None:
    plan = make(tiny_table(), window=[3, 64], splits={"cuts": [CUT]})
    table = points(read(FakeRun(tmp_path / "run", plan, items=20).all_sessions().path))
    rows = table.set_index(["split", "window"])
    row = rows.loc[CUT, 64]
    assert (row["status"], row["on_front"], row["throughput_items"]) == ("ok", False, 20)
    assert row[["throughput_images_s", "little_ratio", "little_off"]].isna().all()
    assert row["throughput_note"] == (
        "no throughput: 20 items before the leg's maximum time; with 64 in flight 129 make two "
        "whole windows"
    )
    assert row["latency_median_ms"] > 0
    told = rows.loc[CUT, 3]
    assert told["throughput_images_s"] > 0 and pd.isna(told["throughput_note"])


def test_throughput_times_latency_is_held_against_the_window(fake: FakeRun) -> None:
    source, _ = fake.session(fake.plan.sessions[0])
    table = measure(fake)
    assert table["little_ratio"].tolist() == pytest.approx([1] * len(table), abs=0.01)
    assert not table["little_off"].any()

    def shorter(line: dict[str, Any]) -> dict[str, Any]:
        if line["kind"] == "item" and line["phase"] == "throughput":
            line["latency_ns"] = line["latency_ns"] * 9 // 10
        return line

    edit(source, shorter)
    row = measure(fake).loc[CUT]
    assert row["little_off"] and row["little_ratio"] == pytest.approx(0.9, abs=0.01)
    assert row["throughput_note"].startswith("10% of the window's places were free on average")


def test_a_stage_s_load_is_that_of_all_its_items_together(fake: FakeRun) -> None:
    source, _ = fake.session(fake.plan.sessions[0])

    def slower(line: dict[str, Any]) -> dict[str, Any]:
        if line["kind"] == "item" and line["seq"] % 5 < 2:
            line["compute_ns"] *= 2
        return line

    edit(source, slower)
    row = measure(fake).loc[CUT]
    # Four in ten items took twice as long: the median of the others hides it.
    assert row["stage0_wall_over_cpu"] == pytest.approx(1 / 0.99, rel=1e-3)
    assert row["stage0_loaded_wall_over_cpu"] == pytest.approx(1.4 / 0.99, rel=1e-3)


@pytest.mark.parametrize(
    ("items", "known"),
    [(63, []), (64, [90]), (130, [90, 95]), (661, [90, 95]), (662, [90, 95, 99])],
)
def test_percentiles_need_their_number_of_items(
    tmp_path: Path, items: int, known: list[int]
) -> None:
    plan = make(tiny_table(), splits={"cuts": ["body.0"]})
    row = measure(FakeRun(tmp_path / "run", plan, items=items).all_sessions()).loc["body.0"]
    assert [p for p in (90, 95, 99) if not np.isnan(row[f"latency_p{p}_ms"])] == known
    for percentile in (90, 95, 99):
        low, value, high = (row[f"latency_p{percentile}{end}_ms"] for end in ("_low", "", "_high"))
        assert low < value < high if percentile in known else np.isnan([low, high]).all()


@pytest.mark.parametrize(("percentile", "items"), PERCENTILE_ITEMS.items())
def test_an_interval_of_order_statistics_holds_the_percentile(percentile: int, items: int) -> None:
    draw = np.random.default_rng(percentile)
    truth = -np.log(1 - percentile / 100)
    legs = pd.DataFrame(draw.exponential(size=(400, items))).stack().rename("ms").reset_index()
    table = percentiles(legs.groupby("level_0")["ms"])
    held = (table[f"p{percentile}_low"] <= truth) & (truth <= table[f"p{percentile}_high"])
    # The sample's own quantile is above the true one in about half of the legs.
    assert held.mean() > 0.975, f"of 400 legs, seed {percentile}"
    assert (table[f"p{percentile}"] >= truth).mean() < 0.7


@pytest.mark.parametrize("phase", ["latency", "throughput"])
def test_fewer_than_six_items_are_a_failed_point_with_that_reason(
    fake: FakeRun, phase: str
) -> None:
    source, _ = fake.session(fake.plan.sessions[0])

    def change(line: dict[str, Any]) -> dict[str, Any] | None:
        mine = line.get("point") == point_of(fake).id and line.get("phase") == phase
        return None if mine and line["kind"] == "item" and line["seq"] >= 7 else line

    edit(source, change)
    row = measure(fake).loc[CUT]
    assert row["status"] == "failed"
    assert row["reason"] == f"phase {phase} has 5 items, at least 6 are needed"
    assert np.isnan(row["latency_median_ms"]) and not row["on_front"]
    assert row["replicates"] == 0


def test_a_point_is_the_mean_over_replicates_with_its_interval(twice: FakeRun) -> None:
    first, second = twice.plan.sessions
    twice.session(first, scale=1.0)
    twice.session(second, scale=1.2)
    row = measure(twice).loc[CUT]
    stage, wire = expected_ms(twice.plan, point_of(twice))
    both = [sum(stage) * scale + sum(wire) for scale in (1.0, 1.2)]
    assert row["replicates"] == 2
    assert row["latency_median_ms"] == pytest.approx(np.mean(both), rel=1e-5)
    ends = stats.t.interval(0.95, 1, np.mean(both), stats.sem(both))
    assert row[["latency_median_low_ms", "latency_median_high_ms"]].tolist() == pytest.approx(
        list(ends), rel=1e-4
    )


def test_one_replicate_has_no_interval(fake: FakeRun) -> None:
    row = measure(fake.all_sessions()).loc[CUT]
    assert np.isnan(row["latency_median_low_ms"])


def test_a_failed_replicate_does_not_count_and_is_told(twice: FakeRun) -> None:
    first, second = twice.plan.sessions
    twice.session(first)
    twice.session(second, points=[], end="failed", reason="pi: link lost")
    row = measure(twice).loc[CUT]
    assert (row["status"], row["replicates"]) == ("ok", 1)
    assert row["reason"] == "pi: link lost (replicate 1)"


def test_the_latest_complete_attempt_counts_and_no_items_of_others(fake: FakeRun) -> None:
    session = fake.plan.sessions[0]
    fake.session(session, attempt=1, scale=2.0)
    fake.session(session, attempt=2, scale=1.0)
    fake.session(session, attempt=3, points=[], end="failed", reason="pi: killed")
    row = measure(fake).loc[CUT]
    stage, wire = expected_ms(fake.plan, point_of(fake))
    assert row["latency_items"] == 20
    assert row["latency_median_ms"] == pytest.approx(sum(stage) + sum(wire), rel=1e-5)


def test_complete_points_of_a_session_cut_short_count_and_others_do_not(fake: FakeRun) -> None:
    session = fake.plan.sessions[0]
    fake.session(session, points=session.points[:2], end="none")
    table = points(read(fake.path)).set_index("point")
    assert set(table.loc[list(session.points[:2]), "status"]) == {"ok"}
    assert set(table.loc[list(session.points[2:]), "status"]) == {"failed"}
    assert set(table.loc[list(session.points[2:]), "reason"]) == {
        "pi: records were cut short; server: records were cut short"
    }


def test_a_point_without_the_other_ranks_phases_is_not_complete(fake: FakeRun) -> None:
    _, sink = fake.session(fake.plan.sessions[0])

    def change(line: dict[str, Any]) -> dict[str, Any] | None:
        mine = line.get("point") == point_of(fake).id
        return None if mine and line["kind"] == "phase" else line

    edit(sink, change)
    row = measure(fake).loc[CUT]
    assert (row["status"], row["reason"]) == (
        "failed",
        "records of server lack the end of a phase",
    )
    # All on the first host needs nothing of the other.
    assert measure(fake).loc["@first", "status"] == "ok"
    assert np.isnan(measure(fake).loc["@first", "stage1_compute_ms"])


def test_what_the_controller_saw_is_the_reason(fake: FakeRun) -> None:
    fake.controller_failure(fake.plan.sessions[0], 1, "host server is down")
    table = measure(fake)
    assert set(table["status"]) == {"failed"}
    assert set(table["reason"]) == {
        "controller: host server is down; pi: no records; server: no records"
    }


def test_a_point_the_source_failed_keeps_its_reason(fake: FakeRun) -> None:
    source, _ = fake.session(fake.plan.sessions[0])

    def change(line: dict[str, Any]) -> dict[str, Any]:
        if line["kind"] == "point" and line["point"] == point_of(fake).id:
            line |= {"status": "failed", "reason": "the output differs", "output": "close"}
        return line

    edit(source, change)
    row = measure(fake).loc[CUT]
    assert (row["status"], row["reason"]) == ("failed", "the output differs")


def test_bytes_that_crossed_are_held_against_what_was_counted(fake: FakeRun) -> None:
    fake.all_sessions()
    table = measure(fake)
    assert table.loc[CUT, "crossed"]
    assert table.loc[CUT, "wire_sent_bytes"] >= table.loc[CUT, "payload_sent_bytes"] > 0
    assert pd.isna(table.loc["@first", "crossed"])
    assert table.loc["@first", "payload_sent_bytes"] == 0


@pytest.mark.parametrize(
    ("field", "value", "split"),
    [
        ("wire_sent_bytes", 10, CUT),
        ("payload_sent_bytes", 10, CUT),
        ("payload_sent_bytes", 10, "@first"),
    ],
)
def test_a_point_whose_bytes_did_not_cross_is_failed(
    fake: FakeRun, field: str, value: int, split: str
) -> None:
    source, _ = fake.session(fake.plan.sessions[0])

    def change(line: dict[str, Any]) -> dict[str, Any]:
        if line["kind"] == "phase" and line["point"] == point_of(fake, split).id:
            line[field] = value
        return line

    edit(source, change)
    row = measure(fake).loc[split]
    assert row["status"] == "failed"
    assert "bytes were to cross" in row["reason"] and "the network counted" in row["reason"]
    assert np.isnan(row["throughput_images_s"])


def test_without_a_counter_crossing_is_unknown_and_the_point_counts(fake: FakeRun) -> None:
    for path in fake.session(fake.plan.sessions[0]):
        edit(
            path, lambda line: line | {"wire_sent_bytes": None} if line["kind"] == "phase" else line
        )
    row = measure(fake).loc[CUT]
    assert row["status"] == "ok" and pd.isna(row["crossed"]) and pd.isna(row["wire_sent_bytes"])


def test_the_worst_replicate_decides_what_was_checked(twice: FakeRun) -> None:
    first, second = twice.plan.sessions
    twice.session(first)
    source, _ = twice.session(second)

    def change(line: dict[str, Any]) -> dict[str, Any]:
        if line["kind"] == "point":
            line |= {"output": "close", "max_relative_error": 3e-5}
        if line["kind"] == "phase" and line["phase"] == "latency":
            line |= {"ended_by": "maximum", "items": 7}
        return line

    edit(source, change)
    row = measure(twice).loc[CUT]
    assert (row["output"], row["max_relative_error"]) == ("close", 3e-5)
    assert row["latency_ended_by"] == "maximum" and bool(row["latency_short"])
    assert row["throughput_ended_by"] == "minimum" and not row["throughput_short"]


def test_the_links_certificate_is_that_of_its_session(tmp_path: Path) -> None:
    plan = make(tiny_table(), links=TWO_LINKS)
    table = points(read(FakeRun(tmp_path / "run", plan).all_sessions().path))
    slow = table[table["link"] == "rate20"].iloc[0]
    assert slow["link_goodput_before_mbit"] == pytest.approx(20 / 1.045)
    assert slow["link_round_trip_after_ms"] == pytest.approx(0.12)
    assert table.loc[table["link"] == "none", "link_goodput_after_mbit"].iloc[0] > 1000


def test_emulated_devices_are_told(tmp_path: Path) -> None:
    plain = [dataclasses.replace(host, device_emulated=1.0) for host in make(tiny_table()).hosts]
    told = measure(FakeRun(tmp_path / "a", make(tiny_table())).all_sessions())
    assert told["device_emulated"].all() and set(told["stage0_device_emulated"]) == {3.0}
    fake = FakeRun(tmp_path / "b", make(tiny_table(), hosts=plain)).all_sessions()
    assert not measure(fake)["device_emulated"].any()
