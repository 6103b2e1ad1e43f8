"""From raw records to one row per point: definitions, replicates, intervals."""

from __future__ import annotations

from dataclasses import replace
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
from tests.helpers.analysed import measure, point_at
from tests.helpers.fake_plan import TWO_LINKS, expected_ms, make, mobilenet_table, tiny_table
from tests.helpers.fake_run import HEALTHY, FakeRun
from tests.helpers.record_files import rewrite

pytestmark = pytest.mark.slow

CUT = "body.1"


@pytest.fixture
def fake(tmp_path: Path) -> FakeRun:
    return FakeRun(tmp_path / "made-up", make(tiny_table()), items=20, noise=0)


@pytest.fixture
def twice(tmp_path: Path) -> FakeRun:
    return FakeRun(tmp_path / "made-up", make(tiny_table(), replicates=2), items=20, noise=0)


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
        stage, wire = expected_ms(fake.plan, point_at(fake, str(split)))
        assert row["latency_median_ms"] == pytest.approx(sum(stage) + sum(wire), rel=1e-5)
        assert row["throughput_images_s"] == pytest.approx(1e3 / max(*stage, *wire), rel=1e-5)
        assert row["loaded_latency_median_ms"] == pytest.approx(3 * max(*stage, *wire), rel=1e-5)
    assert table.loc[CUT, ["latency_items", "latency_short", "latency_ended_by"]].tolist() == [
        20,
        False,
        "minimum",
    ]


def test_latency_counts_only_items_of_its_phase_at_the_source(fake: FakeRun) -> None:
    source, _ = fake.session(fake.plan.sessions[0])
    values = iter(range(1, 10_000))

    def change(line: dict[str, Any]) -> dict[str, Any]:
        if line["kind"] == "item" and line["point"] == point_at(fake, CUT).id:
            counted = line["phase"] == "latency"
            line["latency_ns"] = next(values) * 1_000_000 if counted else 10**15
        return line

    rewrite(source, change)
    assert measure(fake).loc[CUT, "latency_median_ms"] == np.median(range(1, 21))


def test_throughput_counts_completions_after_the_first_one(fake: FakeRun) -> None:
    source, _ = fake.session(fake.plan.sessions[0])
    done = iter(range(0, 180, 10))

    def change(line: dict[str, Any]) -> dict[str, Any]:
        mine = line["kind"] == "item" and line["point"] == point_at(fake, CUT).id
        if mine and line["phase"] == "throughput":
            at = next(done, None)
            # Those still in flight when the phase ended do not count.
            line["phase"] = "drain" if at is None else "throughput"
            line["done_ns"] = (5_000 if at is None else at) * 1_000_000
        return line

    rewrite(source, change)
    row = measure(fake).loc[CUT]
    assert (row["throughput_items"], row["throughput_images_s"]) == (18, pytest.approx(100.0))


def test_throughput_counts_images_not_batches(tmp_path: Path) -> None:
    table = mobilenet_table(batch=8)
    fake = FakeRun(tmp_path / "run", make(table, batch=8), noise=0).all_sessions()
    row = measure(fake).loc["features.3"]
    stage, wire = expected_ms(fake.plan, point_at(fake, "features.3"))
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

    rewrite(source, shorter)
    row = measure(fake).loc[CUT]
    assert row["little_off"] and row["little_ratio"] == pytest.approx(0.9, abs=0.01)
    assert row["throughput_note"].startswith("10% of the window's places were free on average")


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


def test_a_point_is_the_mean_over_replicates_with_its_interval(tmp_path: Path) -> None:
    fake = FakeRun(tmp_path / "run", make(tiny_table(), replicates=3), noise=0)
    scales = (1.0, 1.2, 1.1)
    for session, scale in zip(fake.plan.sessions, scales, strict=True):
        fake.session(session, scale=scale)
    row = measure(fake).loc[CUT]
    stage, wire = expected_ms(fake.plan, point_at(fake, CUT))
    all_ = [sum(stage) * scale + sum(wire) for scale in scales]
    assert row["replicates"] == 3
    assert row["latency_median_ms"] == pytest.approx(np.mean(all_), rel=1e-5)
    ends = stats.t.interval(0.95, 2, np.mean(all_), stats.sem(all_))
    assert row[["latency_median_low_ms", "latency_median_high_ms"]].tolist() == pytest.approx(
        list(ends), rel=1e-4
    )


def test_fewer_than_three_replicates_have_no_interval(twice: FakeRun) -> None:
    row = measure(twice.all_sessions()).loc[CUT]
    assert row["replicates"] == 2 and np.isnan(row["latency_median_low_ms"])


def test_the_memory_of_a_point_is_that_of_the_rank_that_took_most(tmp_path: Path) -> None:
    told = {0: replace(HEALTHY, peak_rss_bytes=2e8), 1: replace(HEALTHY, peak_rss_bytes=5e8)}
    fake = FakeRun(tmp_path / "run", make(tiny_table()), health=told).all_sessions()
    table = measure(fake)
    assert table.loc[CUT, "peak_rss_bytes"] == 5e8
    assert table.loc["@first", "peak_rss_bytes"] == 2e8  # rank 0 alone takes part
    told[1] = replace(HEALTHY, peak_rss_bytes=None)
    silent = FakeRun(tmp_path / "silent", make(tiny_table()), health=told).all_sessions()
    assert np.isnan(measure(silent).loc[CUT, "peak_rss_bytes"])


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

    rewrite(source, change)
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
