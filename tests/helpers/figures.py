"""Reading figures as a person would: what they show, and whether it can be read."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from analysis.figures import labels, of_run
from analysis.figures.pages import PAGE_IN


def files_of(*given: Any) -> list[Path]:
    """Draw the figures of a run; the files."""
    return [file for page in of_run.pages(*given) for file in page()]


def undrawn(*_: Any) -> list[Path]:
    """Draw no figures, in place of what draws them or returns the pages to be drawn."""
    return []


def one_page(pages: list[Figure]) -> Figure:
    """The figure of a run that is small enough for one page."""
    [figure] = pages
    assert_fits_a_page(figure)
    return figure


def assert_fits_a_page(figure: Figure) -> None:
    """The figure is no wider and no higher than a page."""
    width, height = figure.get_size_inches()
    assert width <= PAGE_IN[0] and height <= PAGE_IN[1]


def names(figure: Figure) -> list[Text]:
    """The names of points in a figure."""
    return [text for axes in figure.axes for text in axes.texts if text.get_gid() == labels.GID]


def _canvas(figure: Figure) -> Any:
    """A canvas for a figure; matplotlib tells no types of what it does."""
    return FigureCanvasAgg(figure)


def overlapping(texts: list[Text], figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts whose rendered boxes overlap."""
    renderer = _canvas(figure).get_renderer()
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts]
    return [
        (first, second)
        for (first, a), (second, b) in itertools.combinations(boxes, 2)
        if a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1
    ]


def assert_readable(figure: Figure, count: int) -> None:
    """The figure names `count` points, inside their panel and clear of each other."""
    found = names(figure)
    assert len(found) == count
    assert not overlapping(found, figure)
    renderer = _canvas(figure).get_renderer()
    for text in found:
        assert text.axes is not None
        box, frame = text.get_window_extent(renderer), text.axes.get_window_extent()
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1, text.get_text()
        assert frame.y0 <= box.y0 and box.y1 <= frame.y1, text.get_text()


def shown_texts(figure: Figure) -> list[Text]:
    """All texts that a reader sees."""
    _canvas(figure).draw()
    # Ticks beyond the limits are there but not drawn.
    beyond = {
        tick.label1
        for axes in figure.axes
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim()))
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        if not low <= tick.get_loc() <= high
    }
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    return [text for text in texts if text not in beyond]


def assert_texts_are_clear(figure: Figure) -> None:
    """All texts are inside the figure, and none covers another."""
    texts = shown_texts(figure)
    assert len(texts) > 15
    assert not overlapping(texts, figure)
    renderer = _canvas(figure).get_renderer()
    for text in texts:
        box = text.get_window_extent(renderer)
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, text.get_text()
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, text.get_text()
