"""The map of which split is predicted to be the best over links of each rate and delay."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray
from scipy import ndimage

from analysis.figures import labels
from analysis.figures.captions import abbreviations, page_of
from analysis.figures.names import called
from analysis.figures.pages import PAGE_IN, pages, rows_that_fit
from analysis.figures.style import freeze, save, styled
from paretopipe_worker.plan.plan import slug

_PANEL_IN, _CAPTION_IN = 3.4, 0.8
_TITLES = ("lowest latency", "highest throughput", "knee of both")
_MARK_PT = 2.5
"""Radius of the mark of a link, in pt (1/72 inch)."""

_TITLE_PER_IN = 14
"""Letters of a row's title per inch."""

_PALEST, _DARKEST = 0.98, 0.12
"""Ends of the scale of colours: its lightness alone tells regions apart, in grey as well."""

_GAP_PX = 3.0
"""Least distance of a name from the border of its region."""


@dataclass(frozen=True)
class Regions:
    """What is drawn in one row of panels.

    Parameters
    ----------
    title
        What the pipeline is, and what predictions of it were off by.
    placement
        Its hosts.
    splits
        Labels of splits, in the order of the data.
    rates, delays
        Mbit/s, length r; milliseconds, length d.
    best
        Array (3, d, r) of numbers of splits: those of the lowest latency, of the highest
        throughput, and of the knee.
    links
        Names, rates and delays of the links that were measured.
    """

    title: str
    placement: str
    splits: Sequence[str]
    rates: NDArray[np.float64]
    delays: NDArray[np.float64]
    best: NDArray[np.int64]
    links: Sequence[tuple[str, float, float]]


def draw(model: str, rows: Sequence[Regions], directory: Path) -> list[Path]:
    """Draw ``whatif-MODEL`` as PNG and SVG, a row of panels for each pipeline; return the files."""
    directory.mkdir(parents=True, exist_ok=True)
    return save(whatif_figure(model, rows), directory, f"whatif-{slug(model)}")


def whatif_figure(model: str, rows: Sequence[Regions]) -> list[Figure]:
    """Draw the maps of one model, and return a figure for each page."""
    of_pages = list(pages(list(rows), rows_that_fit(_PANEL_IN, _CAPTION_IN)))
    with styled():
        return [
            _page(model, page, page_of(number, len(of_pages)))
            for number, page in enumerate(of_pages, start=1)
        ]


def _page(model: str, rows: Sequence[Regions], page: str) -> Figure:
    """The maps of some pipelines."""
    width_in = PAGE_IN[0]
    figure = Figure(figsize=(width_in, _PANEL_IN * len(rows) + _CAPTION_IN), layout="constrained")
    parts: Any = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    panels = []
    for part, regions in zip(parts, rows, strict=True):
        part.suptitle(
            textwrap.fill(regions.title, int(_TITLE_PER_IN * width_in)),
            x=0.01,
            ha="left",
            fontsize=8.5,
        )
        places = part.subplots(1, len(_TITLES), sharey=True)
        for axes, title in zip(places, _TITLES, strict=True):
            axes.set_title(title)
            _scale(axes, regions)
        places[0].set_ylabel("One-way delay (ms)")
        panels.append((places, regions))
    beyond = dict.fromkeys(text for regions in rows for text in _beyond(regions))
    notes = [
        "Predicted, not measured: the best split over links of each rate and delay. Circles are "
        "links that the run measured.",
        *([f"Beyond the map: {', '.join(beyond)}."] if beyond else []),
        *(f"{text}." for text in abbreviations(pd.concat(map(_table, rows)))),
        "Regions too small for a name are in whatif.csv.",
    ]
    figure.suptitle(
        f"{model}: where to split over which link, predicted{page}",
        x=0.01,
        ha="left",
        fontsize=10.5,
    )
    figure.supxlabel("\n".join(notes), x=0.01, ha="left", fontsize=8)
    freeze(figure)
    for places, regions in panels:
        names = _names(regions)
        for axes, best in zip(places, regions.best, strict=True):
            _fill(axes, regions, best, names)
    return figure


def _names(regions: Regions) -> dict[int, str]:
    """The names of the splits that are the best anywhere, in the order of the data."""
    table = _table(regions)
    return dict(zip(table.index.tolist(), called(table), strict=True))


def _table(regions: Regions) -> pd.DataFrame:
    """The splits that are the best anywhere by number, with their placement."""
    numbers = np.unique(regions.best)
    splits = [regions.splits[number] for number in numbers]
    return pd.DataFrame({"split": splits, "placement": regions.placement}, index=numbers)


def _scale(axes: Axes, regions: Regions) -> None:
    """Make both axes logarithmic, with their limits."""
    for axis, set_scale, set_limits, values in (
        (axes.xaxis, axes.set_xscale, axes.set_xlim, regions.rates),
        (axes.yaxis, axes.set_yscale, axes.set_ylim, regions.delays),
    ):
        set_scale("log")
        set_limits(values[0], values[-1])
        axis.set_major_locator(LogLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    axes.set_xlabel("Rate (Mbit/s)")


def _fill(axes: Axes, regions: Regions, best: NDArray[np.int64], names: dict[int, str]) -> None:
    """Colour the regions of one panel, and write the names of links and splits into them."""
    order = {number: place for place, number in enumerate(names)}
    shades = np.linspace(_PALEST, _DARKEST, max(2, len(names)))
    colours = mpl.colormaps["cividis"](shades)
    cells = np.vectorize(order.__getitem__)(best)
    axes.pcolormesh(
        regions.rates,
        regions.delays,
        cells,
        cmap=ListedColormap(list(colours)),
        vmin=-0.5,
        vmax=len(colours) - 0.5,
        shading="nearest",
        rasterized=True,
        zorder=1,
    )
    _outline(axes, regions, cells)
    taken = np.zeros(cells.shape, dtype=bool)
    for text in _mark(axes, regions):
        taken |= _covered(axes, text, cells.shape)
    for number, name in names.items():
        pale = np.dot(colours[order[number]][:3], (0.299, 0.587, 0.114)) > 0.45
        _name(axes, regions, (cells == order[number]) & ~taken, name, "black" if pale else "white")


def _outline(axes: Axes, regions: Regions, cells: NDArray[np.int64]) -> None:
    """Draw the borders between regions, halfway between neighbouring cells."""
    rates, delays = (_edges(values) for values in (regions.rates, regions.delays))
    style: Any = {"color": "black", "lw": 0.6, "zorder": 2}
    for row, column in np.argwhere(np.diff(cells, axis=1)):
        axes.plot([rates[column + 1]] * 2, delays[row : row + 2], **style)
    for row, column in np.argwhere(np.diff(cells, axis=0)):
        axes.plot(rates[column : column + 2], [delays[row + 1]] * 2, **style)


def _edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The ends of the cells around values that grow by equal factors."""
    half = np.sqrt(values[1] / values[0])
    edges: NDArray[np.float64] = np.append(values / half, values[-1] * half)
    return edges


def _within(regions: Regions, rate: float, delay: float) -> bool:
    """Whether a link is on the map."""
    rates, delays = regions.rates, regions.delays
    return bool(rates[0] <= rate <= rates[-1] and delays[0] <= delay <= delays[-1])


def _beyond(regions: Regions) -> Iterator[str]:
    """The links that are not on the map."""
    for name, rate, delay in regions.links:
        if not _within(regions, rate, delay):
            digits = [
                np.format_float_positional(value, 2, fractional=False, trim="-")
                for value in (rate, delay)
            ]
            yield f"{name} ({digits[0]} Mbit/s, {digits[1]} ms)"


def _mark(axes: Axes, regions: Regions) -> list[Text]:
    """Mark the links that were measured, with their names."""
    shown = [link for link in regions.links if _within(regions, *link[1:])]
    names = [name for name, _, _ in shown]
    places = np.array([at for _, *at in shown], dtype=np.float64).reshape(-1, 2)
    axes.plot(*places.T, "o", ms=2 * _MARK_PT, mfc="white", mec="black", mew=1.0, zorder=5)
    before = set(axes.lines)
    labels.place(
        axes, places, names, [_MARK_PT] * len(shown), np.empty((0, 2)), ["black"] * len(shown)
    )
    texts = [text for text in axes.texts if text.get_gid() == labels.GID]
    for artist in (*texts, *(line for line in axes.lines if line not in before)):
        # They must be read on any colour.
        artist.set(path_effects=[withStroke(linewidth=2.2, foreground="white")], zorder=6)
    return texts


def _covered(axes: Axes, text: Text, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The cells that a text with its mark covers."""
    frame, box = axes.get_window_extent(), text.get_window_extent().padded(8)
    covered = np.zeros(shape, dtype=bool)
    ends = [
        np.clip(np.round((value - low) / size * count), 0, count).astype(int)
        for value, low, size, count in (
            (np.array([box.x0, box.x1]), frame.x0, frame.width, shape[1]),
            (np.array([box.y0, box.y1]), frame.y0, frame.height, shape[0]),
        )
    ]
    covered[ends[1][0] : ends[1][1] + 1, ends[0][0] : ends[0][1] + 1] = True
    return covered


def _name(axes: Axes, regions: Regions, cells: NDArray[np.bool_], name: str, colour: str) -> None:
    """Write a name into the roomiest place of its region, upright if need be, or not at all."""
    frame = axes.get_window_extent()
    for rotation in (0, 90):
        text = axes.text(
            0.5,
            0.5,
            name,
            transform=axes.transAxes,
            fontsize=8,
            color=colour,
            ha="center",
            va="center",
            rotation=rotation,
            zorder=4,
        )
        box = text.get_window_extent()
        # So many cells the name needs around its middle.
        size = [
            2 * int(np.ceil((length + _GAP_PX) / 2 / whole * count)) + 1
            for length, whole, count in (
                (box.height, frame.height, cells.shape[0]),
                (box.width, frame.width, cells.shape[1]),
            )
        ]
        room = ndimage.minimum_filter(cells, size=size, mode="constant", cval=False)
        if room.any():
            depth = ndimage.distance_transform_edt(np.pad(cells, 1))[1:-1, 1:-1]
            row, column = np.unravel_index(np.argmax(np.where(room, depth, -1)), cells.shape)
            text.set(transform=axes.transData, x=regions.rates[column], y=regions.delays[row])
            return
        text.remove()
