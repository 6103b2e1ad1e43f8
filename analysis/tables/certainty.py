"""How sure a front is: the probability that a point is on it, and replicates that would tell.

Replicates are processes started anew, in another order, so they are what varies from one
measurement to the next. All points of a replicate share what its processes and its hour had in
common, which moves them together and so does not change which of them are better. That common part
is taken out before the spread of a point is computed; for the interval of a figure it is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import moocore  # type: ignore[import-untyped]
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from analysis.column import LEAST_REPLICATES, OBJECTIVES, Column
from analysis.measures import marks
from analysis.tables.front import group_of

SURE = 0.9
"""Probability from which a point counts as on the front, or, by its complement, as off it."""

MOST_FURTHER = 100
"""Most further replicates that are proposed."""

_DRAWS = 2000
"""Draws of all true values of a front: a probability of 0.9 is then known within 0.013 (95 %)."""

_NUMBERS_AT_ONCE = 200_000
"""Most numbers that one call draws, which bounds the memory of large groups."""

_NULL = (
    f"it was not measured, its link was not as asked for, or fewer than {LEAST_REPLICATES} "
    "replicates were measured"
)

COLUMNS = (
    Column(
        "front_probability",
        "",
        "Probability that the point is on the front of its group, by the spread of its replicates "
        "and of all others of the group; the common part of a replicate's points is taken out.",
        _NULL,
        front=True,
    ),
    Column(
        "further_replicates",
        "",
        "Replicates beyond those measured with which it would be told whether the point is on the "
        f"front, with a probability of at least {SURE:.0%} or at most {1 - SURE:.0%}, if the means "
        f"stay as they are; 0 where it is told, {MOST_FURTHER} where that many are not enough.",
        _NULL,
        front=True,
    ),
)


def without_interval(points: pd.DataFrame) -> str | None:
    """What a reader must know first where replicates are too few to say how sure a figure is.

    Parameters
    ----------
    points
        Rows of ``points.csv``.
    """
    ok = points[points["status"] == "ok"]
    few = int((ok["replicates"] < LEAST_REPLICATES).sum())
    if not few:
        return None
    which = "" if few == len(ok) else f" of {few} of {len(ok)} points"
    return (
        f"no interval is shown{which}: fewer than {LEAST_REPLICATES} replicates were measured, so "
        "nobody can tell how sure the figures are"
    )


def certainty(
    points: pd.DataFrame,
    measured: pd.DataFrame,
    *,
    uncertified: bool = False,
    objectives: Mapping[str, str] = OBJECTIVES,
    seed: int = 0,
) -> pd.DataFrame:
    """Add the columns :data:`COLUMNS` to points.

    Parameters
    ----------
    points
        One row per point, see :func:`analysis.tables.front.mark`.
    measured
        One row per point and replicate, with the columns ``point``, ``replicate``, ``status`` and
        those of the objectives.
    uncertified
        Whether points whose link was not as asked for count.
    objectives
        Columns, and whether less (``min``) or more (``max``) of each is better.
    seed
        Of the draws.
    """
    names = list(objectives)
    found = pd.DataFrame(index=points.index).assign(
        front_probability=np.nan, further_replicates=pd.Series(pd.NA, points.index, "Int64")
    )
    counted = marks.counted(points, all_links=uncertified)
    counted = counted.dropna(subset=names)
    complete = measured[measured["status"] == "ok"]
    for _, group in counted.groupby(group_of(objectives), sort=False):
        values = by_replicate(complete, group, names)
        enough = np.isfinite(values).all(axis=2).sum(axis=0) >= LEAST_REPLICATES
        if not enough.any():
            continue
        own, directions = group.index[enough], list(objectives.values())
        sure = probabilities(values, directions, seed=seed)
        found.loc[own, "front_probability"] = sure[enough]
        needed = further(values, directions, sure, seed=seed)
        found.loc[own, "further_replicates"] = needed[enough]
    return pd.concat([points, found], axis=1)


def probabilities(
    values: ArrayLike, directions: Sequence[str], *, seed: int = 0
) -> NDArray[np.float64]:
    """Probability of each point that no other point dominates it.

    The true value of a point is drawn around its mean, by Student's distribution with the spread
    of its replicates; a point's probability is the share of draws in which it is on the front. With
    a flat prior that is the posterior of normal means of unknown variance (Gelman et al., "Bayesian
    Data Analysis", 3rd edition, section 3.2). Positive values are taken by their logarithms, since
    what disturbs a computer multiplies its times.

    Parameters
    ----------
    values
        Array of shape (replicates, points, objectives), NaN where a replicate is missing.
    directions
        ``"min"`` or ``"max"`` for each objective.
    seed
        Of the draws.

    Returns
    -------
    Array of shape (points,).
    """
    return _shares(*_spread(np.asarray(values, dtype=np.float64)), directions, seed)


def further(
    values: ArrayLike, directions: Sequence[str], sure: NDArray[np.float64], *, seed: int = 0
) -> NDArray[np.int64]:
    """Fewest further replicates with which each point is told to be on the front, or off it.

    They are tried in steps of about a half, so the number is not exact.

    Parameters
    ----------
    values, directions, seed
        As :func:`probabilities` takes them.
    sure
        What it returns for them.

    Returns
    -------
    Array of shape (points,), 0 where it is told already, :data:`MOST_FURTHER` where that many are
    not enough.
    """
    array = np.asarray(values, dtype=np.float64)
    needed = np.full(array.shape[1], MOST_FURTHER)
    # What is on the front in no draw is told, and whatever it dominates, the front does, too.
    ever = sure > 0
    for step in (0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70):
        if step:
            means, errors, degrees = (each[ever] for each in _spread(array, step))
            sure = np.zeros(len(ever))
            sure[ever] = _shares(means, errors, degrees, directions, seed)
        told = (needed == MOST_FURTHER) & ((sure >= SURE) | (sure <= 1 - SURE))
        needed[told] = step
        if (needed < MOST_FURTHER).all():
            break
    return needed


_Array: TypeAlias = NDArray[np.float64]


def _shares(
    means: _Array, errors: _Array, degrees: _Array, directions: Sequence[str], seed: int
) -> _Array:
    """The share of draws of all true values in which each point is on the front."""
    draws = np.random.default_rng(seed)
    maximise = [direction == "max" for direction in directions]
    on_front = np.zeros(means.shape[0])
    # A call for many draws takes a fifth of the time of as many calls.
    at_once = max(1, _NUMBERS_AT_ONCE // means.size)
    for begun in range(0, _DRAWS, at_once):
        count = min(at_once, _DRAWS - begun)
        for drawn in means + errors * draws.standard_t(degrees, (count, *degrees.shape)):
            on_front += moocore.is_nondominated(drawn, maximise=maximise, keep_weakly=True)
    share: _Array = on_front / _DRAWS
    return share


def by_replicate(complete: pd.DataFrame, group: pd.DataFrame, names: Sequence[str]) -> _Array:
    """Values of points by replicate, as an array (replicates, points, objectives)."""
    points = list(group["point"])
    told = ["point", "replicate", *(name for name in names if name in complete)]
    own = complete.loc[complete["point"].isin(points), told]
    # What a plan tells of a point, as its bytes, is the same in all replicates.
    planned = [name for name in names if name not in own]
    own = own.merge(group[["point", *planned]], on="point")
    tables = [
        own.pivot(index="replicate", columns="point", values=name).reindex(columns=points)
        for name in names
    ]
    return np.stack([table.to_numpy(dtype=np.float64, na_value=np.nan) for table in tables], axis=2)


def _spread(values: _Array, further: int = 0) -> tuple[_Array, _Array, _Array]:
    """Means, their standard errors and degrees of freedom, each of shape (points, objectives).

    Replicates that are supposed to be added, `further`, change neither means nor spreads.
    """
    # A scale of ratios where there is no zero, objective by objective.
    positive = (np.nan_to_num(values, nan=1.0) > 0).all(axis=(0, 1))
    scaled = np.where(positive, np.log(np.where(values > 0, values, 1.0)), values)
    scaled = np.where(np.isnan(values), np.nan, scaled)
    count = np.isfinite(scaled).sum(axis=0)
    means = np.nanmean(scaled, axis=0)
    left = scaled - means
    if values.shape[1] > 1:
        # What all points of a replicate have in common.
        left = left - np.nanmean(left, axis=1, keepdims=True)
        # That mean takes a share of each point's own spread with it.
        left = left / np.sqrt(1 - 1 / values.shape[1])
    enough = count >= LEAST_REPLICATES
    squares = np.where(enough, np.nansum(left**2, axis=0) / np.maximum(count - 1, 1), np.nan)
    variances = np.where(enough, squares, np.nanmean(squares, axis=0))
    errors = np.sqrt(variances / (count + further))
    return means, errors, np.maximum(count - 1, LEAST_REPLICATES - 1.0) + further
