"""Intervals of made-up replicates against truths that are known: 94 to 96 in 100 hold it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from analysis.column import OBJECTIVES
from analysis.measures.reduction import half_widths
from analysis.tables import joint

TRIALS = 4000
POINTS = 5


def replicates_of(
    count: int, *, own: float, common: float, seed: int
) -> tuple[NDArray[np.float64], float]:
    """Replicates (trials, replicates, points) of a truth, as computers scatter: by factors.

    All points of a replicate share one factor, and each has one of its own.
    """
    draws = np.random.default_rng(seed)
    shared = draws.normal(0, common, (TRIALS, count, 1))
    values = 40 * np.exp(shared + draws.normal(0, own, (TRIALS, count, POINTS)))
    return values, 40 * float(np.exp((own**2 + common**2) / 2))


@pytest.mark.parametrize(("own", "common"), [(0.02, 0.0), (0.01, 0.08), (0.15, 0.0)])
@pytest.mark.parametrize("count", [5, 10])
def test_the_interval_of_each_column_holds_as_often_as_it_says(
    count: int, own: float, common: float
) -> None:
    values, truth = replicates_of(count, own=own, common=common, seed=count)
    trial = np.repeat(np.arange(TRIALS), count)
    frame = pd.DataFrame(values.reshape(-1, POINTS)).groupby(trial)
    half = half_widths(frame[list(range(POINTS))])
    held = (abs(frame.mean() - truth) <= half).to_numpy()
    assert 0.94 <= held.mean() <= 0.96


@pytest.mark.parametrize("count", [5, 10])
def test_joint_intervals_hold_with_factors_that_both_objectives_share(count: int) -> None:
    values, truth = replicates_of(count, own=0.03, common=0.05, seed=count)
    assert len(OBJECTIVES) == 2
    held = 0
    for each in values[:, :, :2]:
        low, high = joint.ends(each)
        held += bool((low <= truth).all() and (high >= truth).all())
    assert 0.94 <= held / TRIALS <= 0.96
