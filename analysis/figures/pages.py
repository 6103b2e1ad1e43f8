"""Layout of panels: a figure that does not fit on a page takes several."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.captions import Caption, page_of
from analysis.figures.style import title_of

PAGE_IN = (10.5, 14.0)
"""Width and height that no figure exceeds."""

NARROWEST_IN = 6.0
"""Width below which captions would be wrapped into too many lines."""

COLUMN_IN = 3.4
"""Width of a column of a paper."""

_COLUMN_SHAPE, _ENTRY_IN, _LEGEND_PT = 0.78, 0.15, 7
"""Height of a column's panel by its width, of a row of its legend, and the size of its letters."""

_Row = TypeVar("_Row")
_Panel = TypeVar("_Panel", bound=tuple[str, Any])


class Grid(NamedTuple):
    """Panels of one size: the number beside each other on a page, and their height."""

    columns: int
    height_in: float

    @property
    def width_in(self) -> float:
        """Width of a panel."""
        return PAGE_IN[0] / self.columns


GRIDS = (Grid(3, 3.4), Grid(2, 3.9), Grid(1, 5.8))
"""From the smallest panels to the largest, which have the most room for names of one size."""


def rows_that_fit(height_in: float, caption_in: float) -> int:
    """How many rows of panels fit on a page with its caption, at least one."""
    return max(1, int((PAGE_IN[1] - caption_in) / height_in))


def pages(rows: Sequence[_Row], most: int) -> Iterator[Sequence[_Row]]:
    """Divide `rows` into pages of at most `most`, about equally full.

    >>> list(pages("abcd", 3))
    ['ab', 'cd']
    """
    count = -(-len(rows) // most)
    for page in range(count):
        yield rows[len(rows) * page // count : len(rows) * (page + 1) // count]


def _together(groups: Sequence[Sequence[_Row]], most: int) -> Iterator[Sequence[_Row]]:
    """Pages of at most `most` rows, on which groups stay together if possible.

    >>> list(_together(["aa", "b", "cc", "ddddd"], 3))
    [['a', 'a', 'b'], ['c', 'c'], 'dd', 'ddd']
    """
    page: list[_Row] = []
    for rows in groups:
        if len(page) + len(rows) > most:
            if page:
                yield page
            page = []
        if len(rows) > most:
            yield from pages(rows, most)
        else:
            page += rows
    if page:
        yield page


def alone(
    panels: Sequence[_Panel], width_in: float, legend: Sequence[Artist]
) -> Iterator[tuple[Figure, list[tuple[Axes, _Panel]]]]:
    """Make a figure for each panel, as a column of a paper has it: no title, no notes.

    Parameters
    ----------
    panels
        Panels, which are tuples that begin with the title.
    width_in
        Width of a figure.
    legend
        Entries of its legend.

    Yields
    ------
    As :func:`laid_out` does.
    """
    for panel in panels:
        height_in = _COLUMN_SHAPE * width_in + _ENTRY_IN * -(-len(legend) // 2)
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        axes = figure.add_subplot()
        figure.legend(
            handles=list(legend),
            loc="outside lower left",
            ncols=2,
            frameon=False,
            fontsize=_LEGEND_PT,
            borderpad=0,
            columnspacing=1,
            handletextpad=0.6,
        )
        yield figure, [(axes, panel)]


def laid_out(
    groups: Sequence[Sequence[_Panel]], grid: Grid, caption: Caption
) -> Iterator[tuple[Figure, list[tuple[Axes, _Panel]]]]:
    """Make the figures for panels, each with its title and the caption.

    Parameters
    ----------
    groups
        Panels, which are tuples that begin with the title. Each group begins a new row, or a new
        page if it does not fit on the rest of the page.
    grid
        How large the panels are.
    caption
        The caption of every page.

    Yields
    ------
    Each page's figure, and its panels with their axes, which are empty.
    """
    columns = min(grid.columns, max(map(len, groups)))
    width_in = max(NARROWEST_IN, grid.width_in * columns)
    caption_in = caption.height_in(width_in)
    rows = [[group[n : n + columns] for n in range(0, len(group), columns)] for group in groups]
    of_pages = list(_together(rows, rows_that_fit(grid.height_in, caption_in)))
    for number, page in enumerate(of_pages, start=1):
        size = (width_in, grid.height_in * len(page) + caption_in)
        figure = Figure(figsize=size, layout="constrained")
        places = figure.subplots(len(page), columns, squeeze=False)
        held = []
        for row, axes_row in zip(page, places, strict=True):
            for axes in axes_row[len(row) :]:
                axes.remove()
            for axes, panel in zip(axes_row, row, strict=False):
                axes.set_title(title_of(panel[0], width_in / columns))
                held.append((axes, panel))
        caption.write(figure, page_of(number, len(of_pages)))
        yield figure, held


def all_named(pages: Iterable[tuple[Figure, int]]) -> list[Figure] | None:
    """The pages, each with how many names found no room on it; None as soon as one has any."""
    found = []
    for figure, unnamed in pages:
        if unnamed:
            return None
        found.append(figure)
    return found
