"""Forward latency: two clocks, what they leave open, and when they cannot be trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.clocks import comparisons
from analysis.load import load
from analysis.points import points
from paretopipe_worker.plan import Plan
from tests.fake_run import Clocks, FakeRun, expected_ms, make, tiny_table

CUT = "body.1"
EVEN = Clocks()


def measure(fake: FakeRun) -> pd.DataFrame:
    """The points of a run, by split."""
    return points(load(fake.path)).set_index("split")


def forward_ms(plan: Plan, split: str) -> float:
    """Forward latency as the made-up pipeline has it."""
    point = next(point for point in plan.points if point.split == (split,))
    stage, wire = expected_ms(plan, point)
    return sum(stage) + wire[0]


def fake_of(path: Path, clocks: Clocks = EVEN, **experiment: Any) -> FakeRun:
    """A run without noise whose clocks go so."""
    return FakeRun(path / "run", make(tiny_table(), **experiment), noise=0, clocks=clocks)


@pytest.mark.parametrize("drift_ppm", [-150.0, 0.0, 30.0])
@pytest.mark.parametrize("ahead_ns", [-3_000_000_000, 10**15])
def test_forward_latency_is_right_whatever_both_clocks_show(
    tmp_path: Path, drift_ppm: float, ahead_ns: int
) -> None:
    fake = fake_of(tmp_path, Clocks(ahead_ns, drift_ppm)).all_sessions()
    table = measure(fake)
    for split, row in table.iterrows():
        expected = forward_ms(fake.plan, str(split))
        assert row["forward_latency_median_ms"] == pytest.approx(expected, abs=2e-5), split
        assert pd.isna(row["clock_note"])
    row = table.loc[CUT]
    assert row["clock_drift_ppm"] == pytest.approx(drift_ppm, abs=0.1)
    assert row["clock_offset_before_ms"] == pytest.approx(ahead_ns / 1e6, rel=1e-3)
    assert row["forward_latency_bound_ms"] == pytest.approx(0.03)


def test_without_its_drift_a_clock_would_be_seen_to_be_off(tmp_path: Path) -> None:
    """What the drift's correction is worth: an offset alone is off by more than the bound."""
    fake = fake_of(tmp_path, Clocks(drift_ppm=-150.0)).all_sessions()
    (compared,) = comparisons(load(fake.path)).to_dict("records")
    moved_ms = compared["clock_offset_after_ms"] - compared["clock_offset_before_ms"]
    assert abs(moved_ms) > 10 * compared["bound_ms"]


def test_the_fastest_exchange_of_either_end_bounds_the_error(tmp_path: Path) -> None:
    fake = fake_of(tmp_path)
    source, _ = fake.session(fake.plan.sessions[0])
    lines = [json.loads(line) for line in source.read_text().splitlines()]
    for line in lines:
        if line["kind"] == "clock" and line["when"] == "after":
            for exchange in line["exchanges"]:
                exchange[0] -= 40_000
                exchange[2] += 40_000
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert measure(fake).loc[CUT, "forward_latency_bound_ms"] == pytest.approx(0.07)


def test_where_one_rank_does_all_no_second_clock_is_needed(tmp_path: Path) -> None:
    clocks = Clocks(step_ns=10_000_000_000, step_at_ns=5_100_000_000)
    row = measure(fake_of(tmp_path, clocks).all_sessions()).loc["@first"]
    assert row["forward_latency_median_ms"] == pytest.approx(row["latency_median_ms"])
    assert np.isnan(row["forward_latency_bound_ms"]) and pd.isna(row["clock_note"])


def assert_no_forward_latency(row: pd.Series, note: str) -> None:
    """Null, with the reason; all else is measured."""
    assert np.isnan(row["forward_latency_median_ms"])
    assert np.isnan(row["forward_latency_median_low_ms"])
    assert note in row["clock_note"]
    assert row["status"] == "ok" and row["latency_median_ms"] > 0


@pytest.mark.parametrize("step_ns", [10_000_000_000, -10_000_000_000, 20_000_000])
def test_a_clock_that_is_set_in_the_middle_is_noticed(tmp_path: Path, step_ns: int) -> None:
    clocks = Clocks(step_ns=step_ns, step_at_ns=7_000_000_000)
    row = measure(fake_of(tmp_path, clocks).all_sessions()).loc[CUT]
    assert_no_forward_latency(row, "a clock was set: the offset changed by")


def test_a_wall_clock_that_is_set_is_noticed(tmp_path: Path) -> None:
    fake = fake_of(tmp_path)
    fake.session(fake.plan.sessions[0], wall_clock_step_ns=-10_000_000_000)
    assert_no_forward_latency(measure(fake).loc[CUT], "the wall clock of server was set by -10.0 s")


def test_a_wall_clock_that_is_slewed_by_less_than_a_second_is_not(tmp_path: Path) -> None:
    fake = fake_of(tmp_path)
    fake.session(fake.plan.sessions[0], wall_clock_step_ns=900_000_000)
    assert measure(fake).loc[CUT, "forward_latency_median_ms"] > 0


def test_without_a_comparison_after_the_session_there_is_none(tmp_path: Path) -> None:
    fake = fake_of(tmp_path)
    fake.session(fake.plan.sessions[0], end="none")
    row = measure(fake).loc[CUT]
    assert_no_forward_latency(row, "the clocks were not compared after the session")
    assert row["clock_offset_before_ms"] > 0 and np.isnan(row["forward_latency_bound_ms"])


def test_an_error_above_a_twentieth_of_the_latency_is_told_in_its_place(tmp_path: Path) -> None:
    value_ms = forward_ms(make(tiny_table()), CUT)
    for share, known in ((0.049, True), (0.051, False)):
        clocks = Clocks(exchange_ns=2 * int(share * value_ms * 1e6))
        row = measure(fake_of(tmp_path / str(share), clocks).all_sessions()).loc[CUT]
        assert row["forward_latency_bound_ms"] == pytest.approx(share * value_ms, rel=1e-3)
        if known:
            assert row["forward_latency_median_ms"] == pytest.approx(value_ms, rel=1e-4)
        else:
            assert_no_forward_latency(row, "is more than 5% of")


def test_one_replicate_without_it_leaves_the_point_without_it(tmp_path: Path) -> None:
    fake = fake_of(tmp_path, replicates=2)
    first, second = fake.plan.sessions
    fake.session(first)
    fake.session(second, wall_clock_step_ns=10_000_000_000)
    assert_no_forward_latency(measure(fake).loc[CUT], "was set by +10.0 s")


def test_its_interval_is_over_replicates(tmp_path: Path) -> None:
    fake = fake_of(tmp_path, replicates=3)
    for number, session in enumerate(fake.plan.sessions):
        fake.session(session, scale=1 + 0.1 * number)
    row = measure(fake).loc[CUT]
    low, high = row["forward_latency_median_low_ms"], row["forward_latency_median_high_ms"]
    assert low < row["forward_latency_median_ms"] < high
