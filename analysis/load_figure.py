"""The figure of offered load: how latency grows with the rate at which items arrive."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from analysis import labels
from analysis.captions import (
    MARKER_PT,
    conditions,
    disturbed_legend,
    explain,
    link_title,
    strike,
)
from analysis.style import NARROWEST_IN, STYLE, TITLE, freeze
from paretopipe_worker.arrivals import KEEPS_UP, KNEE_LATENCY

_OFFERED, _LATENCY, _P90 = "offered_images_s", "latency_median_ms", "latency_p90_ms"
_PANEL_IN = (4.3, 3.3)
_COLUMNS = 3
_GROWTH = 1.25
_MARKERS = "osD^vP*X"


def load_figure(points: pd.DataFrame, curve: pd.DataFrame) -> Figure:
    """Draw one model's latency against offered load: a panel per link, a line per split.

    Parameters
    ----------
    points
        The model's rows of ``points.csv``.
    curve
        Its rows of ``load.csv``. Splits on the front are drawn; where none is, all are.
    """
    factor = 1.0
    curve = curve[curve["replicates_ended"] == 0]
    while True:
        with sns.axes_style("ticks"), mpl.rc_context(STYLE):
            figure = _figure(points, curve, factor)
        if figure is not None:
            return figure
        # Names keep their size, so that in a larger figure there is room at last.
        factor *= _GROWTH


def _figure(points: pd.DataFrame, curve: pd.DataFrame, factor: float) -> Figure | None:
    """The figure with panels `factor` times as large as usual; None where names do not fit."""
    parts = [
        (f"{link_title(points, str(link))}{title}", rows)
        for title, table in conditions(curve)
        for link, rows in table.groupby("link", sort=False)
    ]
    columns = min(_COLUMNS, len(parts))
    rows_count = -(-len(parts) // columns)
    width = max(NARROWEST_IN, factor * _PANEL_IN[0] * columns)
    figure = Figure(figsize=(width, factor * _PANEL_IN[1] * rows_count + 1.2), layout="constrained")
    grid = figure.subplots(rows_count, columns, squeeze=False).ravel()
    shown = [rows[rows["on_front"]] if rows["on_front"].any() else rows for _, rows in parts]
    styles = _styles(pd.concat(shown).sort_values("position"))
    for axes in grid[len(parts) :]:
        axes.remove()
    for (title, _), axes, rows in zip(parts, grid, shown, strict=False):
        axes.set_title(textwrap.fill(title, TITLE))
        for split, line in rows.groupby("split", sort=False):
            _line(axes, line, *styles[str(split)])
        _scales(axes, rows)
    # Of what captions tell of points only what concerns these legs, which have marks of their own.
    drawn = points[points["point"].isin(pd.concat(shown)["point"])].assign(disturbed=False)
    explain(figure, drawn, list(_legend(pd.concat(shown))))
    freeze(figure)
    short = labels.shorten(list(points["split"].unique()))
    named = (_name(axes, rows, short, styles) for axes, rows in zip(grid, shown, strict=False))
    return figure if all(list(named)) else None


def _styles(shown: pd.DataFrame) -> dict[str, tuple[Any, str]]:
    """Colour and marker of each split, the same in all panels."""
    colours = sns.color_palette("colorblind")
    # Yellow is hard to see on white.
    del colours[8]
    looks = zip(itertools.cycle(colours), itertools.cycle(_MARKERS), strict=False)
    return dict(zip(map(str, shown["split"].unique()), looks, strict=False))


def _line(axes: Axes, line: pd.DataFrame, colour: Any, marker: str) -> None:
    """Draw one split: filled up to the knee, hollow from there on."""
    axes.plot(line[_OFFERED], line[_LATENCY], color=colour, lw=1.2, zorder=3)
    axes.plot(line[_OFFERED], line[_P90], color=colour, lw=0.8, ls=(0, (1, 1.5)), zorder=2)
    for row in line.to_dict("records"):
        beyond = row["beyond_knee"] is True
        axes.plot(
            row[_OFFERED],
            row[_LATENCY],
            marker=marker,
            ms=2 * MARKER_PT,
            color=colour,
            mfc="white" if beyond else colour,
            mew=0.9,
            zorder=4,
        )
        if row["disturbed"]:
            strike(axes, row[_OFFERED], row[_LATENCY], MARKER_PT)


def _scales(axes: Axes, rows: pd.DataFrame) -> None:
    """Rates from nothing on; latency logarithmic where it spans more than a factor of five."""
    values = rows[[_LATENCY, _P90]].to_numpy(dtype=np.float64)
    known = values[np.isfinite(values)]
    if len(known) and known.max() > 5 * known.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.margins(0.12)
    axes.set_xlim(left=0)
    axes.set(xlabel="Offered load (images/s)", ylabel="Latency under load (ms; median)")
    axes.grid(True)
    axes.set_axisbelow(True)
    sns.despine(ax=axes)


def _name(
    axes: Axes, rows: pd.DataFrame, short: dict[str, str], styles: dict[str, tuple[Any, str]]
) -> bool:
    """Name each line at its end; False where there is no room."""
    known = rows.dropna(subset=_LATENCY)
    last = known.drop_duplicates("split", keep="last")
    return labels.place(
        axes,
        last[[_OFFERED, _LATENCY]].to_numpy(dtype=np.float64),
        [short[name] for name in last["split"]],
        [MARKER_PT] * len(last),
        known[[_OFFERED, _LATENCY]].to_numpy(dtype=np.float64),
        [styles[str(name)][0] for name in last["split"]],
    )


def _legend(shown: pd.DataFrame) -> Iterator[Line2D | Patch]:
    """What lines and markers mean."""
    yield Line2D([], [], color="0.3", lw=1.2, marker="o", ms=2 * MARKER_PT, label="keeps up")
    if shown["beyond_knee"].eq(True).fillna(False).any():
        said = f"beyond the knee: over {KNEE_LATENCY:g} times idle, or {1 - KEEPS_UP:.0%} behind"
        yield Line2D(
            [], [], color="0.3", lw=1.2, marker="o", ms=2 * MARKER_PT, mfc="white", label=said
        )
    if shown[_P90].notna().any():
        yield Line2D([], [], color="0.3", lw=0.8, ls=(0, (1, 1.5)), label="90th percentile")
    if shown["disturbed"].any():
        yield disturbed_legend()
