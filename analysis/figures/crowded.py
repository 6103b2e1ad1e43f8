"""Which points a panel names where it has more than a reader could tell apart."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.figures.names import sole

NAMED = 30
"""Most names in one panel."""


def thin(rows: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most `most` of `rows`, evenly spaced, in their order."""
    if len(rows) <= most:
        return rows
    return rows.iloc[np.linspace(0, len(rows) - 1, max(most, 0)).round().astype(int)]


def chosen(
    shown: pd.DataFrame, latency: str, throughput: str, series: str = "link"
) -> pd.DataFrame:
    """Choose the points of a panel that get a name.

    Parameters
    ----------
    shown
        Rows of ``points.csv``, all that the panel shows.
    latency, throughput
        The columns of the axes: less latency is better, and more throughput.
    series
        The column that tells the panel's fronts apart.

    Returns
    -------
    Those rows, best first: all of them if they are at most :data:`NAMED`, or else those on the
    fronts and the endpoints. If these are still too many, they are the ends of each front, the
    endpoints, and as many of the rest of the fronts as there is room for, evenly spaced.
    """
    order = shown.sort_values(["on_front", latency], ascending=[False, True])
    if len(order) <= NAMED:
        return order
    best = order[order["on_front"]]
    fronts = best.groupby(series, sort=False)
    ends = [*fronts[latency].idxmin(), *fronts[throughput].idxmax()]
    endpoints = order.index[sole(order).notna()]
    first = order.loc[list(dict.fromkeys([*ends, *endpoints]))[:NAMED]]
    rest = best.drop(first.index, errors="ignore")
    return pd.concat([first, thin(rest, NAMED - len(first))])
