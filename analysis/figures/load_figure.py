"""The figure of offered load: how latency grows with the rate at which items arrive."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from analysis.figures import labels
from analysis.figures.captions import (
    MARKER_PT,
    conditions,
    disturbed_legend,
    explain,
    link_title,
    strike,
)
from analysis.figures.crowded import NAMED, thin
from analysis.figures.names import called, sole
from analysis.figures.pages import GRIDS, Grid, all_named, laid_out
from analysis.figures.style import freeze, palette, styled
from paretopipe_worker.plan.arrivals import KEEPS_UP, KNEE_LATENCY

_OFFERED, _LATENCY, _P90 = "offered_images_s", "latency_median_ms", "latency_p90_ms"
_MARKERS = "osD^vP*X"
_CROWDED = f"of more than {NAMED} splits a panel shows {NAMED}, evenly spaced; all are in load.csv"
_NO_ROOM = "names for which there was no room are left out"


def load_figure(points: pd.DataFrame, stages: pd.DataFrame, curve: pd.DataFrame) -> list[Figure]:
    """Draw one model's latency against offered load: a panel per link, a line per split.

    Parameters
    ----------
    points
        The model's rows of ``points.csv``.
    stages
        The table ``stages.csv``.
    curve
        Its rows of ``load.csv``. The splits on the front are drawn, or all if none is, but no more
        than :data:`analysis.figures.crowded.NAMED` in a panel.

    Returns
    -------
    A figure for each page.
    """
    # At a step that some replicates did not offer, the row describes the others only.
    curve = curve[curve["replicates_ended"] == 0]
    parts = [
        (f"{link_title(points, str(link))}{title}", _worth(rows))
        for title, table in conditions(curve)
        for link, rows in table.groupby("link", sort=False)
    ]
    panels = [(title, _few(rows)) for title, rows in parts]
    crowded = any(len(few) < len(rows) for (_, few), (_, rows) in zip(panels, parts, strict=True))
    notes = [_CROWDED] if crowded else []
    with styled():
        for grid in GRIDS:
            if figures := all_named(_figures(points, stages, panels, grid, notes)):
                return figures
        drawn = _figures(points, stages, panels, GRIDS[-1], [*notes, _NO_ROOM])
        return [figure for figure, _ in drawn]


def _worth(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the splits on the front, or of all splits if none is."""
    return rows[rows["on_front"]] if rows["on_front"].any() else rows


def shown(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the splits of one group that are worth showing, no more than a panel can name."""
    return _few(_worth(rows))


def _few(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of no more splits than a panel can name: the endpoints, and evenly spaced ones."""
    splits = rows.drop_duplicates("split")
    ends = sole(splits).notna()
    kept = [*splits.loc[ends, "split"], *thin(splits[~ends], NAMED - int(ends.sum()))["split"]]
    return rows[rows["split"].isin(kept)]


def _figures(
    points: pd.DataFrame,
    stages: pd.DataFrame,
    panels: Sequence[tuple[str, pd.DataFrame]],
    grid: Grid,
    notes: Sequence[str],
) -> Iterator[tuple[Figure, int]]:
    """Each page with panels of the size of `grid`, and how many names found no room on it."""
    shown = pd.concat([rows for _, rows in panels])
    styles = _styles(shown.sort_values("position"))
    # The marks of disturbed points are about other legs; these legs have marks of their own.
    drawn = points[points["point"].isin(shown["point"])].assign(disturbed=False)
    caption = explain(drawn, stages, _legend(shown), *notes)
    names = called(shown)
    for figure, places in laid_out([panels], grid, caption):
        for axes, (_, rows) in places:
            for split, line in rows.groupby("split", sort=False):
                _line(axes, line, *styles[str(split)])
            _scales(axes, rows)
        freeze(figure)
        yield figure, sum(_name(axes, rows, names, styles) for axes, (_, rows) in places)


def _styles(shown: pd.DataFrame) -> dict[str, tuple[Any, str]]:
    """Colour and marker of each split, the same in all panels."""
    looks = zip(itertools.cycle(palette()), itertools.cycle(_MARKERS), strict=False)
    return dict(zip(map(str, shown["split"].unique()), looks, strict=False))


def _line(axes: Axes, line: pd.DataFrame, colour: Any, marker: str) -> None:
    """Draw one split, with filled markers up to the knee and hollow ones beyond it."""
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
    """Start rates at 0; make latency logarithmic where it spans more than a factor of five."""
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
    axes: Axes, rows: pd.DataFrame, names: pd.Series, styles: dict[str, tuple[Any, str]]
) -> int:
    """Name each line at its end; return how many names found no room."""
    known = rows.dropna(subset=_LATENCY)
    last = known.drop_duplicates("split", keep="last")
    return labels.place(
        axes,
        last[[_OFFERED, _LATENCY]].to_numpy(dtype=np.float64),
        list(names[last.index]),
        [MARKER_PT] * len(last),
        known[[_OFFERED, _LATENCY]].to_numpy(dtype=np.float64),
        [styles[str(name)][0] for name in last["split"]],
    )


def _legend(shown: pd.DataFrame) -> Iterator[Line2D | Patch]:
    """Legend of lines and markers."""
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
