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
    known = measured.dropna(subset=list(OBJECTIVES)).sort_values("point", kind="stable")
    count = known.groupby("point")["point"].transform("size")
    tables = [pd.DataFrame(columns=["point", *(column.name for column in COLUMNS)])]
    for replicates, same in known[count >= LEAST_REPLICATES].groupby(count):
        values = same[list(OBJECTIVES)].to_numpy(np.float64).reshape(-1, int(replicates), 2)
        found = {"point": same["point"].iloc[:: int(replicates)].to_numpy()}
        for end, limits in zip(("low", "high"), ends(values), strict=True):
            found |= {_name(name, end): limits[:, n] for n, name in enumerate(OBJECTIVES)}
        tables.append(pd.DataFrame(found))
    return pd.concat(tables[1:] or tables, ignore_index=True)


def ends(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper ends of the intervals of two means, for each of several points.

    Parameters
    ----------
    values
        Array of shape (points, replicates, 2), at least three replicates.

    Returns
    -------
    Two arrays of shape (points, 2).
    """
    count = values.shape[1]
    error = values.std(axis=1, ddof=1) / np.sqrt(count)
    half = error * _quantile(_squared_correlation(values), count - 1)[:, None]
    mean = values.mean(axis=1)
    return mean - half, mean + half


def _squared_correlation(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared correlations of two columns, less what few values show of it by chance."""
    left = values - values.mean(axis=1, keepdims=True)
    squares = (left**2).sum(axis=1)
    varied = squares.all(axis=1)
    found = left.prod(axis=2).sum(axis=1) ** 2 / np.where(varied, squares.prod(axis=1), np.inf)
    # As the adjusted coefficient of determination (Ezekiel, 1930).
    count = values.shape[1]
    adjusted: NDArray[np.float64] = 1 - (1 - found) * (count - 1) / (count - 2)
    return np.where(varied, adjusted.clip(0.0, 1.0), 0.0)


def _quantile(squared_correlation: NDArray[np.float64], degrees: int) -> NDArray[np.float64]:
    """Quantiles of the greater of two deviations in standard errors."""
    found: NDArray[np.float64] = np.interp(
        squared_correlation, np.linspace(0, 1, _STEPS), _quantiles(degrees)
    )
    return found


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
