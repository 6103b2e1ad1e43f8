"""What the colours of a figure of fronts tell apart: links, or what else an experiment varies."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.captions import CONDITION, LINK, link_title, worded
from analysis.figures.style import palette

_KINDS = {
    "wire": "wire formats",
    "runtimes": "runtimes",
    "dtype": "number formats",
    "sources": "numbers of sources",
    "busy": "loads",
    LINK: "links",
}
"""What may have colours, in the order of preference, and what its values are called."""

ERROR = "max_relative_error"


class Series:
    """The column whose values have colours in one figure.

    It is the first of wire format, runtimes, number format, number of sources and load that has
    several values, and otherwise the link.

    Parameters
    ----------
    points
        The figure's rows of ``points.csv``.

    Attributes
    ----------
    name
        The column.
    kind
        What its values are called, in the plural.
    colours
        A colour for each of its values, the same in all panels.
    """

    def __init__(self, points: pd.DataFrame) -> None:
        varied = (name for name in _KINDS if points[name].nunique() > 1)
        self.name = next(varied, LINK)
        self.kind = _KINDS[self.name]
        values = points[self.name].unique()
        self.colours: dict[Any, Any] = dict(zip(values, itertools.cycle(palette()), strict=False))
        self._errors = points.groupby(self.name)[ERROR].max()

    @property
    def conditions(self) -> list[str]:
        """The columns that tell a figure's rows of panels apart."""
        return [name for name in (*CONDITION, LINK) if name != self.name]

    def notes(self, points: pd.DataFrame) -> list[str]:
        """What no title of a panel says: the link, where there is one and it has no colours."""
        links = points[LINK].unique()
        alone = self.name != LINK and len(links) == 1
        return [f"link: {link_title(points, links[0])}"] if alone else []

    def title(self, points: pd.DataFrame, value: Any) -> str:
        """The title of a panel with the points of one value."""
        return link_title(points, value) if self.name == LINK else worded(self.name, value)

    def label(self, value: Any) -> str:
        """The legend's entry of one value: its name, and by how much outputs are off with it."""
        said, error = worded(self.name, value), self._errors.get(value)
        if self.name == LINK or pd.isna(error) or not error:
            return said
        percent = np.format_float_positional(100 * error, 2, fractional=False, trim="-")
        return f"{said} (output off by up to {percent} % of its largest value)"
