"""Legs: when one has warmed up, which window fills a path, and which arrivals are offered."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from analysis import pareto
from analysis.run import read
from analysis.tables.points import points
from paretopipe_worker.plan import arrivals, window
from paretopipe_worker.plan.experiment import LoadSpec, PhaseSpec
from paretopipe_worker.plan.warmup import Warmup, steady
from paretopipe_worker.session.control import ControlError
from paretopipe_worker.session.legs import LegResult
from tests.helpers.fake_plan import make, tiny_table
from tests.helpers.fake_run import FakeRun

MS = 1_000_000


def items_until_steady(times_ms: list[float]) -> int | None:
    """After how many of the items a leg counts as steady."""
    times = [round(value * MS) for value in times_ms]
    return next((n for n in range(1, len(times) + 1) if steady(times[:n])), None)


def test_items_that_all_take_as_long_are_steady_at_once() -> None:
    assert items_until_steady([50.0] * 10) == 6
    assert items_until_steady([2000.0] * 10) == 6, "a slow link must cost few items"
    assert items_until_steady([1.0] * 30) == 10, "quick items are judged by more"


def test_items_that_still_get_faster_are_not_steady() -> None:
    ramp = [100 * 0.9**n for n in range(12)]
    assert items_until_steady(ramp) is None
    assert items_until_steady([*ramp, *[28.0] * 6]) == 18, "the last six are alike"
    assert items_until_steady([300.0, 200.0, 199.0]) is None
    assert items_until_steady([300.0, *[200.0, 199.0] * 4]) == 7, "the first is slow"
    for slowest in (1.12, 2240.0, 10_000.0):
        falling = [slowest * (1 - 0.12 * n / 9) for n in range(10)]
        assert items_until_steady(falling) is None, "12 % over ten items"


def test_items_that_scatter_widely_are_hardly_ever_taken_for_steady() -> None:
    noise = random.Random(20)
    legs = [[200 * max(0.1, noise.gauss(1, 0.2)) for _ in range(20)] for _ in range(500)]
    steady_legs = sum(items_until_steady(leg) is not None for leg in legs)
    assert steady_legs <= 0.06 * len(legs), f"{steady_legs} of {len(legs)}, seed 20"
    calm = [[200 * noise.gauss(1, 0.03) for _ in range(20)] for _ in range(200)]
    assert all(items_until_steady(leg) is not None for leg in calm), "seed 20"


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
        (PhaseSpec(), [50.0] * 9, 6, "steady"),
        (PhaseSpec(warmup_items=1), [50.0] * 9, 1, "never steady"),
        (PhaseSpec(warmup_items=5), [2.0**n for n in range(9)], 5, "never steady"),
        (PhaseSpec(warmup_s=0), [2000.0] * 9, 1, "never steady"),
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


@pytest.mark.parametrize("window_size", [1, 3, 8, 64])
def test_a_throughput_counts_whole_windows_wherever_a_burst_begins(window_size: int) -> None:
    burst_ns = 1000 * MS
    done = [n // window_size * burst_ns + n % window_size * MS for n in range(400)]
    for first in range(window_size):
        for count in range(6, 300):
            leg = done[first : first + count]
            rate = window.rate_per_s(leg, window_size)
            if count < 2 * window_size + 1:
                assert rate is None
            else:
                assert rate == pytest.approx(window_size, rel=1e-9)


LEGS = 10_000


def closed_loops(draw: np.random.Generator, window_size: int, legs: int) -> NDArray[np.float64]:
    """Completions of many pipelines with a window in flight, shape (items, pipelines), in seconds.

    Times of stages and of the way are drawn for each pipeline; those of stages vary by 3 % from
    item to item. What fills the window and warms it up is left out.
    """
    stage_s = draw.uniform(0.001, 0.03, (2, legs))
    way_s = draw.choice((0.0, 0.02, 0.2, 1.0), legs)
    items = 2 * window_size + max(300, 10 * window_size)
    done = np.zeros((items, legs))
    first = second = np.zeros(legs)
    for number in range(items):
        ready = done[number - window_size] if number >= window_size else 0.0
        taken_s = stage_s * draw.normal(1, 0.03, (2, legs))
        first = np.maximum(first, ready) + taken_s[0]
        second = np.maximum(second, first + way_s / 2) + taken_s[1]
        done[number] = second + way_s / 2
    return done[2 * window_size :]


def test_the_throughput_of_random_legs_has_no_bias() -> None:
    draw = np.random.default_rng(11)
    errors = []
    for size in (1, 3, 8, 64):
        done = closed_loops(draw, size, LEGS // 4)
        periods = window.whole(len(done), size)
        known_per_s = periods / (done[periods] - done[0])
        counts = draw.integers(6, 300, LEGS // 4).clip(window.needed(size))
        for leg, count, known in zip(done.T, counts, known_per_s, strict=True):
            rate = window.rate_per_s((leg[:count] * 1e9).astype(int).tolist(), size)
            assert rate is not None
            errors.append(rate / known - 1)
    assert len(errors) == LEGS
    # Over all completions instead: 0.5 % and 10 %.
    assert abs(statistics.mean(errors)) < 0.001, f"seed 11, {LEGS} legs"
    assert statistics.quantiles(map(abs, errors), n=100)[98] < 0.02, f"seed 11, {LEGS} legs"


def test_windows_of_both_kinds_have_a_row_and_a_front_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make(tiny_table(), window=[4, "auto", 3])
    path = FakeRun(tmp_path / "run", made, items=9).all_sessions().path
    table = points(read(path))
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
    assert len(arrivals.poisson("a", 100.0, replace(spec, min_s=0), 8)) == 8 + 17, "two windows"


@pytest.mark.parametrize(
    ("latency_ms", "last_ms", "growth", "beyond"),
    [(19, 0, 0, False), (21, 0, 0, True), (11, 900, 0, False), (11, 0, 0.1, True)],
    ids=["below", "twice the latency", "a late last item", "falling behind"],
)
def test_the_knee_is_twice_the_idle_latency_or_falling_behind(
    latency_ms: int, last_ms: int, growth: float, beyond: bool
) -> None:
    arrived = [n * 10 * MS for n in range(100)]
    done = [round(time * (1 + growth)) + latency_ms * MS for time in arrived]
    done[-1] += last_ms * MS
    idle_ns = 10 * MS if growth == 0 else 1000 * MS
    assert arrivals.beyond_knee(arrived, done, idle_ns) == beyond


def queued(share: float, source: random.Random, *, window: int) -> tuple[list[int], list[int]]:
    """A leg of 50 items offered to a stage of 1 ms, in a pipeline that takes six when it is idle.

    At most a window are in flight; the first of it do not count.
    """
    spec = LoadSpec(min_items=50, min_s=0)
    arrived = arrivals.poisson(str(source.random()), share * 1000, spec, window)
    done: list[int] = []
    free = 0
    for number, at in enumerate(arrived):
        sent = max(at, done[number - window]) if number >= window else at
        free = max(free, sent + 2 * MS) + MS
        done.append(free + 3 * MS)
    return arrived[window:], done[window:]


def test_a_stable_leg_is_hardly_ever_ended_and_an_overload_always_is() -> None:
    source = random.Random(8)
    for window_size, count in ((10, 1000), (16, 1000)):
        ended = {
            share: sum(
                arrivals.beyond_knee(*queued(share, source, window=window_size), 6 * MS)
                for _ in range(legs)
            )
            / legs
            for share, legs in ((0.8, count), (2.0, 100))
        }
        # Of 2,000 such legs a late last item had ended 15 % by itself.
        assert ended[0.8] < 0.05, f"window {window_size}, seed 8: {ended}"
        assert ended[2.0] == 1, f"window {window_size}, seed 8: {ended}"


def test_the_trend_of_latency_has_an_interval_that_holds_it() -> None:
    arrived = [n * 10 * MS for n in range(50)]
    noise = random.Random(4)
    done = [round(time * 1.2 + MS * noise.gauss(20, 2)) for time in arrived]
    slope, low, high = arrivals.trend(arrived, done)
    assert low < 0.2 < high and high - low < 0.1
    assert slope == pytest.approx(0.2, abs=0.05)
    assert all(math.isnan(value) for value in arrivals.trend(arrived[:5], done[:5]))


REPORT = {"leg": 4, "busy_ns": 5 * MS, "message_bytes": 700, "disturbed": []}


def test_another_rank_reports_how_busy_it_was_and_what_disturbed_it() -> None:
    result = LegResult("throughput", PhaseSpec(), leg=4, window=3, stage_s=(0.001,))
    result.hear(REPORT, "rank 1")
    assert (result.stage_s, result.disturbed) == ((0.001, 0.005), False)
    assert result.message_bytes == (700,)
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
        {"message_bytes": -1},
        {"message_bytes": 1.5},
        {"message_bytes": None},
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
