"""Which split to take: the best within limits, or the knee of the front."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.answers.limits import Limit
from analysis.column import CHOICES, OBJECTIVES
from analysis.measures import marks
from analysis.tables.front import group_of, is_nondominated
from paretopipe_worker.plan.labels import cuts_of, everything_on, hosts_of

_NAMES = {column: name for name, column in CHOICES.items()}


def choices(
    points: pd.DataFrame,
    limits: Sequence[Limit],
    objectives: Mapping[str, str] = OBJECTIVES,
    *,
    uncertified: bool = False,
) -> list[dict[str, Any]]:
    """What to take in each group of points that are compared.

    Parameters
    ----------
    points
        The table ``points.csv``.
    limits
        What a point must keep.
    objectives
        What is weighed, see :func:`analysis.tables.front.mark`.
    uncertified
        Whether points whose link was not as asked for may be taken.

    Returns
    -------
    For each group its columns, ``point`` (null where there is none), ``split`` and ``why``.
    """
    counted = marks.counted(points, all_links=uncertified)
    # What is limited is given; what is left is to be as good as it can be.
    limited = {limit.column for limit in limits}
    weighed = {name: way for name, way in objectives.items() if name not in limited}
    weighed = weighed or dict(objectives)
    found = []
    shared = group_of(objectives)
    for key, group in counted.groupby(shared, sort=False):
        about = dict(zip(shared, key, strict=True))
        found.append(about | _choice(group.dropna(subset=list(weighed)), limits, weighed))
    return found


def knee(values: pd.DataFrame, objectives: Mapping[str, str]) -> Any:
    """Index of the point that is furthest from the plane through the front's best points.

    Each objective is scaled to 0 at its best and 1 at its worst value on the front; the point
    whose scaled objectives have the least sum is the furthest (Das, "On characterizing the 'knee'
    of the Pareto curve based on Normal-Boundary Intersection", Structural Optimization 18, 1999).

    Parameters
    ----------
    values
        Points of a front, at least one.
    objectives
        Columns, and whether less or more of each is better.
    """
    front = values[list(objectives)].to_numpy(dtype=np.float64)
    return values.index[furthest(front, list(objectives.values()))]


def furthest(front: NDArray[np.float64], directions: Sequence[str]) -> int:
    """The row of a front, an array (n, m), that is its :func:`knee`."""
    costs = front * [1.0 if way == "min" else -1.0 for way in directions]
    extent = np.ptp(costs, axis=0)
    scaled = (costs - costs.min(axis=0)) / np.where(extent > 0, extent, 1.0)
    return int(np.argmin(scaled.sum(axis=1)))


def _choice(
    group: pd.DataFrame, limits: Sequence[Limit], weighed: Mapping[str, str]
) -> dict[str, Any]:
    """The choice in one group."""
    if group.empty:
        return {"point": None, "split": None, "why": "no point has figures of all objectives"}
    kept = group
    for limit in limits:
        kept = kept[limit.met(kept)]
    if kept.empty:
        return {"point": None, "split": None, "why": _unmet(group, limits)}
    best = kept[is_nondominated(kept[list(weighed)], list(weighed.values()))]
    chosen = kept.loc[knee(best, weighed)]
    names = listed(_NAMES[column] for column in weighed)
    how = f"knee of the front of {names}"
    # Splits that are equal in everything are on one spot of the front.
    if len(best.drop_duplicates(list(weighed))) == 1:
        how = f"best {names}" if len(weighed) == 1 else f"best split in {names} alike"
    within = f" with {' and '.join(limit.text for limit in limits)}" if limits else ""
    split = str(chosen["split"])
    named = everything_on(cuts_of(split), hosts_of(str(chosen["placement"]))) or split
    return {"point": str(chosen["point"]), "split": named, "why": how + within}


def listed(words: Iterable[str]) -> str:
    """Words as a sentence lists them.

    >>> listed(["latency", "throughput", "energy"])
    'latency, throughput and energy'
    """
    *before, last = words
    return f"{', '.join(before)} and {last}" if before else last


def _unmet(group: pd.DataFrame, limits: Sequence[Limit]) -> str:
    """Which limits cannot be met, and by how much; or that they cannot be met together."""
    said = []
    for limit in limits:
        values = group[limit.column].dropna()
        if values.empty:
            said.append(f"{limit.text}: nothing is known of it")
            continue
        at = int(values.argmax() if limit.at_least else values.argmin())
        best = float(values.iloc[at])
        if (beyond := limit.excess(best)) > 0:
            where = group["split"][values.index].iloc[at]
            said.append(
                f"{limit.text} cannot be met: the best, {where}, has {best:.3g}, "
                f"{100 * beyond:.0f} % beyond"
            )
    return "; ".join(said) or (
        f"{' and '.join(limit.text for limit in limits)} can each be met, but by no split together"
    )
