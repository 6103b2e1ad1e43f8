"""Which hosts earn their place: what the best split would lose without each of them."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.column import OBJECTIVES
from analysis.measures import marks
from analysis.tables.front import GROUP
from paretopipe_worker.plan.labels import busy, cuts_of, hosts_of

SHARED = tuple(name for name in GROUP if name != "placement")
"""What points that are compared over placements have in common."""


def worth(points: pd.DataFrame, *, uncertified: bool = False) -> list[dict[str, Any]]:
    """What each host brings, where there are more than two.

    Parameters
    ----------
    points
        The table ``points.csv``.
    uncertified
        Whether points whose link was not as asked for count.

    Returns
    -------
    For each group, host and objective: the group's columns, ``host``, ``objective``, ``best``, the
    best figure of all points, ``without``, the best of those in which the host computes nothing
    (null where there is none), and ``gain``, by which share of the latter the former is better.
    """
    counted = marks.counted(points, all_links=uncertified)
    found = []
    for key, group in counted.groupby(list(SHARED), sort=False):
        pairs = zip(group["split"], group["placement"], strict=True)
        at_work = [set(busy(cuts_of(split), hosts_of(placed))) for split, placed in pairs]
        hosts = sorted(set().union(*at_work))
        if len(hosts) < 3:
            continue
        for host in hosts:
            idle = group[[host not in each for each in at_work]]
            for objective, direction in OBJECTIVES.items():
                best, without = (_best(table[objective], direction) for table in (group, idle))
                gain = None
                if best is not None and without is not None:
                    gain = without / best - 1 if direction == "min" else best / without - 1
                about = dict(zip(SHARED, key, strict=True))
                told = {"host": host, "objective": objective, "best": best}
                found.append(about | told | {"without": without, "gain": gain})
    return found


def _best(values: pd.Series, direction: str) -> float | None:
    """The best figure; None where there is none."""
    known = values.dropna()
    if known.empty:
        return None
    return float(known.min() if direction == "min" else known.max())
