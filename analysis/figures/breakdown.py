"""The figure that shows where the response latency of each cut goes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import CARETDOWN
from matplotlib.patches import Patch, StepPatch

from analysis.figures import labels
from analysis.figures.captions import (
    Caption,
    conditions,
    explain,
    hosts_by_rank,
    link_title,
    page_of,
)
from analysis.figures.crowded import NAMED
from analysis.figures.labels import Floats
from analysis.figures.latency_parts import STAGE, heights, ranks_of, styles_of, wire
from analysis.figures.names import called, sole
from analysis.figures.pages import NARROWEST_IN, PAGE_IN, pages, rows_that_fit
from analysis.figures.style import freeze, styled, title_of
from paretopipe_worker.plan.labels import cuts_of, hosts_of

_LATENCY = "latency_median_ms"
_PANEL_IN = 1.85
_AXIS_IN, _LETTER_IN = 0.25, 0.065
"""Height of what is below the last row of panels, and of each letter of a split's name there."""
_CUT_IN = 0.24
_TICK_IN = 0.14
"""Least distance of two names of cuts."""
_FRAME_IN = 0.9
"""Part of a panel's width that lies beside its axes."""
_CROWDED = (
    f"of more than {NAMED} splits the endpoints and those on a front are named, where there is "
    "room; all are in points.csv and attribution.csv"
)


def breakdown(
    points: pd.DataFrame, stages: pd.DataFrame, attribution: pd.DataFrame | None = None
) -> list[Figure]:
    """Lay out all pages of :func:`pages_of`."""
    return [page() for page in pages_of(points, stages, attribution)]


def pages_of(
    points: pd.DataFrame, stages: pd.DataFrame, attribution: pd.DataFrame | None = None
) -> list[Callable[[], Figure]]:
    """The pages on where one model's response latency goes, cut by cut in the order of the data.

    There is a row for each link and a column for each further condition. Where there are more cuts
    than names have room for, bars touch each other, the cuts on the front are marked, and only
    these and the endpoints are named.

    Parameters
    ----------
    points
        Rows of ``points.csv``.
    stages
        The table ``stages.csv``.
    attribution
        The table ``attribution.csv``. Of a point that it lacks, the bar shows the computation of
        the stages and the rest of the latency.

    Returns
    -------
    A function for each page that lays it out.
    """
    # Splits that the experiment leaves out must not leave gaps, nor those of other placements.
    places = points.groupby(points["placement"].map(hosts_of).str.len())["position"]
    points = points.assign(
        position=places.rank(method="dense"), name=called(points), sole=sole(points)
    )
    parts = heights(points, stages, attribution)
    columns = list(conditions(points))
    count = points["position"].nunique()
    crowded = count > NAMED
    beside = min(len(columns), 1 if crowded else 2)
    alone_in = PAGE_IN[0] if crowded else max(NARROWEST_IN, _CUT_IN * count + 1.2)
    width_in = min(alone_in, PAGE_IN[0] / beside)
    caption = explain(
        points, stages, _legend(points, parts, crowded), *([_CROWDED] if crowded else [])
    )
    most = rows_that_fit(_PANEL_IN, caption.height_in(width_in * beside) + _axis_in(points))
    links = list(points["link"].unique())
    of_pages = list(itertools.product(pages(columns, beside), pages(links, most)))
    return [
        partial(_page, page, parts, width_in, caption, page_of(number, len(of_pages)))
        for number, page in enumerate(of_pages, start=1)
    ]


@styled()
def _page(
    page: tuple[Sequence[tuple[str, pd.DataFrame]], Sequence[str]],
    parts: pd.DataFrame,
    width_in: float,
    caption: Caption,
    number: str,
) -> Figure:
    """One page, for some conditions and links, with panels of `width_in`."""
    columns, links = page
    total_in = width_in * len(columns)
    axis_in = max(_axis_in(table) for _, table in columns)
    height_in = _PANEL_IN * len(links) + axis_in + caption.height_in(total_in)
    figure = Figure(figsize=(total_in, height_in), layout="constrained")
    grid = figure.subplots(len(links), len(columns), squeeze=False, sharex="col")
    for (title, table), axes_column in zip(columns, grid.T, strict=True):
        of_page = table[table["link"].isin(links)]
        for link, axes in zip(links, axes_column, strict=True):
            axes.set_title(title_of(f"{link_title(table, link)}{title}", width_in))
            shown = of_page[of_page["link"] == link]
            if table["position"].nunique() > NAMED:
                _outline(axes, shown, parts.loc[shown.index])
            else:
                _bars(axes, shown, parts.loc[shown.index])
            _scale(axes, shown, parts.loc[shown.index])
        _name_cuts(axes_column[-1], of_page, width_in)
    for axes in grid[:, 0]:
        axes.set_ylabel("Time (ms)")
    caption.write(figure, number)
    freeze(figure)
    return figure


def _axis_in(points: pd.DataFrame) -> float:
    """Height of the names of splits below the last row of panels."""
    return _AXIS_IN + _LETTER_IN * max(8, points["name"].str.len().max())


def _bars(axes: Axes, points: pd.DataFrame, parts: pd.DataFrame) -> None:
    """Draw the parts of each cut's latency as a bar, and the latency itself as a line."""
    ticks, styles = points["position"], styles_of(parts)
    for name, bottom, top in _stacked(parts):
        axes.bar(ticks, top - bottom, 0.78, bottom, lw=0, label=name, **styles[name])
    latency = points[_LATENCY].to_numpy()
    axes.hlines(latency, ticks - 0.39, ticks + 0.39, color="black", lw=1)
    for tick in ticks[_lost(points)]:
        axes.text(
            tick,
            0.04,
            "failed",
            transform=axes.get_xaxis_transform(),
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=labels.FONT_PT,
            color="0.35",
        )


def _lost(points: pd.DataFrame) -> pd.Series:
    """Points that should have figures and have none."""
    return ~points["status"].isin(("ok", "skipped"))


def _outline(axes: Axes, points: pd.DataFrame, parts: pd.DataFrame) -> None:
    """Draw many cuts: bars without gaps, each part as one shape, with the front marked."""
    order = points["position"].sort_values().index
    ticks = points.loc[order, "position"].to_numpy(np.float64)
    edges = np.append(ticks - 0.5, ticks[-1] + 0.5)
    styles = styles_of(parts)
    for name, bottom, top in _stacked(parts.loc[order]):
        _steps(axes, top, edges, baseline=bottom, fill=True, lw=0, label=name, **styles[name])
    latency = points.loc[order, _LATENCY].to_numpy(np.float64)
    _steps(axes, latency, edges, baseline=None, fill=False, edgecolor="black", lw=0.8)
    cuts = points.loc[order, "split"].map(cuts_of)
    if cuts.str.len().max() > 1:
        begins = (cuts.str[0] != cuts.str[0].shift()).to_numpy()
        axes.vlines(edges[:-1][begins][1:], 0, 1, transform=axes.get_xaxis_transform(), **_NEXT)
    best, failed = points[points["on_front"]], points[_lost(points)]
    # An empty line of marks outside the axes would break the layout.
    if len(best):
        axes.plot(best["position"], best[_LATENCY], **_ON_FRONT)
    if len(failed):
        axes.plot(failed["position"], np.zeros(len(failed)), **_FAILED)


def _steps(axes: Axes, heights: Floats, edges: Floats, **look: Any) -> None:
    """Do what `axes.stairs` does, but for limits, which take long and are set by :func:`_scale`."""
    axes.add_artist(StepPatch(heights, edges, **look))


_NEXT: dict[str, Any] = {"color": "0.75", "lw": 0.6, "ls": (0, (4, 3)), "zorder": 0}
"""Style of the line before the splits that have another first cut."""
_MARK: dict[str, Any] = {"ls": "", "zorder": 5, "clip_on": False}
_ON_FRONT = _MARK | {"marker": CARETDOWN, "ms": 4, "color": "black"}
_FAILED = _MARK | {"marker": "x", "ms": 3, "color": "0.35"}


def _stacked(parts: pd.DataFrame) -> Iterator[tuple[str, Floats, Floats]]:
    """Name, lower and upper end of each part that has any height, from the bottom up."""
    top = np.zeros(len(parts))
    for name in parts.columns:
        height = parts[name].to_numpy(np.float64)
        if not np.isnan(height).all():
            bottom, top = top, top + np.nan_to_num(height)
            yield name, bottom, top


def _scale(axes: Axes, points: pd.DataFrame, parts: pd.DataFrame) -> None:
    """Set the limits and the grid."""
    most = np.nanmax([0.0, points[_LATENCY].max(), parts.sum(axis=1).max()])
    axes.set_ylim(0, 1.08 * most or 1.0)
    axes.set_xlim(points["position"].min() - 0.7, points["position"].max() + 0.7)
    axes.grid(True, axis="y")
    axes.set_axisbelow(True)
    sns.despine(ax=axes)


def _name_cuts(axes: Axes, points: pd.DataFrame, width_in: float) -> None:
    """Name the splits below the last row: all, or, of many, the endpoints and the fronts."""
    cuts = points.groupby("position").agg(
        name=("name", "first"), sole=("sole", "first"), fronts=("on_front", "sum")
    )
    if len(cuts) > NAMED:
        cuts["fronts"] = cuts["fronts"].mask(cuts["sole"].notna(), np.inf)
        wanted = cuts[cuts["fronts"] > 0].sort_values("fronts", ascending=False, kind="stable")
        apart = _TICK_IN * (len(cuts) + 0.4) / (width_in - _FRAME_IN)
        kept: list[float] = []
        for tick in wanted.index:
            if all(abs(tick - other) >= apart for other in kept):
                kept.append(tick)
        cuts = cuts.loc[sorted(kept)]
    axes.set_xticks(list(cuts.index), list(cuts["name"]), rotation=90)
    first, *_, last = hosts_by_rank(points) or ("rank 0", "the last rank")
    several = points["split"].map(cuts_of).str.len().max() > 1
    order = "Split by its first cut, then by the next" if several else "Split in data order"
    axes.set_xlabel(f"{order}: from all on {last} to all on {first}")


def _legend(points: pd.DataFrame, parts: pd.DataFrame, crowded: bool) -> Iterator[Line2D | Patch]:
    """Legend of the parts of a bar."""
    hosts, ranks = hosts_by_rank(points), ranks_of(points)
    said = {STAGE.format(rank): f" ({name})" for rank, name in enumerate(hosts)}
    hops = enumerate(itertools.pairwise(hosts if ranks > 2 else ()))
    said |= {wire(rank, ranks): f" ({a} to {b})" for rank, (a, b) in hops}
    styles = styles_of(parts)
    for name in parts.columns:
        if parts[name].notna().any():
            yield Patch(**styles[name], lw=0, label=f"{name}{said.get(name, '')}")
    yield Line2D([], [], color="black", lw=1, label="response latency (median)")
    if crowded and points["on_front"].any():
        yield Line2D([], [], **_ON_FRONT, label="on the Pareto front")
    if crowded and ranks_of(points) > 2:
        yield Line2D([], [], **_NEXT, label="next first cut")
    if crowded and _lost(points).any():
        yield Line2D([], [], **_FAILED, label="failed")
