"""Intervals of a point's latency and throughput that hold for both at the same time.

An interval of each by itself misses one of the two more often than it should. These are the
t-intervals widened by the distribution of the greater of the two deviations, which depends on how
the two move together (Hothorn, Bretz and Westfall, "Simultaneous inference in general parametric
models", Biometrical J. 50, 2008, section 3: the single-step max-t).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.column import LEAST_REPLICATES, OBJECTIVES, Column
from analysis.measures.reduction import CONFIDENCE

_DRAWS = 200_000
"""Draws of the greater deviation: its 95 % quantile is then known within a third of a per cent."""

_STEPS = 25
"""Squared correlations at which the quantile is drawn; between them it is interpolated."""


def _name(objective: str, end: str) -> str:
    """Name of a column, such as ``latency_median_joint_low_ms``."""
    unit = "ms" if objective.endswith("_ms") else "images_s"
    return f"{objective.removesuffix(unit)}joint_{end}_{unit}"


def columns() -> Iterator[Column]:
    """Both ends of the interval of each objective."""
    for name in OBJECTIVES:
        for end in ("low", "high"):
            yield Column(
                _name(name, end),
                name.rpartition("_")[2] if name.endswith("_ms") else "images/s",
                f"{end.capitalize()} end of the interval of `{name}` that holds together with that "
                f"of the other objective with {CONFIDENCE:.0%} confidence.",
                f"fewer than {LEAST_REPLICATES} replicates were measured",
                front=True,
            )


COLUMNS = tuple(columns())


def joint(measured: pd.DataFrame) -> pd.DataFrame:
    """The columns :data:`COLUMNS` of every point.

    Parameters
    ----------
    measured
        One row per point and replicate that counts, with the columns of the objectives.

    Returns
    -------
    One row for each point, with the column ``point``.
    """
    rows = []
    for point, group in measured.dropna(subset=list(OBJECTIVES)).groupby("point", sort=False):
        values = group[list(OBJECTIVES)].to_numpy(dtype=np.float64)
        if len(values) >= LEAST_REPLICATES:
            low, high = ends(values)
            found = dict(zip((_name(each, "low") for each in OBJECTIVES), low, strict=True))
            found |= dict(zip((_name(each, "high") for each in OBJECTIVES), high, strict=True))
            rows.append({"point": point, **found})
    return pd.DataFrame(rows, columns=["point", *(column.name for column in COLUMNS)])


def ends(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper ends of the intervals of two means.

    Parameters
    ----------
    values
        Array of shape (replicates, 2), at least three replicates.
    """
    count = len(values)
    error = values.std(axis=0, ddof=1) / np.sqrt(count)
    half = error * _quantile(_squared_correlation(values), count - 1)
    mean = values.mean(axis=0)
    return mean - half, mean + half


def _squared_correlation(values: NDArray[np.float64]) -> float:
    """Squared correlation of two columns, less what few values show of it by chance."""
    left = values - values.mean(axis=0)
    squares = (left**2).sum(axis=0)
    if not squares.all():
        return 0.0
    found = float((left.prod(axis=1).sum()) ** 2 / squares.prod())
    # As the adjusted coefficient of determination (Ezekiel, 1930).
    adjusted = 1 - (1 - found) * (len(values) - 1) / (len(values) - 2)
    return min(max(adjusted, 0.0), 1.0)


def _quantile(squared_correlation: float, degrees: int) -> float:
    """Quantile of the greater of two deviations in standard errors."""
    grid = np.linspace(0, 1, _STEPS)
    return float(np.interp(squared_correlation, grid, _quantiles(degrees)))


@cache
def _quantiles(degrees: int) -> NDArray[np.float64]:
    """That quantile at all steps of the squared correlation."""
    draws = np.random.default_rng(0)
    first, other = draws.standard_normal((2, _DRAWS))
    spread = np.sqrt(draws.chisquare(degrees, _DRAWS) / degrees)
    found = []
    for squared in np.linspace(0, 1, _STEPS):
        second = np.sqrt(squared) * first + np.sqrt(1 - squared) * other
        greater = np.maximum(abs(first), abs(second)) / spread
        found.append(np.quantile(greater, CONFIDENCE))
    return np.array(found)
