"""Fronts of measurements that others made: a panel for each condition of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures import labels
from analysis.figures.captions import MARKER_PT, Caption
from analysis.figures.crowded import NAMED, thin
from analysis.figures.pages import GRIDS, laid_out
from analysis.figures.style import freeze, palette, styled

PANELS = 12
"""Most conditions of a model that are drawn."""

_BETTER = {"min": "lower is better", "max": "higher is better"}


def imported_fronts(
    points: pd.DataFrame,
    objectives: Mapping[str, str],
    units: Mapping[str, str],
    notes: Sequence[str],
) -> list[Figure]:
    """Draw the fronts of one model.

    Parameters
    ----------
    points
        Rows of ``imported.csv`` of one model, at least one of which has both objectives.
    objectives
        Two columns, and whether less or more of each is better: the axes.
    units
        What their axes say, with the unit, by column.
    notes
        Where the measurements come from, and what a reader must know of them.

    Returns
    -------
    A figure for each page.
    """
    whole = points.dropna(subset=list(objectives))
    groups = list(whole.groupby("condition", sort=False))
    shown = [(str(condition), part) for condition, part in groups[:PANELS]]
    said = list(notes)
    if len(groups) > PANELS:
        said.append(f"the first {PANELS} of {len(groups)} conditions; imported.csv has all of them")
    legend = (
        Line2D([], [], color="0.3", lw=1.1, marker="o", ms=2 * MARKER_PT, label="Pareto front"),
        Line2D(
            [], [], ls="", marker="o", ms=2 * MARKER_PT, c="0.6", mfc="white", label="dominated"
        ),
    )
    title = f"{points['model'].iloc[0]}: splits that others measured"
    figures = []
    with styled():
        for figure, places in laid_out([shown], GRIDS[0], Caption(title, tuple(said), legend)):
            for axes, (_, part) in places:
                _panel(axes, part, objectives, units)
            freeze(figure)
            for axes, (_, part) in places:
                _name(axes, part, list(objectives))
            figures.append(figure)
    return figures


def _panel(
    axes: Axes, points: pd.DataFrame, objectives: Mapping[str, str], units: Mapping[str, str]
) -> None:
    """Draw the points of one condition; those on the front are filled and joined."""
    across, up = objectives
    colour = palette()[0]
    for on_front, part in points.groupby("on_front"):
        axes.plot(
            part[across],
            part[up],
            ls="",
            marker="o",
            ms=2 * MARKER_PT,
            color=colour,
            mfc=colour if on_front else "white",
            alpha=1 if on_front else 0.6,
            zorder=5 if on_front else 4,
        )
    best = points[points["on_front"]].sort_values([across, up])
    axes.plot(best[across], best[up], drawstyle="steps-post", color=colour, lw=1.1, zorder=3)
    (x, of_x), (y, of_y) = objectives.items()
    axes.set(xlabel=f"{units[x]}; {_BETTER[of_x]})", ylabel=f"{units[y]}; {_BETTER[of_y]})")
    axes.margins(0.12)
    axes.grid(True)
    axes.set_axisbelow(True)
    sns.despine(ax=axes)


def _name(axes: Axes, points: pd.DataFrame, columns: list[str]) -> None:
    """Name the splits, those on the front first."""
    order = points.sort_values(["on_front", columns[0]], ascending=[False, True])
    named = order if len(order) <= NAMED else thin(order[order["on_front"]], NAMED)
    values = named[columns].to_numpy(dtype=np.float64)
    colours = ["black" if on_front else "0.35" for on_front in named["on_front"]]
    others = order.drop(named.index)[columns].to_numpy(dtype=np.float64)
    labels.place(axes, values, list(named["split"]), [MARKER_PT] * len(named), others, colours)
