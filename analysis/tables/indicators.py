"""The table ``indicators.csv``: how good each front is as a whole, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.column import LEAST_REPLICATES, OBJECTIVES, Column
from analysis.measures import marks
from analysis.measures.reduction import CONFIDENCE
from analysis.tables.box import Array, Box, half_width
from analysis.tables.certainty import by_replicate
from analysis.tables.front import GROUP, group_of

_FEW = f"fewer than {LEAST_REPLICATES} replicates measured all of its points"
_FLAT = "its points do not differ in one of the objectives"

COLUMNS = (
    *(Column(name, "", "As in points.csv.", "points that differ in it compete") for name in GROUP),
    Column("objectives", "", "What the front weighs, and which way is better."),
    Column("points", "", "Points that are compared."),
    Column("front_points", "", "Those of them that are on the front of the means."),
    Column("replicates", "", "Replicates that measured all of these points."),
    Column("ideal", "", "The best value of each objective among the points, as JSON."),
    Column(
        "reference",
        "",
        "The worst value of each among them: the reference point of the hypervolume, as JSON.",
    ),
    Column(
        "hypervolume",
        "",
        "What the front of the means dominates of the box between ideal and reference, to which "
        "each objective is scaled: 1 is a split that is best in everything. It shares with the "
        "figures what all points of a replicate have in common, so its interval may reach above 1.",
        _FLAT,
    ),
    *(
        Column(
            f"hypervolume_{end}",
            "",
            f"{end.capitalize()} end of its {CONFIDENCE:.0%} interval: Student's, over jackknife's "
            "values of the replicates.",
            f"{_FEW}, or {_FLAT}",
        )
        for end in ("low", "high")
    ),
    Column(
        "epsilon",
        "",
        "How far one replicate's own front is from the front of the means: by how much of the box "
        "each objective would have to be better to meet it (additive epsilon), mean over "
        "replicates.",
        f"{_FEW}, or {_FLAT}",
    ),
    *(
        Column(
            f"epsilon_{end}",
            "",
            f"{end.capitalize()} end of its {CONFIDENCE:.0%} t-interval over replicates.",
            f"{_FEW}, or {_FLAT}",
        )
        for end in ("low", "high")
    ),
    Column("note", "", "Why there is no interval, or no hypervolume.", "there are both"),
)


@dataclass(frozen=True)
class Compared:
    """The points of one front.

    Parameters
    ----------
    about
        The group's columns.
    means
        Values of the points, an array (n, m).
    replicates
        The same of each replicate that measured all of them, an array (replicates, n, m).
    on_front
        How many are on the front.
    """

    about: dict[str, Any]
    means: Array
    replicates: Array
    on_front: int


def compared(
    points: pd.DataFrame,
    measured: pd.DataFrame,
    objectives: Mapping[str, str],
    *,
    uncertified: bool,
) -> Iterator[Compared]:
    """The points of each front, see :func:`indicators`."""
    names = list(objectives)
    counted = marks.counted(points, all_links=uncertified).dropna(subset=names)
    complete = measured[measured["status"] == "ok"]
    shared = group_of(objectives)
    for key, group in counted.groupby(shared, sort=False):
        values = by_replicate(complete, group, names)
        yield Compared(
            dict(zip(shared, key, strict=True)),
            group[names].to_numpy(dtype=np.float64),
            values[np.isfinite(values).all(axis=(1, 2))],
            int(group["on_front"].sum()),
        )


def indicators(
    points: pd.DataFrame,
    measured: pd.DataFrame,
    objectives: Mapping[str, str] = OBJECTIVES,
    *,
    uncertified: bool = False,
) -> pd.DataFrame:
    """Hypervolume and epsilon of every front.

    Parameters
    ----------
    points
        The table ``points.csv``.
    measured
        One row per point and replicate, see :func:`analysis.measures.replicates.replicates`.
    objectives
        Columns, and whether less (``min``) or more (``max``) of each is better.
    uncertified
        Whether points whose link was not as asked for count.

    Returns
    -------
    The columns :data:`COLUMNS`, one row per group (:func:`analysis.tables.front.group_of`) that has
    a point with all objectives.
    """
    groups = compared(points, measured, objectives, uncertified=uncertified)
    rows = [each.about | _row(each, objectives) for each in groups]
    return pd.DataFrame(rows, columns=[column.name for column in COLUMNS])


def _row(group: Compared, objectives: Mapping[str, str]) -> dict[str, Any]:
    """The indicators of one front."""
    box = Box.around(group.means, objectives)
    row: dict[str, Any] = {
        "objectives": ", ".join(f"{name} ({way})" for name, way in objectives.items()),
        "points": len(group.means),
        "front_points": group.on_front,
        "replicates": len(group.replicates),
        "ideal": box.told(box.ideal),
        "reference": box.told(box.reference),
    }
    if box.flat:
        return row | {"note": f"no two points differ in {', '.join(box.flat)}"}
    row["hypervolume"] = whole = box.hypervolume(group.means)
    if len(group.replicates) < LEAST_REPLICATES:
        return row | {"note": f"no interval: {_FEW}"}
    apart = [box.epsilon(each, group.means) for each in group.replicates]
    for name, middle, values in (
        ("hypervolume", whole, box.hypervolumes(group.replicates)),
        ("epsilon", float(np.mean(apart)), np.array(apart)),
    ):
        half = half_width(values)
        if half is not None:
            row |= {name: middle, f"{name}_low": middle - half, f"{name}_high": middle + half}
    return row
