"""The figures of a run, and the first of them: the front of each model."""

from __future__ import annotations

import itertools
import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from analysis import labels
from analysis.breakdown import breakdown
from analysis.captions import (
    MARKED,
    MARKER_PT,
    MARKERS,
    STROKE_PT,
    conditions,
    disturbed,
    explain,
    front_legend,
    link_title,
    strike,
)
from analysis.front import marked
from analysis.load_figure import load_figure
from analysis.style import NARROWEST_IN, STYLE, TITLE, freeze, save
from paretopipe_worker.plan import slug

LATENCY = "latency_median_ms"
THROUGHPUT = "throughput_images_s"

_AXIS = {
    LATENCY: "Response latency (ms; lower is better)",
    THROUGHPUT: "Throughput (images/s; higher is better)",
}
_PANEL_IN = (4.3, 3.5)
_COLUMNS = 3
_GROWTH = 1.25
_RING_STEP_PT = 1.6
_MAX_RINGS = 6


def draw(
    points: pd.DataFrame,
    directory: Path,
    curve: pd.DataFrame | None = None,
    attribution: pd.DataFrame | None = None,
) -> list[Path]:
    """Draw every figure of a run as PNG and SVG.

    Parameters
    ----------
    points
        The table ``points.csv``, see :func:`analysis.points.points`.
    directory
        Where ``front-<model>``, ``breakdown-<model>`` and ``load-<model>`` go.
    curve
        The table ``load.csv``, see :func:`analysis.load_curve.load_curve`.
    attribution
        The table ``attribution.csv``, see :func:`analysis.attribution.attribution`.

    Returns
    -------
    The files. A model of which no point was measured has none, one to which no load was offered
    no figure of it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    files = []
    for model, table in points.groupby("model", sort=False):
        if not (table["status"] == "ok").any():
            continue
        name = slug(str(model))
        files += save(front(table), directory, f"front-{name}")
        files += save(breakdown(table, attribution), directory, f"breakdown-{name}")
        offered = None if curve is None else curve[curve["model"] == model]
        if offered is not None and len(offered):
            files += save(load_figure(table, offered), directory, f"load-{name}")
    return files


def front(points: pd.DataFrame) -> Figure:
    """Draw one model's Pareto fronts: a panel per link with every point named.

    Where there are several links a first panel shows how the front moves from one to the next.
    Each further condition (placement, backend, batch, window, dtype) has panels of its own,
    beginning a new row.
    """
    factor = 1.0
    while True:
        with sns.axes_style("ticks"), mpl.rc_context(STYLE):
            figure = _front(points, factor)
        if figure is not None:
            return figure
        # Names keep their size, so that in a larger figure there is room at last.
        factor *= _GROWTH


def _front(points: pd.DataFrame, factor: float) -> Figure | None:
    """The figure with panels `factor` times as large as usual; None where names do not fit."""
    colours = _colours(points)
    parts = list(conditions(points))
    links: list[str | None] = [*([None] if len(colours) > 1 else []), *colours]
    columns = min(_COLUMNS, len(links))
    rows_each = -(-len(links) // columns)
    rows = rows_each * len(parts)
    size = (max(NARROWEST_IN, factor * _PANEL_IN[0] * columns), factor * _PANEL_IN[1] * rows + 1.1)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    panels: list[tuple[Axes, pd.DataFrame]] = []
    for number, (title, table) in enumerate(parts):
        places = grid[number * rows_each : (number + 1) * rows_each].ravel()
        measured = table[(table["status"] == "ok") & table[THROUGHPUT].notna()]
        for axes in places[len(links) :]:
            axes.remove()
        for link, axes in zip(links, places, strict=False):
            shown = measured[measured["on_front" if link is None else "link"] == (link or True)]
            said = "fronts of all links" if link is None else link_title(table, link)
            axes.set_title(textwrap.fill(f"{said}{title}", TITLE))
            for name, part in shown.groupby("link", sort=False):
                _points(axes, part, colours[str(name)])
            _scales(axes, shown)
            panels.append((axes, shown))
    explain(figure, points, front_legend(points, colours))
    freeze(figure)
    return figure if all(_name(axes, part, points, colours) for axes, part in panels) else None


def _colours(points: pd.DataFrame) -> dict[str, Any]:
    """One colour per link, the same in all panels."""
    links = [str(link) for link in points["link"].unique()]
    return dict(zip(links, itertools.cycle(sns.color_palette("colorblind")), strict=False))


def _points(axes: Axes, points: pd.DataFrame, colour: Any) -> None:
    """Draw one link's points, those on the front filled and joined by a step line.

    Points whose link was not as asked for are hollow, and marked, wherever they are; those of a
    disturbed host are struck out.
    """
    best = points[points["on_front"]].sort_values([LATENCY, THROUGHPUT])
    axes.plot(
        best[LATENCY], best[THROUGHPUT], drawstyle="steps-post", color=colour, lw=1.1, zorder=3
    )
    radii = _radii(points)
    rows = zip(radii, marked(points), disturbed(points), points.to_dict("records"), strict=True)
    for radius, off, shaken, row in rows:
        hollow = radius > MARKER_PT or off
        axes.plot(
            row[LATENCY],
            row[THROUGHPUT],
            marker=MARKED if off else MARKERS.get(row["split"], "o"),
            markersize=2 * radius,
            color=colour,
            markerfacecolor="none" if hollow else colour if row["on_front"] else "white",
            markeredgewidth=0.9,
            alpha=1 if row["on_front"] else 0.6,
            zorder=5 if row["on_front"] else 4,
        )
        if shaken:
            strike(axes, row[LATENCY], row[THROUGHPUT], radius)


def _radii(points: pd.DataFrame) -> Any:
    """Marker radius of each point in points: those at one spot become rings around each other."""
    before = points.groupby([LATENCY, THROUGHPUT]).cumcount().to_numpy()
    return MARKER_PT + _RING_STEP_PT * np.minimum(before, _MAX_RINGS)


def _scales(axes: Axes, points: pd.DataFrame) -> None:
    """Room around the points; logarithmic where they span more than a factor of five."""
    scales = ((LATENCY, axes.xaxis, axes.set_xscale), (THROUGHPUT, axes.yaxis, axes.set_yscale))
    for column, axis, set_scale in scales:
        values = points[column]
        if len(values) and values.max() > 5 * values.min():
            set_scale("log")
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_locator(NullLocator())
    axes.set(xlabel=_AXIS[LATENCY], ylabel=_AXIS[THROUGHPUT])
    axes.margins(0.12)
    axes.grid(True)
    axes.set_axisbelow(True)
    sns.despine(ax=axes)
    if points.empty:
        axes.text(0.5, 0.5, "no point to show", transform=axes.transAxes, ha="center")
        axes.set(xticks=[], yticks=[])


def _name(axes: Axes, shown: pd.DataFrame, points: pd.DataFrame, colours: dict[str, Any]) -> bool:
    """Name all points of a panel, those on the front first; False where there is no room."""
    short = labels.shorten(list(points["split"].unique()))
    radii = pd.Series(_radii(shown) + STROKE_PT * disturbed(shown), index=shown.index)
    order = shown.sort_values(["on_front", LATENCY], ascending=[False, True])
    several = shown["link"].nunique() > 1
    lines = [
        _along(axes, part.sort_values([LATENCY, THROUGHPUT])[[LATENCY, THROUGHPUT]].to_numpy("f8"))
        for _, part in shown[shown["on_front"]].groupby("link", sort=False)
    ]
    return labels.place(
        axes,
        order[[LATENCY, THROUGHPUT]].to_numpy(dtype=np.float64),
        [short[name] for name in order["split"]],
        list(radii[order.index]),
        np.vstack(lines) if lines else np.empty((0, 2)),
        [
            colours[link] if several else "black" if on_front else "0.35"
            for link, on_front in zip(order["link"], order["on_front"], strict=True)
        ],
    )


def _along(axes: Axes, corners: Any) -> Any:
    """Points along the step line through `corners` (n, 2), in data coordinates."""
    steps = [corners[:1]]
    for (x0, y0), (x1, y1) in itertools.pairwise(axes.transData.transform(corners)):
        parts = np.linspace(0, 1, 40)[:, None]
        across = np.array([x0, y0]) + parts * np.array([x1 - x0, 0])
        up = np.array([x1, y0]) + parts * np.array([0, y1 - y0])
        steps.append(axes.transData.inverted().transform(np.vstack((across, up))))
    return np.vstack(steps)
