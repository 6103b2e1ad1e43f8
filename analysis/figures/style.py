"""Style of all figures, and how they are written to files."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.figure import Figure

_TITLE_PER_IN = 12.5
"""Characters of a panel's title per inch."""
_BESIDE_IN = 0.65
"""Part of a panel's width left of its axes, where the title begins."""
DPI = 200
KINDS: dict[str, dict[str, Any]] = {
    # The usual level, 6, takes half as long again, for a file that is a tenth smaller.
    "png": {"pil_kwargs": {"compress_level": 2}},
    # Without the date the same records give the same file.
    "svg": {"metadata": {"Date": None}},
    "pdf": {"metadata": {"CreationDate": None}},
}
"""Formats of figures, and with what a file of each is written."""
USUAL_KINDS = ("png", "svg")
STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Helvetica", "Arial"],
    # Text stays text in SVG, and a whole font that can be searched lies in PDF.
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    # Names may hold a dollar sign.
    "text.parse_math": False,
    "svg.hashsalt": "paretopipe",
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "axes.linewidth": 0.7,
    "grid.linewidth": 0.5,
    "grid.color": "0.92",
    "hatch.linewidth": 0.4,
}


@contextmanager
def styled() -> Iterator[None]:
    """Lay figures out in the style of all of them."""
    with sns.axes_style("ticks"), mpl.rc_context(STYLE):
        yield


def title_of(text: str, width_in: float) -> str:
    """A panel's title, wrapped to the width of the panel."""
    return textwrap.fill(text, int(_TITLE_PER_IN * (width_in - _BESIDE_IN)))


def palette() -> list[Any]:
    """Colours that colour-blind readers can tell apart, and that are visible on white."""
    colours: list[Any] = sns.color_palette("colorblind")
    # Yellow is hard to see.
    del colours[8]
    return colours


def save(
    pages: Iterable[Figure], directory: Path, name: str, kinds: Sequence[str] = USUAL_KINDS
) -> list[Path]:
    """Write a figure's pages, and return the files; page 2 gets the suffix -2.

    Parameters
    ----------
    kinds
        Formats, some of :data:`KINDS`.
    """
    files, number = [], 0
    for number, figure in enumerate(pages, start=1):
        files += save_page(figure, directory, name, number, kinds)
    remove_further(directory, name, number)
    return files


def save_page(
    figure: Figure, directory: Path, name: str, number: int, kinds: Sequence[str] = USUAL_KINDS
) -> list[Path]:
    """Write one page of those that :func:`save` writes."""
    files = []
    for kind in kinds:
        file = directory / f"{name}{f'-{number}' if number > 1 else ''}.{kind}"
        with mpl.rc_context(STYLE):
            figure.savefig(file, dpi=DPI, **KINDS[kind])
        files.append(file)
    return files


def remove_further(directory: Path, name: str, count: int) -> None:
    """Remove the pages after the first `count` that an earlier analysis left."""
    for file in directory.glob(f"{name}-*"):
        # No model's name has a hyphen.
        page = re.fullmatch(r"-(\d+)\.(png|svg|pdf)", file.name.removeprefix(name))
        if page and int(page[1]) > count:
            file.unlink(missing_ok=True)


def freeze(figure: Figure) -> None:
    """Lay the figure out once, so that texts placed by hand stay in place."""
    layout = figure.get_layout_engine()
    assert layout is not None
    layout.execute(figure)
    # With any engine, even the one that does nothing, each file would be drawn twice.
    figure.set_layout_engine(None)
