"""The table ``attainment.csv``: which figures some, half and all replicates of a front attained.

A replicate attains a place when one of its points is at least as good there in every objective. The
surfaces between what so many replicates attain and what fewer do show how far a front moves from
one replicate to the next (Fonseca, Guerreiro, Lopez-Ibanez and Paquete, "On the computation of the
empirical attainment function", EMO 2011).
"""

from __future__ import annotations

from collections.abc import Mapping

import moocore  # type: ignore[import-untyped]
import numpy as np
import pandas as pd

from analysis.column import CHOICES, LEAST_REPLICATES, OBJECTIVES, Column
from analysis.tables.box import Array
from analysis.tables.front import GROUP
from analysis.tables.indicators import compared

LEVELS = ("best", "median", "worst")
"""What one replicate attained, what at least half of them did, and what all did."""

COLUMNS = (
    *(Column(name, "", "As in points.csv.", "points that differ in it compete") for name in GROUP),
    Column("level", "", "`best`: one replicate attained it; `median`: half did; `worst`: all."),
    Column("replicates", "", "Replicates that measured all points of the front."),
    *(
        Column(name, "", "Corner of the surface, as in points.csv.", "it is no objective")
        for name in CHOICES.values()
    ),
)


def attainment(
    points: pd.DataFrame,
    measured: pd.DataFrame,
    objectives: Mapping[str, str] = OBJECTIVES,
    *,
    uncertified: bool = False,
) -> pd.DataFrame:
    """The attainment surfaces of every front.

    Parameters
    ----------
    points, measured, objectives, uncertified
        As :func:`analysis.tables.indicators.indicators` takes them.

    Returns
    -------
    The columns :data:`COLUMNS`, one row for each corner of a surface, in the order of the first
    objective. Fronts of fewer than three replicates, and of other than two or three objectives,
    have none.
    """
    parts = []
    for group in compared(points, measured, objectives, uncertified=uncertified):
        count = len(group.replicates)
        if count < LEAST_REPLICATES or len(objectives) not in (2, 3):
            continue
        for level, corners in zip(LEVELS, surfaces(group.replicates, objectives), strict=True):
            told = group.about | {"level": level, "replicates": count}
            parts.append(pd.DataFrame(corners, columns=list(objectives)).assign(**told))
    names = [column.name for column in COLUMNS]
    return pd.concat(parts).reindex(columns=names) if parts else pd.DataFrame(columns=names)


def surfaces(replicates: Array, objectives: Mapping[str, str]) -> list[Array]:
    """The corners of the surfaces :data:`LEVELS`.

    Parameters
    ----------
    replicates
        Array (replicates, n, m), m of 2 or 3.
    objectives
        Columns, and whether less or more of each is better: m of them.

    Returns
    -------
    For each level an array (corners, m), sorted by the first objective.
    """
    count, points, width = replicates.shape
    signs = np.array([1.0 if way == "min" else -1.0 for way in objectives.values()])
    sets = np.repeat(np.arange(count), points)
    shares = (0.0, 50.0, 100.0)  # the least share above zero is one replicate
    found = moocore.eaf(replicates.reshape(-1, width) * signs, sets, percentiles=shares)
    parts = [found[found[:, -1] == share, :-1] * signs for share in shares]
    return [part[np.lexsort(part.T[::-1])] for part in parts]
