"""The figure of the cost of a backend against the size of the payload."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from analysis.column import LEAST_REPLICATES, OBJECTIVES
from analysis.figures.captions import CONDITION, page_of
from analysis.figures.pages import pages, rows_that_fit
from analysis.figures.style import freeze, save, styled
from analysis.measures.marks import MEANING
from analysis.tables.backend_costs import APART
from paretopipe_worker.plan.plan import slug

_PANELS = {next(iter(OBJECTIVES)): "response latency", APART: "computing apart"}
"""The quantities drawn, each in its own column, the latency first."""
_MARKS = (("#0173b2", "o", "-"), ("#de8f05", "s", "--"), ("#029e73", "D", ":"))
"""Colour, marker and line of each backend."""
_WIDTH_IN, _PANEL_IN = 8.6, 2.3
_APART, _FARTHEST = 0.03, 0.12
"""How far marks of one payload size are moved apart, as a share of it, so that intervals do not
hide each other; and the most by which a mark is moved."""


def draw(backends: pd.DataFrame, directory: Path) -> list[Path]:
    """Draw ``backends-<model>`` as PNG and SVG for each model; return the files."""
    directory.mkdir(parents=True, exist_ok=True)
    files = []
    for model, table in backends.groupby("model", sort=False):
        if not _crossing(table).empty:
            files += save(backend_figure(table), directory, f"backends-{slug(str(model))}")
    return files


def backend_figure(backends: pd.DataFrame) -> list[Figure]:
    """Draw one model's differences against the payload forward, a row per link.

    Two quantities are drawn: the latency, and the latency without computation, since the stages of
    two sessions are seldom equally fast, whatever the backend.

    Parameters
    ----------
    backends
        Rows of one model of ``backends.csv``. Splits at which nothing crosses are left out.

    Returns
    -------
    A figure for each page.
    """
    rows = _crossing(backends)
    notes = _notes(rows)
    caption_in = 0.8 + 0.15 * len(notes)
    of_pages = list(pages(list(rows["link"].unique()), rows_that_fit(_PANEL_IN, caption_in)))
    with styled():
        return [
            _page(rows, links, caption_in, notes, page_of(number, len(of_pages)))
            for number, links in enumerate(of_pages, start=1)
        ]


def _page(
    rows: pd.DataFrame, links: Sequence[str], caption_in: float, notes: Sequence[str], page: str
) -> Figure:
    """The links of one page."""
    reference = rows["reference"].iloc[0]
    marks = dict(zip(rows["backend"].unique(), itertools.cycle(_MARKS), strict=False))
    size = (_WIDTH_IN, _PANEL_IN * len(links) + caption_in)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(links), 2, squeeze=False, sharex=True)
    for link, panels in zip(links, grid, strict=True):
        for axes, (quantity, said) in zip(panels, _PANELS.items(), strict=True):
            axes.axhline(0, color="0.4", lw=0.8, zorder=1)
            shown = rows[(rows["link"] == link) & (rows["quantity"] == quantity)]
            for number, (backend, mark) in enumerate(marks.items()):
                own = shown[shown["backend"] == backend]
                _series(axes, own, mark, number - (len(marks) - 1) / 2)
            axes.set_ylabel(f"Minus {reference}'s (ms)")
            axes.set_title(f"link {link}: {said}")
            _scale(axes)
    for axes in grid[-1]:
        axes.set_xlabel("Payload forward")
    figure.suptitle(
        f"{rows['model'].iloc[0]}: what other backends take more than {reference}{page}",
        x=0.01,
        ha="left",
        fontsize=10.5,
    )
    figure.legend(
        handles=_legend(rows, marks),
        loc="outside lower left",
        ncols=4,
        frameon=False,
        title="\n".join(notes),
        title_fontsize=8,
        alignment="left",
    )
    freeze(figure)
    return figure


def _crossing(backends: pd.DataFrame) -> pd.DataFrame:
    """The differences drawn, at splits at which something crosses."""
    rows = backends[backends["quantity"].isin(_PANELS)]
    return rows[(rows["payload_bytes"] > 0) & rows["difference"].notna()]


def _series(axes: Axes, rows: pd.DataFrame, mark: tuple[str, str, str], place: float) -> None:
    """Draw one backend over one link: a mark for each cut, and a line through the medians."""
    colour, marker, line = mark
    middle = rows.groupby("payload_bytes")["difference"].median()
    axes.plot(middle.index, middle, lw=0.9, alpha=0.6, color=colour, ls=line, zorder=2)
    groups = rows.groupby("payload_bytes")["payload_bytes"]
    most = groups.transform("size") - 1
    step = np.minimum(1, 2 * np.log1p(_FARTHEST) / np.log1p(_APART) / most.clip(lower=1))
    among = step * (groups.cumcount() - most / 2)
    x = rows["payload_bytes"] * (1 + _APART) ** (among + place / 3)
    ends = rows["difference_low"], rows["difference_high"]
    axes.vlines(x, *ends, color=colour, lw=0.8, alpha=0.7, zorder=2)
    certified = rows["link_certified"].ne(False).fillna(True).astype("bool")
    for where, face in ((certified, colour), (~certified, "white")):
        axes.plot(
            x[where],
            rows.loc[where, "difference"],
            ls="",
            marker=marker,
            ms=4,
            mew=0.9,
            color=colour,
            mfc=face,
            zorder=3,
        )


def _scale(axes: Axes) -> None:
    """Make the axis of sizes logarithmic."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_major_formatter(FuncFormatter(_bytes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.05, y=0.12)
    axes.grid(True)
    axes.set_axisbelow(True)
    sns.despine(ax=axes)


def _bytes(value: float, _: int = 0) -> str:
    """A size with the unit that keeps it short."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g} B"


def _legend(rows: pd.DataFrame, marks: dict[Any, tuple[str, str, str]]) -> list[Line2D]:
    """Legend of colours and markers."""
    handles = [
        Line2D([], [], color=colour, marker=marker, ls=line, ms=4, lw=0.9, label=backend)
        for backend, (colour, marker, line) in marks.items()
    ]
    if rows["link_certified"].eq(False).fillna(False).any():
        said = "link not as asked for"
        handles.append(Line2D([], [], ls="", marker="o", color="0.3", mfc="white", label=said))
    return handles


def _notes(rows: pd.DataFrame) -> list[str]:
    """Notes that a reader needs."""
    least = int(rows["pairs"].min())
    notes = ["A mark is a cut, a line the median of cuts of one size."]
    notes += [
        f"Shown together: {name} {', '.join(map(str, rows[name].unique()))}."
        for name in CONDITION
        if name != "backend"
        if rows[name].nunique() > 1
    ]
    if np.isnan(rows["difference_low"].astype("float64")).any():
        notes.append(
            f"Differences of fewer than {LEAST_REPLICATES} pairs of replicates have no interval."
        )
    if rows["difference_low"].notna().any():
        notes.append(
            "Bars: 95 % t-intervals of the differences, paired by replicate "
            f"({max(least, LEAST_REPLICATES)} or more pairs)."
        )
    first = rows[rows["quantity"] == next(iter(_PANELS))]
    return [*notes, *doubts(first)]


def doubts(latency: pd.DataFrame) -> Iterator[str]:
    """How many of the pairs are marked, as sentences; `latency` has one row per cut and backend."""
    total = latency["pairs"].sum()
    off = latency["link_certified"].eq(False).fillna(False).astype("bool")
    for count, said in (
        (latency.loc[off, "pairs"].sum(), "are of cuts whose link was not as asked for"),
        (latency["late_pairs"].sum(), MEANING["late"]),
        (latency["disturbed_pairs"].sum(), MEANING["disturbed"]),
    ):
        if count:
            yield f"{count} of {total} pairs of replicates {said}."
