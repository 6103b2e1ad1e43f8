"""The figure that shows where the response latency of each cut goes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import CARETDOWN
from matplotlib.patches import Patch

from analysis.figures import labels
from analysis.figures.captions import Caption, conditions, explain, link_title, page_of
from analysis.figures.crowded import ENDPOINTS, NAMED
from analysis.figures.labels import Floats
from analysis.figures.pages import NARROWEST_IN, PAGE_IN, pages, rows_that_fit
from analysis.figures.style import STYLE, freeze, title_of
from paretopipe_worker.cuts import FIRST, LAST

PARTS: dict[str, dict[str, Any]] = {
    "stage 0 compute": {"facecolor": "#3b5b92"},
    "stage 1 compute": {"facecolor": "#e0a458"},
    "wire forward": {"facecolor": "#dcebe4", "edgecolor": "#3f7d64", "hatch": "////"},
    "wire back": {"facecolor": "#a9cdbd", "edgecolor": "#3f7d64", "hatch": "\\\\\\\\"},
    "wire, there and back": {"facecolor": "#dcebe4", "edgecolor": "#3f7d64", "hatch": "xxxx"},
    "serialise": {"facecolor": "#a5323c"},
    "queue": {"facecolor": "white", "edgecolor": "0.2", "hatch": "....."},
    "latency - compute (not attributed)": {
        "facecolor": "#d9d9d9",
        "edgecolor": "0.65",
        "hatch": "----",
    },
}
"""Parts of a bar from the bottom up: told apart by brightness and hatch too, as print needs."""

_LATENCY = "latency_median_ms"
_REST = next(reversed(PARTS))


_PANEL_IN = 1.85
_AXIS_IN = 0.75
"""What the names of cuts take below the last row."""
_CUT_IN = 0.24
_TICK_IN = 0.14
"""How close two names of cuts may be."""
_FRAME_IN = 0.9
"""What of a panel's width lies beside its axes."""
_CROWDED = (
    f"of more than {NAMED} cuts the endpoints and those on a front are named, where there is room; "
    "all are in points.csv and attribution.csv"
)


def breakdown(points: pd.DataFrame, attribution: pd.DataFrame | None = None) -> list[Figure]:
    """Draw where one model's response latency goes, cut by cut in the order of the data.

    A row per link, a column per further condition. Where there are more cuts than names have room
    for, bars touch, those on the front are marked, and only these and the endpoints are named.

    Parameters
    ----------
    points
        Rows of ``points.csv``.
    attribution
        The table ``attribution.csv``. For points that it lacks, what is neither stage's computation
        is drawn as what it is: the rest of the latency.

    Returns
    -------
    A figure for each page.
    """
    # Cuts that are not in the experiment leave no gaps.
    points = points.assign(position=points["position"].rank(method="dense"))
    parts = heights(points, attribution)
    columns = list(conditions(points))
    count = points["position"].nunique()
    crowded = count > NAMED
    beside = min(len(columns), 1 if crowded else 2)
    alone_in = PAGE_IN[0] if crowded else max(NARROWEST_IN, _CUT_IN * count + 1.2)
    width_in = min(alone_in, PAGE_IN[0] / beside)
    caption = explain(points, _legend(points, parts, crowded), *([_CROWDED] if crowded else []))
    most = rows_that_fit(_PANEL_IN, caption.height_in(width_in * beside) + _AXIS_IN)
    links = list(points["link"].unique())
    of_pages = list(itertools.product(pages(columns, beside), pages(links, most)))
    with sns.axes_style("ticks"), mpl.rc_context(STYLE):
        return [
            _page(page, parts, width_in, caption, page_of(number, len(of_pages)))
            for number, page in enumerate(of_pages, start=1)
        ]


def _page(
    page: tuple[Sequence[tuple[str, pd.DataFrame]], Sequence[str]],
    parts: pd.DataFrame,
    width_in: float,
    caption: Caption,
    number: str,
) -> Figure:
    """One page: some conditions, some links; panels are `width_in` wide."""
    columns, links = page
    total_in = width_in * len(columns)
    height_in = _PANEL_IN * len(links) + _AXIS_IN + caption.height_in(total_in)
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


def heights(points: pd.DataFrame, attribution: pd.DataFrame | None = None) -> pd.DataFrame:
    """Milliseconds of each of :data:`PARTS` in each point's latency, null where there is none.

    Returns
    -------
    The index of `points`, and a column for each part.
    """
    if attribution is None or attribution.empty:
        return _unattributed(points)
    ms = attribution.pivot(index="point", columns=["rank", "kind"], values="ms")
    ms = ms.reindex(points["point"]).set_axis(points.index)
    ranks = ms.columns.get_level_values("rank")
    kinds = ms.columns.get_level_values("kind")

    def added(*names: str, of: Any = True) -> pd.Series:
        found: pd.Series = ms.loc[:, kinds.isin(names) & of].sum(axis=1, min_count=1)
        return found

    back = ranks == ranks.max()
    forward = added("wire", of=~back)
    # Without clocks that were compared only the sum of both ways is known.
    unknown = forward.isna()
    table = pd.DataFrame(
        {
            "stage 0 compute": added("compute", of=ranks == 0),
            "stage 1 compute": added("compute", of=ranks == 1),
            "wire forward": forward,
            "wire back": added("wire", of=back),
            "wire, there and back": points["wire_ms"].where(unknown),
            "serialise": added("serialise"),
            "queue": added("queue", "send_queue"),
        }
    )
    lacking = table["queue"].isna()
    return table.mask(lacking, _unattributed(points))[[*table]].assign(
        **{_REST: _unattributed(points)[_REST].where(lacking)}
    )


def _unattributed(points: pd.DataFrame) -> pd.DataFrame:
    """Computation of the stages and the rest of the latency."""
    table = pd.DataFrame(index=points.index, columns=list(PARTS), dtype="float64")
    for rank in range(2):
        table[f"stage {rank} compute"] = points[f"stage{rank}_compute_ms"]
    # Medians need not add up: a rest below nothing is not drawn, the mark shows the latency.
    table[_REST] = (points[_LATENCY] - table.sum(axis=1)).clip(lower=0)
    return table


def _bars(axes: Axes, points: pd.DataFrame, parts: pd.DataFrame) -> None:
    """Stack the parts of each cut's latency, and mark the latency itself."""
    ticks = points["position"]
    for name, bottom, top in _stacked(parts):
        axes.bar(ticks, top - bottom, 0.78, bottom, lw=0, label=name, **PARTS[name])
    latency = points[_LATENCY].to_numpy()
    axes.hlines(latency, ticks - 0.39, ticks + 0.39, color="black", lw=1)
    for tick in ticks[points["status"] != "ok"]:
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


def _outline(axes: Axes, points: pd.DataFrame, parts: pd.DataFrame) -> None:
    """The same for many cuts: bars without gaps, each part one shape, the front marked."""
    order = points["position"].sort_values().index
    ticks = points.loc[order, "position"].to_numpy(np.float64)
    edges = np.append(ticks - 0.5, ticks[-1] + 0.5)
    for name, bottom, top in _stacked(parts.loc[order]):
        axes.stairs(top, edges, baseline=bottom, fill=True, lw=0, label=name, **PARTS[name])
    latency = points.loc[order, _LATENCY].to_numpy(np.float64)
    axes.stairs(latency, edges, baseline=None, color="black", lw=0.8)
    best, failed = points[points["on_front"]], points[points["status"] != "ok"]
    # Marks outside the axes are part of the layout, and those that are nowhere would break it.
    if len(best):
        axes.plot(best["position"], best[_LATENCY], **_ON_FRONT)
    if len(failed):
        axes.plot(failed["position"], np.zeros(len(failed)), **_FAILED)


_MARK: dict[str, Any] = {"ls": "", "zorder": 5, "clip_on": False}
_ON_FRONT = _MARK | {"marker": CARETDOWN, "ms": 4, "color": "black"}
_FAILED = _MARK | {"marker": "x", "ms": 3, "color": "0.35"}


def _stacked(parts: pd.DataFrame) -> Iterator[tuple[str, Floats, Floats]]:
    """Name, lower and upper end of each part that there is, from the bottom up."""
    top = np.zeros(len(parts))
    for name in PARTS:
        height = parts[name].to_numpy(np.float64)
        if not np.isnan(height).all():
            bottom, top = top, top + np.nan_to_num(height)
            yield name, bottom, top


def _scale(axes: Axes, points: pd.DataFrame, parts: pd.DataFrame) -> None:
    """Limits, and lines to read times by."""
    most = np.nanmax([0.0, points[_LATENCY].max(), parts.sum(axis=1).max()])
    axes.set_ylim(0, 1.08 * most or 1.0)
    axes.set_xlim(points["position"].min() - 0.7, points["position"].max() + 0.7)
    axes.grid(True, axis="y")
    axes.set_axisbelow(True)
    sns.despine(ax=axes)


def _name_cuts(axes: Axes, points: pd.DataFrame, width_in: float) -> None:
    """Name the cuts below the last row: all, or of many the endpoints and those on a front."""
    cuts = points.groupby("position").agg(split=("split", "first"), fronts=("on_front", "sum"))
    if len(cuts) > NAMED:
        cuts["fronts"] = cuts["fronts"].mask(cuts["split"].isin(ENDPOINTS), np.inf)
        wanted = cuts[cuts["fronts"] > 0].sort_values("fronts", ascending=False, kind="stable")
        apart = _TICK_IN * (len(cuts) + 0.4) / (width_in - _FRAME_IN)
        kept: list[float] = []
        for tick in wanted.index:
            if all(abs(tick - other) >= apart for other in kept):
                kept.append(tick)
        cuts = cuts.loc[sorted(kept)]
    short = labels.shorten(list(points["split"].unique()))
    axes.set_xticks(list(cuts.index), [short[name] for name in cuts["split"]], rotation=90)
    axes.set_xlabel(f"Cut, from all on the last rank ({LAST}) to all on rank 0 ({FIRST})")


def _legend(points: pd.DataFrame, parts: pd.DataFrame, crowded: bool) -> Iterator[Line2D | Patch]:
    """What the parts of a bar mean."""
    hosts = set(points["placement"])
    names = next(iter(hosts)).split(">") if len(hosts) == 1 else ()
    said = {f"stage {rank} compute": f" ({name})" for rank, name in enumerate(names)}
    for name, style in PARTS.items():
        if parts[name].notna().any():
            yield Patch(**style, lw=0, label=f"{name}{said.get(name, '')}")
    yield Line2D([], [], color="black", lw=1, label="response latency (median)")
    if crowded and points["on_front"].any():
        yield Line2D([], [], **_ON_FRONT, label="on the Pareto front")
    if crowded and (points["status"] != "ok").any():
        yield Line2D([], [], **_FAILED, label="failed")
