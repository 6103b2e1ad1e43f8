"""What the page's script draws of links that follow a trace."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.column import OBJECTIVES
from analysis.figures.crowded import NAMED, thin
from analysis.figures.names import sole
from analysis.report.embedded import groups_of, rounded
from analysis.tables.front import GROUP

_PART = ["link", "segment", "start_s", "duration_s", "asked"]
_PROBED = {"round_trip": "ms", "goodput": "mbit"}


def traces(points: pd.DataFrame, segments: pd.DataFrame | None) -> dict[str, Any] | None:
    """What was measured in each segment of the traces.

    Parameters
    ----------
    points
        The table ``points.csv``, as the page has it.
    segments
        The table ``segments.csv``; None where no link follows a trace.

    Returns
    -------
    None where nothing was measured in any segment. Else ``parts``, the segments of all links:
    ``number``, ``start`` and ``duration`` in seconds, what was ``asked``, and the ``round_trip``
    (ms) and ``goodput`` (Mbit/s) that were measured while it was held, medians over its points.
    ``rows``: the place of a point and of a part, latency (ms) and throughput (images/s) of the
    splits on a front and of single hosts. ``best``: group, part, and the places of the points that
    answered soonest and brought most, of all points.
    """
    if segments is None:
        return None
    own = segments.drop(columns=[name for name in (*GROUP, "split") if name in segments])
    table = points[["point", "split", "position", "on_front", *GROUP]].reset_index(names="place")
    table = own.merge(table, on="point")
    table = table[table[list(OBJECTIVES)].notna().any(axis=1)]
    if table.empty:
        return None
    known = table.groupby(_PART, sort=False)
    table = table.assign(part=known.ngroup())
    parts = [_part(key, rows) for key, rows in known]
    groups = groups_of(points)
    return {
        "parts": parts,
        "rows": [
            [int(row["place"]), int(row["part"]), *(rounded(row[name]) for name in OBJECTIVES)]
            for _, rows in table.groupby(list(GROUP), sort=False)
            for row in _shown(rows).to_dict("records")
        ],
        "best": [
            [groups[key[:-1]], key[-1], *(_best(rows, name) for name in OBJECTIVES)]
            for key, rows in table.groupby([*GROUP, "part"], sort=False)
        ],
    }


def _part(key: Any, rows: pd.DataFrame) -> dict[str, Any]:
    """One segment of a link."""
    _, number, start, duration, asked = key
    probed = {
        name: rounded(
            float(
                pd.concat([rows[f"{name}_{when}_{unit}"] for when in ("before", "after")]).median()
            )
        )
        for name, unit in _PROBED.items()
    }
    return {
        "number": int(number),
        "start": rounded(start),
        "duration": rounded(duration),
        "asked": asked,
        **probed,
    }


def _shown(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the splits on the front and of single hosts, evenly spaced if there are too many."""
    splits = rows.drop_duplicates("point").sort_values("position")
    wanted = splits[splits["on_front"] | sole(splits).notna()]
    kept = thin(wanted if len(wanted) else splits, NAMED)["point"]
    return rows[rows["point"].isin(kept)]


def _best(rows: pd.DataFrame, objective: str) -> int | None:
    """The place of the point that is the best in an objective."""
    known = rows.dropna(subset=objective).sort_values(objective, kind="stable")
    if known.empty:
        return None
    return int(known["place"].iloc[0 if OBJECTIVES[objective] == "min" else -1])
