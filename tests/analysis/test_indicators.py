"""Hypervolume, epsilon and attainment surfaces: against slow twins, and against known truths."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from analysis.column import OBJECTIVES
from analysis.pareto import main
from analysis.tables import indicators
from analysis.tables.attainment import LEVELS, attainment, surfaces
from analysis.tables.box import Box, half_width
from tests.helpers.fake_plan import make, tiny_table
from tests.helpers.fake_run import FakeRun
from tests.helpers.truths import drawn_replicates, drawn_truth

LATENCY, THROUGHPUT = OBJECTIVES
FIGURES = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=2, max_size=6)


def box_of(values: list[tuple[int, int]]) -> tuple[Box, NDArray[np.float64]]:
    """The box of some points, and the points."""
    array = np.array([(0, 10), (10, 0), *values], dtype=np.float64)
    return Box.around(array, OBJECTIVES), array


def cells(values: NDArray[np.float64]) -> float:
    """Share of the box of 10 x 10 cells that points dominate, cell by cell."""
    held = [
        any(latency <= column and rate >= row + 1 for latency, rate in values)
        for column, row in itertools.product(range(10), repeat=2)
    ]
    return sum(held) / 100


@settings(deadline=None)
@given(FIGURES)
def test_the_hypervolume_is_the_share_of_cells_that_are_dominated(
    values: list[tuple[int, int]],
) -> None:
    box, _ = box_of(values)
    points = np.array(values, dtype=np.float64)
    assert box.hypervolume(points) == pytest.approx(cells(points))


@settings(deadline=None)
@given(FIGURES, FIGURES)
def test_epsilon_is_the_least_step_that_meets_the_other_front(
    values: list[tuple[int, int]], others: list[tuple[int, int]]
) -> None:
    box, _ = box_of([*values, *others])
    here, there = (np.array(each, dtype=np.float64) for each in (values, others))
    step = box.epsilon(here, there)
    # Both objectives span 10 units.
    bettered = here + 10 * step * np.array([-1, 1])
    assert all(_met(bettered, other, 1e-9) for other in there)
    assert not all(_met(bettered, other, -1e-6) for other in there)


def _met(points: NDArray[np.float64], other: NDArray[np.float64], slack: float) -> bool:
    return any(p[0] <= other[0] + slack and p[1] >= other[1] - slack for p in points)


@settings(deadline=None)
@given(st.lists(FIGURES.map(lambda each: each[:2]), min_size=3, max_size=5))
def test_attainment_surfaces_are_those_of_counting_replicates(
    replicates: list[list[tuple[int, int]]],
) -> None:
    array = np.array(replicates, dtype=np.float64)
    count = len(array)
    found = dict(zip(LEVELS, surfaces(array, OBJECTIVES), strict=True))
    for place in itertools.product(range(11), repeat=2):
        attained = sum(_met(each, np.array(place), 0) for each in array)
        for level, least in (("best", 1), ("median", -(-count // 2)), ("worst", count)):
            assert _met(found[level], np.array(place), 0) == (attained >= least), (level, place)


@pytest.mark.parametrize("count", [3, 5, 10])
def test_intervals_of_the_hypervolume_hold_as_often_as_they_say(count: int) -> None:
    draws = np.random.default_rng(count)
    common = own = 0.03
    held, trials = 0, 4000
    for _ in range(trials):
        truth = drawn_truth(draws, 12)
        values = drawn_replicates(draws, truth, count, own, common=common)
        means = values.mean(axis=0)
        box = Box.around(means, OBJECTIVES)
        half = half_width(box.hypervolumes(values))
        assert half is not None
        expected = box.hypervolume(truth * np.exp((own**2 + common**2) / 2))
        held += abs(box.hypervolume(means) - expected) <= half
    assert 0.94 <= held / trials <= 0.96


@pytest.mark.usefixtures("undrawn")
def test_a_run_of_three_replicates_has_all_indicators_and_says_the_reference(
    tmp_path: Path,
) -> None:
    plan = make(tiny_table(), replicates=3)
    run = FakeRun(tmp_path / "run", plan, items=8, noise=0.1).all_sessions().path
    assert main([str(run), "--json"]) == 0
    table = pd.read_csv(run / "indicators.csv")
    assert list(table.columns) == [column.name for column in indicators.COLUMNS]
    [row] = table.to_dict("records")
    points = pd.read_csv(run / "points.csv")
    worst = {LATENCY: points[LATENCY].max(), THROUGHPUT: points[THROUGHPUT].min()}
    assert json.loads(row["reference"]) == pytest.approx(worst, rel=1e-6)
    assert row["replicates"] == 3 and pd.isna(row["note"])
    assert row["hypervolume_low"] < row["hypervolume"] < row["hypervolume_high"]
    assert row["epsilon_low"] < row["epsilon"] < row["epsilon_high"]
    corners = pd.read_csv(run / "attainment.csv")
    assert list(dict.fromkeys(corners["level"])) == list(LEVELS)
    best, worst_ = (corners[corners["level"] == level][LATENCY].min() for level in LEVELS[::2])
    assert best < worst_


@pytest.mark.usefixtures("undrawn")
def test_without_three_replicates_there_is_no_interval_and_no_surface(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run", make(tiny_table(), replicates=2), items=8).all_sessions().path
    assert main([str(run), "--json"]) == 0
    [row] = pd.read_csv(run / "indicators.csv").to_dict("records")
    assert row["note"] == "no interval: fewer than 3 replicates measured all of its points"
    assert 0 < row["hypervolume"] <= 1
    assert pd.isna([row["hypervolume_low"], row["epsilon"], row["epsilon_high"]]).all()
    assert not (run / "attainment.csv").exists()


def test_points_that_do_not_differ_have_no_box() -> None:
    group = dict.fromkeys(("model", "placement", "link", "backend", "dtype", "runtimes"), "x")
    group |= dict.fromkeys(("batch", "window", "wire", "busy", "sources"), 1)
    figures = {"point": ["a", "b"], LATENCY: [1.0, 1.0], THROUGHPUT: [5.0, 4.0]}
    points = pd.DataFrame(figures).assign(link_certified=True, on_front=[True, False], **group)
    measured = points.assign(replicate=0, status="ok")
    [row] = indicators.indicators(points, measured).to_dict("records")
    assert row["note"] == "no two points differ in latency_median_ms"
    assert pd.isna(row["hypervolume"])
    assert attainment(points, measured).empty
