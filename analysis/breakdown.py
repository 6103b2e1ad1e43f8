"""The figure that shows where the response latency of each cut goes."""

from __future__ import annotations

import textwrap
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis import labels
from analysis.captions import conditions, explain, link_title
from analysis.style import NARROWEST_IN, STYLE, TITLE, freeze
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


def breakdown(points: pd.DataFrame, attribution: pd.DataFrame | None = None) -> Figure:
    """Draw where one model's response latency goes, cut by cut in the order of the data.

    A row per link, a column per further condition.

    Parameters
    ----------
    points
        Rows of ``points.csv``.
    attribution
        The table ``attribution.csv``. For points that it lacks, what is neither stage's computation
        is drawn as what it is: the rest of the latency.
    """
    with sns.axes_style("ticks"), mpl.rc_context(STYLE):
        # Cuts that are not in the experiment leave no gaps.
        points = points.assign(position=points["position"].rank(method="dense"))
        parts = heights(points, attribution)
        links = list(points["link"].unique())
        columns = list(conditions(points))
        count = points["position"].nunique()
        size = (max(NARROWEST_IN, 0.24 * count + 1.2) * len(columns), 2.1 * len(links) + 1.9)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(links), len(columns), squeeze=False, sharex="col")
        for (title, table), axes_column in zip(columns, grid.T, strict=True):
            for link, axes in zip(links, axes_column, strict=True):
                axes.set_title(textwrap.fill(f"{link_title(table, link)}{title}", TITLE))
                shown = table[table["link"] == link]
                _bars(axes, shown, parts.loc[shown.index])
            axes_column[-1].set_xlabel(
                f"Cut, from all on the last rank ({LAST}) to all on rank 0 ({FIRST})"
            )
        for axes in grid[:, 0]:
            axes.set_ylabel("Time (ms)")
        explain(figure, points, _legend(points, parts))
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
    short = labels.shorten(list(points["split"]))
    ticks = points["position"]
    bottom = np.zeros(len(points))
    for name, style in PARTS.items():
        height = parts[name].to_numpy(np.float64)
        if np.isnan(height).all():
            continue
        axes.bar(ticks, np.nan_to_num(height), 0.78, bottom, lw=0, label=name, **style)
        bottom += np.nan_to_num(height)
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
    axes.set_xticks(ticks, [short[name] for name in points["split"]], rotation=90)
    axes.margins(y=0.08)
    axes.set_xlim(ticks.min() - 0.7, ticks.max() + 0.7)
    axes.grid(True, axis="y")
    axes.set_axisbelow(True)
    sns.despine(ax=axes)


def _legend(points: pd.DataFrame, parts: pd.DataFrame) -> list[Line2D | Patch]:
    """What the parts of a bar mean."""
    hosts = set(points["placement"])
    names = next(iter(hosts)).split(">") if len(hosts) == 1 else ()
    said = {f"stage {rank} compute": f" ({name})" for rank, name in enumerate(names)}
    return [
        *(
            Patch(**style, lw=0, label=f"{name}{said.get(name, '')}")
            for name, style in PARTS.items()
            if parts[name].notna().any()
        ),
        Line2D([], [], color="black", lw=1, label="response latency (median)"),
    ]
