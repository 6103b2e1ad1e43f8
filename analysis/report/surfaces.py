"""What the page's script draws of how far fronts move from one replicate to the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.column import OBJECTIVES
from analysis.report.embedded import groups_of, rounded
from analysis.tables.front import GROUP


def surfaces(
    points: pd.DataFrame, attained: pd.DataFrame | None, objectives: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The attainment surfaces of each front.

    Parameters
    ----------
    points
        The table ``points.csv``, as the page has it.
    attained
        The table ``attainment.csv``; None where no front has replicates enough.
    objectives
        Those of the fronts. Surfaces of others than latency and throughput are not drawn.

    Returns
    -------
    For each front that has them ``group``, ``replicates``, and the corners of each level
    (:data:`analysis.tables.attainment.LEVELS`) as pairs of latency and throughput.
    """
    if attained is None or dict(objectives) != OBJECTIVES:
        return []
    groups = groups_of(points)
    return [
        {
            "group": groups[key],
            "replicates": int(rows["replicates"].iloc[0]),
            **{
                str(level): [list(map(rounded, corner)) for corner in corners.to_numpy("f8")]
                for level, corners in rows.groupby("level", sort=False)[list(OBJECTIVES)]
            },
        }
        for key, rows in attained.groupby(list(GROUP), sort=False)
    ]
