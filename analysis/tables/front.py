"""Pareto fronts: which points no other point beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import moocore  # type: ignore[import-untyped]
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from analysis.column import CHOICES, OBJECTIVES
from analysis.measures import marks

CIRCUMSTANCES = ("runtimes", "wire", "busy", "sources")
"""What most experiments do not vary."""

GROUP = (
    *("model", "placement", "link", "backend", "batch", "window", "dtype"),
    *CIRCUMSTANCES,
)
"""Columns that all points of a front share: they differ only in where the model is split."""


_GREATEST = np.finfo(np.float64).max


def is_nondominated(values: ArrayLike, directions: Sequence[str]) -> NDArray[np.bool_]:
    """Tell which points are on the Pareto front.

    A point is on the front when no other is at least as good in every objective and better in
    one. Equal points do not dominate each other: all of them stay. A point with a NaN is never on
    the front and dominates nothing.

    moocore finds it (Kung, Luccio and Preparata, "On finding the maxima of a set of vectors",
    J. ACM 22, 1975, for two and three objectives: O(n log n)).

    Parameters
    ----------
    values
        Array of shape (n, m): n points, m objectives.
    directions
        ``"min"`` or ``"max"`` for each objective, length m.

    Returns
    -------
    Array of bool, shape (n,).

    Raises
    ------
    ValueError
        When the shape and the directions do not fit, or a direction has another name.

    Examples
    --------
    >>> is_nondominated([[10, 5], [20, 9], [20, 5], [10, 5]], ["min", "max"]).tolist()
    [True, True, False, True]
    """
    points = np.asarray(values, dtype=np.float64)
    unknown = [name for name in directions if name not in ("min", "max")]
    if unknown:
        raise ValueError(f"directions: allowed are 'min' and 'max'; got {unknown[0]!r}")
    if not directions or points.ndim != 2 or points.shape[1] != len(directions):
        raise ValueError(
            f"values: must have shape (n, {len(directions)}), one column for each of at least one "
            f"direction; got {points.shape}"
        )
    maximise = [name == "max" for name in directions]
    if np.isfinite(points).all():
        found: NDArray[np.bool_] = moocore.is_nondominated(
            points, maximise=maximise, keep_weakly=True
        )
        return found
    whole = ~np.isnan(points).any(axis=1)
    front = np.zeros(len(points), dtype=np.bool_)
    # With four objectives moocore takes infinity for a bound of its own.
    finite = np.clip(points[whole], -_GREATEST, _GREATEST)
    front[whole] = is_nondominated(finite, directions)
    return front


def group_of(objectives: Mapping[str, str]) -> list[str]:
    """The columns that all points of a front share.

    Points that compute or send other numbers have fronts of their own, because what that does to
    the output would go unseen. Where the output's error is an objective, they compete.
    """
    return [name for name in GROUP if name not in _ROUNDING or ERROR not in objectives]


ERROR = CHOICES["error"]
_ROUNDING = ("dtype", "runtimes", "wire")


def mark(
    points: pd.DataFrame,
    *,
    uncertified: bool = False,
    objectives: Mapping[str, str] = OBJECTIVES,
) -> pd.DataFrame:
    """Add the column ``on_front``; each group (:func:`group_of`) has a front of its own.

    Parameters
    ----------
    points
        One row per point, with the columns of :data:`GROUP` and those of the objectives; rows that
        lack a figure are on no front.
    uncertified
        Whether points whose link was not as asked for count. If not, they are on no front and beat
        no other point.
    objectives
        Columns, and whether less (``min``) or more (``max``) of each is better.
    """
    on_front = pd.Series(False, index=points.index)
    counted = marks.counted(points, all_links=uncertified)
    for _, group in counted.groupby(group_of(objectives), sort=False):
        values = group[list(objectives)].to_numpy(dtype=np.float64, na_value=np.nan)
        on_front[group.index] = is_nondominated(values, list(objectives.values()))
    return points.assign(on_front=on_front)


def fronts(points: pd.DataFrame, objectives: Mapping[str, str] = OBJECTIVES) -> pd.DataFrame:
    """The table ``front.csv``: the points on a front by group, best first."""
    front = points[points["on_front"]]
    # Groups keep the order of the table, which is that of the experiment.
    group = group_of(objectives)
    order = pd.DataFrame({name: pd.factorize(front[name])[0] for name in group}, index=front.index)
    order = order.assign(**{name: front[name] for name in (*objectives, "position")})
    ascending = [objectives.get(str(name)) != "max" for name in order.columns]
    ranked = order.sort_values(list(order.columns), ascending=ascending, kind="stable")
    return front.loc[ranked.index].reset_index(drop=True)
