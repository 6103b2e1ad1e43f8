"""When a leg has warmed up, how large a window fills a path, and what arrivals are offered."""

from __future__ import annotations

import itertools
import random
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import pareto
from analysis.load import load
from analysis.points import points
from paretopipe_worker import arrivals, window
from paretopipe_worker.control import ControlError
from paretopipe_worker.drive import LegResult
from paretopipe_worker.spec import LoadSpec, PhaseSpec
from paretopipe_worker.warmup import Warmup, steady
from tests.fake_run import FakeRun, make, tiny_table

MS = 1_000_000


def items_until_steady(times_ms: list[float]) -> int | None:
    """After how many of the items a leg counts as steady."""
    times = [round(value * MS) for value in times_ms]
    return next((n for n in range(1, len(times) + 1) if steady(times[:n])), None)


def test_items_that_all_take_as_long_are_steady_at_once() -> None:
    assert items_until_steady([50.0] * 10) == 3
    assert items_until_steady([2000.0] * 10) == 3, "a slow link must cost few items"
    assert items_until_steady([1.0] * 30) == 10, "quick items are judged by more"


def test_items_that_still_get_faster_are_not_steady() -> None:
    ramp = [100 * 0.9**n for n in range(12)]
    assert items_until_steady(ramp) is None
    assert items_until_steady([*ramp, *[28.0] * 4]) == 15
    assert items_until_steady([300.0, 50.0, 50.0, 50.0]) == 3, "the median of three is steady"


def test_one_interrupted_item_does_not_make_a_leg_unsteady() -> None:
    noise = random.Random(1)
    times = [10 * noise.gauss(1, 0.01) for _ in range(10)]
    times[4] = 80.0
    assert steady([round(value * MS) for value in times])
    deviation = statistics.stdev(times) / statistics.mean(times)
    assert deviation > 0.5, "the coefficient of variation itself would have said no"


def test_noise_beyond_the_band_is_not_steady() -> None:
    noise = random.Random(2)
    times = [round(10 * MS * noise.uniform(0.7, 1.3)) for _ in range(10)]
    assert not steady(times)


@pytest.mark.parametrize(
    ("spec", "times_ms", "items", "ended_by"),
    [
        (PhaseSpec(), [50.0] * 9, 3, "steady"),
        (PhaseSpec(warmup_items=1), [50.0] * 9, 1, "maximum"),
        (PhaseSpec(warmup_items=5), [2.0**n for n in range(9)], 5, "maximum"),
        (PhaseSpec(warmup_s=0), [2000.0] * 9, 1, "maximum"),
    ],
    ids=["steady", "one", "count", "time"],
)
def test_a_warm_up_ends_when_steady_or_at_its_bounds(
    spec: PhaseSpec, times_ms: list[float], items: int, ended_by: str
) -> None:
    for filling in (0, 3):
        warming = Warmup(spec, filling)
        unlike = [(9.0 + 30 * n) for n in range(filling)]
        taken = 0
        for value in [*unlike, *times_ms]:
            warming.add(round(value * MS))
            taken += 1
            if warming.ended_by:
                break
        assert warming.ended_by == ended_by
        # What fills the window is not judged, but takes time.
        assert taken == items + (filling if spec.warmup_s else 0)


@pytest.mark.parametrize(
    ("latency_s", "busiest_s", "wanted"),
    [(0.1, 0.01, 11), (0.1, 0.1, 3), (0.105, 0.05, 4), (10, 0.001, 64), (1, 0, 64)],
)
def test_a_window_fills_the_path(latency_s: float, busiest_s: float, wanted: int) -> None:
    assert window.filling(latency_s, busiest_s) == wanted
    if 3 < wanted < 64:
        # Throughput is bounded by the busiest part, no more by the window.
        assert wanted / latency_s >= 1 / busiest_s


def test_windows_of_both_kinds_have_a_row_and_a_front_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make(tiny_table(), window=[4, "auto", 3])
    path = FakeRun(tmp_path / "run", made, items=6).all_sessions().path
    table = points(load(path))
    # As listed in the experiment.
    assert list(dict.fromkeys(table["window"])) == [4, "auto", 3]
    assert table.groupby("window", sort=False)["on_front"].any().all()
    assert pareto.main([str(path)]) == 0
    said = capsys.readouterr().out
    assert "window auto" in said and "window 3" in said
    assert set(pd.read_csv(path / "points.csv")["window"]) == {"3", "4", "auto"}


SPEC = LoadSpec(min_items=20_000, min_s=0)


def test_arrivals_are_a_poisson_process_of_the_rate() -> None:
    times = arrivals.poisson("seed 3", 100.0, SPEC, 0)
    gaps = [after - before for before, after in itertools.pairwise([0, *times])]
    assert statistics.mean(gaps) == pytest.approx(10 * MS, rel=0.03)
    # Exponential: deviation and mean are alike, and 1/e of the gaps are longer than the mean.
    assert statistics.stdev(gaps) == pytest.approx(10 * MS, rel=0.05)
    assert sum(gap > 10 * MS for gap in gaps) / len(gaps) == pytest.approx(0.368, abs=0.02)


def test_arrivals_are_the_same_for_a_seed_and_reach_count_and_time() -> None:
    spec = replace(SPEC, min_items=10, min_s=2)
    times = arrivals.poisson("a", 100.0, spec, 3)
    assert times == arrivals.poisson("a", 100.0, spec, 3) != arrivals.poisson("b", 100.0, spec, 3)
    assert times[-2] - times[3] < 2e9 <= times[-1] - times[3]
    assert len(arrivals.poisson("a", 100.0, replace(spec, min_s=0), 3)) == 13


@pytest.mark.parametrize(
    ("late_ms", "median_ms", "beyond"),
    [(0, 19, False), (0, 21, True), (900, 11, True), (30, 11, False)],
    ids=["below", "twice the latency", "falling behind", "a late last item"],
)
def test_the_knee_is_twice_the_idle_latency_or_falling_behind(
    late_ms: int, median_ms: int, beyond: bool
) -> None:
    arrived = [n * 10 * MS for n in range(100)]
    done = [time + 10 * MS for time in arrived]
    done[-1] += late_ms * MS
    assert arrivals.beyond_knee(arrived, done, median_ms * MS, 10 * MS) == beyond


REPORT = {"leg": 4, "busy_ns": 5 * MS, "disturbed": []}


def test_another_rank_reports_how_busy_it_was_and_what_disturbed_it() -> None:
    result = LegResult("throughput", PhaseSpec(), leg=4, window=3, stage_s=(0.001,))
    result.hear(REPORT, "rank 1")
    assert (result.stage_s, result.disturbed) == ((0.001, 0.005), False)
    result.hear(REPORT | {"disturbed": ["hot"]}, "rank 2")
    result.hear(REPORT, "rank 3")
    assert result.disturbed


@pytest.mark.parametrize(
    "change",
    [
        {"leg": 3},
        {"leg": None},
        {"busy_ns": -1},
        {"busy_ns": 1.5},
        {"busy_ns": True},
        {"busy_ns": 1 << 62},
        {"disturbed": "hot"},
        {"disturbed": [1]},
    ],
    ids=str,
)
def test_a_report_that_makes_no_sense_names_its_rank(change: dict[str, Any]) -> None:
    result = LegResult("throughput", PhaseSpec(), leg=4, window=3)
    with pytest.raises(ControlError, match=r"rank 1: sent .* as its report of leg 4"):
        result.hear(REPORT | change, "rank 1")
    assert (result.stage_s, result.disturbed) == ((), False)
