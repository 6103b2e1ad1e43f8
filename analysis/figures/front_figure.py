"""The figure of a model's Pareto fronts."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from analysis.figures import labels
from analysis.figures.attained import band_legend, of_points, shade
from analysis.figures.captions import (
    MARKED,
    MARKER_PT,
    SMALL_PT,
    conditions,
    explain,
    front_legend,
    marker_of,
    strike,
    stroke_pt,
)
from analysis.figures.crowded import NAMED, chosen
from analysis.figures.names import called, sole
from analysis.figures.pages import COLUMN_IN, GRIDS, all_named, alone, laid_out
from analysis.figures.series import Series
from analysis.figures.style import freeze, styled
from analysis.measures.marks import disturbed, uncertified
from analysis.tables.front import is_nondominated

LATENCY = "latency_median_ms"
THROUGHPUT = "throughput_images_s"

GID = "points"
"""Group id of the markers, by which tests find them."""

_AXIS = {
    LATENCY: "Response latency (ms; lower is better)",
    THROUGHPUT: "Throughput (images/s; higher is better)",
}
_RING_STEP_PT = 1.6
_MAX_RINGS = 6
_SAMPLES = 800
"""Places along a front's line that names avoid, about so many across and as many up."""

_CROWDED = (
    f"panels of more than {NAMED} points name those on a front and the endpoints, {NAMED} at most; "
    "small marks are dominated; all points are in points.csv"
)
_BETTER = "lower latency and higher throughput are better"
_NO_ROOM = "names for which there was no room are left out, the best come first"


def front(
    points: pd.DataFrame, stages: pd.DataFrame, attained: pd.DataFrame | None = None
) -> list[Figure]:
    """Draw one model's Pareto fronts: a panel per link.

    A panel has the points of one value of the figure's series: a link, or a wire format where there
    are several of these, see :class:`analysis.figures.series.Series`. The first panel shows how the
    front moves from one value to the next. Each further condition, such as a placement, has its own
    panels in a new row. A panel with few points names all of them, see
    :func:`analysis.figures.crowded.chosen`.

    Parameters
    ----------
    points
        The model's rows of ``points.csv``.
    stages
        The table ``stages.csv``.
    attained
        The table ``attainment.csv``.

    Returns
    -------
    A figure for each page.
    """
    with styled():
        series = Series(points)
        panels = list(_panels(points, series))
        crowded = any(len(shown) > NAMED for row in panels for _, shown in row)
        notes = [*series.notes(points), *([_CROWDED] if crowded else [])]
        colours = {series.label(value): colour for value, colour in series.colours.items()}
        surfaces = of_points(attained, points)
        legend = [*front_legend(points, colours), *band_legend(surfaces)]
        for grid in GRIDS:
            caption = explain(points, stages, legend, *notes)
            laid = laid_out(panels, grid, caption)
            if figures := all_named(_front(points, surfaces, series, laid)):
                return figures
        caption = explain(points, stages, legend, *notes, _NO_ROOM)
        laid = laid_out(panels, GRIDS[-1], caption)
        return [figure for figure, _ in _front(points, surfaces, series, laid)]


def columns(
    points: pd.DataFrame,
    stages: pd.DataFrame,
    attained: pd.DataFrame | None = None,
    width_in: float = COLUMN_IN,
) -> Iterator[tuple[Figure, str]]:
    """Draw each panel of one model's fronts by itself, as wide as a column of a paper.

    Parameters
    ----------
    points, stages, attained
        As :func:`front` takes them.
    width_in
        Width of each figure in inches.

    Yields
    ------
    A figure, and its caption, which says what the notes of :func:`front` say.
    """
    with styled():
        series = Series(points)
        panels = [panel for row in _panels(points, series) for panel in row if len(panel[1])]
        surfaces = of_points(attained, points)
        for title, shown in panels:
            colours = {series.label(value): series.colours[value] for value in shown[series.name]}
            legend = [*front_legend(points, colours), *band_legend(surfaces)]
            notes = [*series.notes(points), *([_CROWDED] if len(shown) > NAMED else [])]
            laid = alone([(title, shown)], width_in, legend)
            [(figure, unnamed)] = _front(points, surfaces, series, laid)
            caption = explain(points, stages, legend, *notes, *([_NO_ROOM] if unnamed else []))
            [axes] = figure.axes
            axes.set(xlabel="Response latency (ms)", ylabel="Throughput (images/s)")
            told = (caption.title, title, *caption.notes, _BETTER)
            yield figure, f"{'. '.join(told)}."


_Panel = tuple[str, pd.DataFrame]


def _panels(points: pd.DataFrame, series: Series) -> Iterator[list[_Panel]]:
    """Title and points of each panel, grouped by condition."""
    for title, table in conditions(points, series.conditions):
        measured = table[(table["status"] == "ok") & table[THROUGHPUT].notna()]
        best, values = measured[measured["on_front"]], table[series.name].unique()
        yield [
            *([(f"fronts of all {series.kind}{title}", best)] if len(values) > 1 else []),
            *(
                (f"{series.title(table, value)}{title}", measured[measured[series.name] == value])
                for value in values
            ),
        ]


def _front(
    points: pd.DataFrame,
    surfaces: pd.DataFrame,
    series: Series,
    laid: Iterable[tuple[Figure, list[tuple[Axes, _Panel]]]],
) -> Iterator[tuple[Figure, int]]:
    """Each page that is laid out, with its panels, and how many names found no room on it."""
    names = called(points)
    for figure, places in laid:
        for axes, (_, shown) in places:
            for value, part in shown.groupby(series.name, sort=False):
                _points(axes, part, series.colours[value], len(shown) > NAMED)
            _scales(axes, shown)
            for value, part in shown.groupby(series.name, sort=False):
                own = of_points(surfaces, part)
                shade(axes, own, LATENCY, THROUGHPUT, series.colours[value])
        freeze(figure)
        yield figure, sum(_name(axes, shown, names, series) for axes, (_, shown) in places)


def _points(axes: Axes, points: pd.DataFrame, colour: Any, crowded: bool) -> None:
    """Draw one series' points; those on the front are filled and joined by a step line.

    Points whose link was not as asked for are hollow and marked, whether on the front or not.
    Points of a disturbed host are struck out.
    """
    best = points[points["on_front"]].sort_values([LATENCY, THROUGHPUT])
    # A front of other objectives is no line in this plane.
    if is_nondominated(best[[LATENCY, THROUGHPUT]], ["min", "max"]).all():
        axes.plot(
            best[LATENCY], best[THROUGHPUT], drawstyle="steps-post", color=colour, lw=1.1, zorder=3
        )
    alone = sole(points).fillna(-1)
    looks = [_radii(points, crowded), uncertified(points), disturbed(points), alone]
    alike: Any = points.groupby([*looks, "on_front"])
    for (radius, off, shaken, rank, on_front), part in alike:
        hollow = off or (radius > MARKER_PT)
        axes.plot(
            part[LATENCY],
            part[THROUGHPUT],
            ls="",
            marker=MARKED if off else "o" if rank < 0 else marker_of(rank),
            markersize=2 * radius,
            color=colour,
            markerfacecolor="none" if hollow else colour if on_front else "white",
            markeredgewidth=0.9 if radius > SMALL_PT else 0.6,
            alpha=1 if on_front else 0.6,
            zorder=5 if on_front else 4,
            gid=GID,
        )
        if shaken:
            strike(axes, part[LATENCY], part[THROUGHPUT], radius)


def _radii(points: pd.DataFrame, crowded: bool) -> pd.Series:
    """Marker radius of each point in pt; points at one spot become rings around each other.

    In a `crowded` panel dominated points are small, unless they are endpoints.
    """
    before = points.groupby([LATENCY, THROUGHPUT]).cumcount()
    small = crowded & ~points["on_front"] & sole(points).isna()
    size = pd.Series(MARKER_PT, index=points.index).mask(small, SMALL_PT)
    return size + _RING_STEP_PT * before.clip(upper=_MAX_RINGS)


def _scales(axes: Axes, points: pd.DataFrame) -> None:
    """Set the scales, which are logarithmic where points span more than a factor of five."""
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


def _name(axes: Axes, shown: pd.DataFrame, names: pd.Series, series: Series) -> int:
    """Name points of a panel, the front first; return how many names found no room."""
    radii = _radii(shown, len(shown) > NAMED)
    radii = radii.mask(disturbed(shown), radii + radii.map(stroke_pt))
    named = chosen(shown, LATENCY, THROUGHPUT, series.name)
    several = shown[series.name].nunique() > 1
    avoided = [
        _along(axes, part.sort_values([LATENCY, THROUGHPUT])[[LATENCY, THROUGHPUT]].to_numpy("f8"))
        for _, part in shown[shown["on_front"]].groupby(series.name, sort=False)
    ]
    avoided.append(shown.drop(named.index)[[LATENCY, THROUGHPUT]].to_numpy("f8"))
    return labels.place(
        axes,
        named[[LATENCY, THROUGHPUT]].to_numpy(dtype=np.float64),
        list(names[named.index]),
        list(radii[named.index]),
        np.vstack(avoided),
        [
            series.colours[value] if several else "black" if on_front else "0.35"
            for value, on_front in zip(named[series.name], named["on_front"], strict=True)
        ],
    )


def _along(axes: Axes, corners: Any) -> Any:
    """Places along the step line through `corners` (n, 2), in data coordinates."""
    steps = [corners[:1]]
    # A line of many steps has short ones, which need few places each.
    parts = np.linspace(0, 1, int(np.clip(_SAMPLES / len(corners), 2, 40)))[:, None]
    for (x0, y0), (x1, y1) in itertools.pairwise(axes.transData.transform(corners)):
        across = np.array([x0, y0]) + parts * np.array([x1 - x0, 0])
        up = np.array([x1, y0]) + parts * np.array([0, y1 - y0])
        steps.append(axes.transData.inverted().transform(np.vstack((across, up))))
    return np.vstack(steps)
