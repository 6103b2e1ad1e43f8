"""How far a front moves from one replicate to the next: the band between attainment surfaces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from numpy.typing import NDArray

from analysis.tables.attainment import LEVELS
from analysis.tables.front import GROUP

_ALPHA = 0.18


def of_points(attained: pd.DataFrame | None, points: pd.DataFrame) -> pd.DataFrame:
    """The surfaces of the fronts that some points belong to.

    Parameters
    ----------
    attained
        The table ``attainment.csv``, see :func:`analysis.tables.attainment.attainment`; None where
        the run has none.
    points
        Rows of ``points.csv``.
    """
    own = points[list(GROUP)].drop_duplicates()
    return own.iloc[:0] if attained is None else attained.merge(own, on=list(GROUP))


def shade(axes: Axes, surfaces: pd.DataFrame, across: str, up: str, colour: Any) -> None:
    """Shade what some replicates attained and others did not, along the front.

    The surfaces go on upwards and to the right for ever; the band ends with their last corners. The
    axes grow where it would end beyond them.

    Parameters
    ----------
    surfaces
        As :func:`of_points` returns them.
    across, up
        The columns of the axes: less of the first is better, and more of the other.
    """
    for _, front in surfaces.groupby(list(GROUP), sort=False):
        ends = [
            front.loc[front["level"] == level, [across, up]].to_numpy(dtype=np.float64)
            for level in (LEVELS[0], LEVELS[-1])
        ]
        corners = np.concatenate(ends)
        lowest, places = corners[:, 1].min(), np.unique(corners[:, 0])
        high, low = (_heights(each, places, lowest) for each in ends)
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        axes.fill_between(
            places, low, high, step="post", color=colour, alpha=_ALPHA, lw=0, zorder=1
        )
        axes.set_xlim(min(left, places[0]), max(right, places[-1]))
        axes.set_ylim(min(bottom, lowest), max(top, high.max()))


def band_legend(surfaces: pd.DataFrame) -> Sequence[Patch]:
    """The legend's entry, none where no front has replicates enough."""
    if surfaces.empty:
        return ()
    said = "attained by some replicates only"
    return (Patch(color="0.3", alpha=_ALPHA, lw=0, label=said),)


def _heights(
    corners: NDArray[np.float64], places: NDArray[np.float64], lowest: float
) -> NDArray[np.float64]:
    """How high a surface is at some places, `lowest` where it has not begun."""
    before = np.searchsorted(corners[:, 0], places, side="right") - 1
    heights: NDArray[np.float64] = np.where(before < 0, lowest, corners[before, 1])
    return heights
