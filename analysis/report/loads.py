"""What the page's script draws of offered load."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.figures.load_figure import shown
from analysis.report.embedded import rounded
from analysis.tables.front import GROUP

FIGURES = {
    "offered": "offered_images_s",
    "achieved": "achieved_images_s",
    "median": "latency_median_ms",
    "p90": "latency_p90_ms",
    "beyond": "beyond_knee",
    "disturbed": "disturbed",
}
"""What the script knows of a rate that was offered to a point, and the column that has it."""


def loads(points: pd.DataFrame, curve: pd.DataFrame | None) -> dict[str, Any] | None:
    """The curves of the splits that a figure would show, see :func:`load_figure.shown`.

    Parameters
    ----------
    points
        The table ``points.csv``, as the page has it.
    curve
        The table ``load.csv``; None where no load was offered.

    Returns
    -------
    ``fields``, what each of ``rows`` has in that order: the place of its point, and the columns of
    :data:`FIGURES`. None where there is nothing to draw.
    """
    if curve is None:
        return None
    # At a step that some replicates did not offer, the row describes the others only.
    whole = curve[curve["replicates_ended"] == 0]
    kept = [shown(rows) for _, rows in whole.groupby(list(GROUP), sort=False)]
    if not kept:
        return None
    table = pd.concat(kept)
    place = dict(zip(points["point"], range(len(points)), strict=True))
    figures = table[list(FIGURES.values())].astype("float64")
    rows = zip(table["point"].map(place), *(figures[name] for name in figures), strict=True)
    return {
        "fields": ["point", *FIGURES],
        "rows": [[at, *map(rounded, values)] for at, *values in rows],
    }
