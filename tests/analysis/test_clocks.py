"""Forward latency: two clocks, what they leave open, and when they cannot be trusted."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest

from analysis.measures.attribution import parts
from analysis.measures.clocks import ahead, comparisons
from analysis.run import Run, read
from analysis.tables.points import points
from paretopipe_worker.plan.plan import Plan
from paretopipe_worker.records.clocks import Exchange
from tests.helpers.fake_clocks import Clocks
from tests.helpers.fake_plan import expected_ms, make, mobilenet_table, tiny_table
from tests.helpers.fake_run import FakeRun

pytestmark = pytest.mark.slow

CUT = "body.1"
EVEN = Clocks()


def measure(fake: FakeRun) -> pd.DataFrame:
    """The points of a run, by split."""
    return points(read(fake.path)).set_index("split")


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
    assert row["forward_latency_bound_ms"] == pytest.approx(0.03, abs=1e-4)


def test_without_its_drift_a_clock_would_be_seen_to_be_off(tmp_path: Path) -> None:
    """What the drift's correction is worth: an offset alone is off by more than the bound."""
    fake = fake_of(tmp_path, Clocks(drift_ppm=-150.0)).all_sessions()
    compared = comparisons(read(fake.path)).iloc[1]
    moved_ms = compared["clock_offset_after_ms"] - compared["clock_offset_before_ms"]
    assert abs(moved_ms) > 10 * compared["bound_ms"]


def test_the_fastest_exchange_of_either_end_bounds_the_error(tmp_path: Path) -> None:
    fake = fake_of(tmp_path)
    source, _ = fake.session(fake.plan.sessions[0])
    lines = [json.loads(line) for line in source.read_text().splitlines()]
    for line in lines:
        if line["kind"] == "clock" and line["when"] == "between":
            for exchange in line["exchanges"]:
                exchange["sent"] = [ns - 40_000 for ns in exchange["sent"]]
                exchange["received"] = [ns + 40_000 for ns in exchange["received"]]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert measure(fake).loc[CUT, "forward_latency_bound_ms"] == pytest.approx(0.07, abs=1e-4)


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
    clocks = Clocks(step_ns=step_ns, step_at_ns=14_000_000_000)
    fake = fake_of(tmp_path, clocks).all_sessions()
    assert_no_forward_latency(measure(fake).loc[CUT], "a clock was set: ")
    split = parts(read(fake.path).items, comparisons(read(fake.path)))
    set_meanwhile = split["point"] == next(p.id for p in fake.plan.points if p.split == (CUT,))
    assert split.loc[set_meanwhile, "wire"].isna().all()


def test_a_clock_that_was_set_spoils_no_point_but_those_beside(tmp_path: Path) -> None:
    clocks = Clocks(step_ns=20_000_000, step_at_ns=7_000_000_000)
    fake = fake_of(tmp_path, clocks).all_sessions()
    # While `@first` was measured, which needs no second clock.
    assert [split for split, *_ in ends_of(fake)] == ["@first", "@last", CUT, "body.0"]
    table = measure(fake)
    for split in (CUT, "body.0"):
        expected = forward_ms(fake.plan, split)
        assert table.loc[split, "forward_latency_median_ms"] == pytest.approx(expected, abs=2e-5)


def test_a_wall_clock_that_is_set_is_noticed(tmp_path: Path) -> None:
    fake = fake_of(tmp_path)
    fake.session(fake.plan.sessions[0], wall_clock_step_ns=-10_000_000_000)
    assert_no_forward_latency(measure(fake).loc[CUT], "the wall clock of server was set by -10.0 s")


def test_a_wall_clock_that_is_slewed_by_less_than_a_second_is_not(tmp_path: Path) -> None:
    fake = fake_of(tmp_path)
    fake.session(fake.plan.sessions[0], wall_clock_step_ns=900_000_000)
    assert measure(fake).loc[CUT, "forward_latency_median_ms"] > 0


def test_without_a_comparison_after_a_point_there_is_none(tmp_path: Path) -> None:
    fake = fake_of(tmp_path)
    fake.session(fake.plan.sessions[0], end="none")
    assert [split for split, *_ in ends_of(fake)][-1] == "body.0"
    table = measure(fake)
    row = table.loc["body.0"]
    assert_no_forward_latency(row, "the clocks were not compared after the point")
    assert row["clock_offset_before_ms"] > 0 and np.isnan(row["forward_latency_bound_ms"])
    assert np.isnan(row["clock_offset_after_ms"]) and np.isnan(row["clock_drift_ppm"])
    # What was measured before the session broke is as good as ever.
    expected = forward_ms(fake.plan, CUT)
    assert table.loc[CUT, "forward_latency_median_ms"] == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize(
    ("kept", "note"),
    [
        ((), "not compared before the point"),
        (("after",), "not compared before the point"),
        (("before",), "not compared after the point"),
        (("before", "after"), "compared 2 times, 3 are needed"),
    ],
)
def test_too_few_comparisons_are_told_in_its_place(
    tmp_path: Path, kept: tuple[str, ...], note: str
) -> None:
    fake = fake_of(tmp_path)
    source, _ = fake.session(fake.plan.sessions[0])
    lines = source.read_text().splitlines()
    source.write_text("".join(f"{line}\n" for line in lines if is_kept(json.loads(line), kept)))
    assert_no_forward_latency(measure(fake).loc[CUT], note)


def is_kept(line: dict[str, Any], kept: tuple[str, ...]) -> bool:
    """Whether a line is no comparison of clocks, or one of those to keep."""
    return line["kind"] != "clock" or line["when"] in kept


@pytest.mark.parametrize(
    ("at_s", "slew_ppm", "slewed"),
    [(5, 400, "other"), (5, 400, "source"), (250, 400, "other"), (300, 1e5, "source")],
)
def test_a_slewed_clock_shows_in_the_bound_or_there_is_no_forward_latency(
    tmp_path: Path, at_s: int, slew_ppm: float, slewed: Literal["source", "other"]
) -> None:
    """50 ms in ten minutes are 83 ppm, which a crystal may drift by."""
    plan = make(mobilenet_table(batch=8), batch=[8])
    clocks = Clocks(slew_ns=50_000_000, slew_at_ns=at_s * 10**9, slew_ppm=slew_ppm, slewed=slewed)
    fake = FakeRun(tmp_path / "run", plan, items=20, noise=0, clocks=clocks).all_sessions()
    begin_ns, end_ns = ends_of(fake)[0][1], ends_of(fake)[-1][2]
    assert 550 < (end_ns - begin_ns) / 1e9 < 700
    table = measure(fake)
    known = table["forward_latency_median_ms"].notna()
    assert (table["clock_note"].isna() == known).all()
    for split, row in table[known].drop(index="@first").iterrows():
        error = row["forward_latency_median_ms"] - forward_ms(plan, str(split))
        assert abs(error) <= row["forward_latency_bound_ms"] + 1e-4, split
    # Where a slew goes on, or none is, nothing is lost.
    assert (table["forward_latency_bound_ms"] < 0.1).sum() >= 15
    run = read(fake.path)
    split = parts(run.items, comparisons(run))
    wires = split[split["wire"].notna() & split["sends"]]
    assert len(wires) > 0.9 * split["sends"].sum()
    by_id = {point.id: expected_ms(plan, point)[1] for point in plan.points}
    truth = [by_id[point][rank] for point, rank in zip(wires["point"], wires["rank"], strict=True)]
    assert ((wires["wire"] - truth).abs() <= wires["bound_ms"] + 1e-4).all()


def test_a_crystal_that_changes_its_rate_shows_in_the_bound(tmp_path: Path) -> None:
    clocks = Clocks(warm_at_ns=14_000_000_000, warm_ppm=150, drift_ppm=0)
    fake = fake_of(tmp_path, clocks).all_sessions()
    compared = comparisons(read(fake.path))
    begin_ns, end_ns = next(times for split, *times in ends_of(fake) if split == CUT)
    assert begin_ns < clocks.warm_at_ns < end_ns
    row = measure(fake).loc[CUT]
    error_ms = abs(row["forward_latency_median_ms"] - forward_ms(fake.plan, CUT))
    assert 0.05 < error_ms <= row["forward_latency_bound_ms"]
    assert compared["bound_ms"].min() == pytest.approx(0.03, abs=1e-4)


def test_the_bound_holds_whenever_a_clock_is_slewed(tmp_path: Path) -> None:
    fake = fake_of(tmp_path)
    fake.session(fake.plan.sessions[0], points=())
    run = read(fake.path)
    held = []
    for seed in range(60):
        print("seed", seed)
        chance = random.Random(seed)
        times = list(itertools.accumulate(chance.uniform(0.2e9, 30e9) for _ in range(8)))
        clocks = Clocks(
            slew_ns=round(10 ** chance.uniform(4, 8)),
            slew_at_ns=round(chance.uniform(0, times[-1])),
            slew_ppm=10 ** chance.uniform(1, 5),
            slewed=chance.choice(("source", "other")),
        )
        frame = compared_at(clocks, times, chance).assign(**keys_of(run))
        stamps = pd.Series([round(chance.uniform(times[0], times[-1])) for _ in range(200)])
        theirs = stamps.map(lambda at_ns: clocks.of(1, at_ns))  # noqa: B023
        rows = pd.DataFrame(keys_of(run), index=stamps.index)
        compared = comparisons(dataclasses.replace(run, clocks=frame))
        found = ahead(rows, rows["rank"] + 1, theirs, compared)
        assert found["clock_note"].isna().all()
        error_ms = (found["ms"] - (theirs - stamps) / 1e6).abs()
        assert (error_ms <= found["bound_ms"] + 1e-6).all()
        held.append((found["bound_ms"] < 0.5).mean())
    # It says something: most times are in pieces without a slew beside them.
    assert np.mean(held) > 0.5


def keys_of(run: Run) -> dict[str, Any]:
    """The columns that name the only attempt of a run, at the source."""
    [row] = run.sessions.loc[run.sessions["rank"] == 0, ["session", "attempt", "rank"]].to_dict(
        "records"
    )
    return row


def compared_at(clocks: Clocks, times: list[float], chance: random.Random) -> pd.DataFrame:
    """Comparisons at these times, each by one exchange that is slower on either way."""
    exchanges = []
    for at_ns in map(round, times):
        back_ns = round(chance.uniform(20e3, 300e3))
        asked_ns = round(chance.uniform(0, back_ns))
        moments = (0, at_ns), (1, at_ns + asked_ns), (0, at_ns + back_ns)
        exchanges.append([Exchange(*(clocks.read(*moment) for moment in moments))])
    when = ["before", *["between"] * (len(times) - 2), "after"]
    return pd.DataFrame({"other": 1, "when": when, "exchanges": exchanges})


def ends_of(fake: FakeRun) -> list[tuple[str, int, int]]:
    """Each point's split, and when it began and ended at the source, in that order."""
    run = read(fake.path)
    source = run.items[run.items["rank"] == 0].groupby("point")
    times = pd.DataFrame({"begin": source["ready_ns"].min(), "end": source["done_ns"].max()})
    splits = {point.id: point.split[0] for point in run.plan.points}
    rows = times.sort_values("begin").itertuples(name=None)
    return [(splits[point], begin, end) for point, begin, end in rows]


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
