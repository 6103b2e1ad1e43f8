"""How all figures look, and how they are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

NARROWEST_IN = 6.0
TITLE = 44
"""Longest line of a panel's title, in characters."""
STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Helvetica", "Arial"],
    "svg.fonttype": "none",
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


def save(figure: Figure, directory: Path, name: str) -> list[Path]:
    """Write a figure as PNG and SVG; the files."""
    files = [directory / f"{name}.{kind}" for kind in ("png", "svg")]
    for file in files:
        with mpl.rc_context(STYLE):
            # Without the date the same records give the same file.
            metadata = {"Date": None} if file.suffix == ".svg" else None
            figure.savefig(file, dpi=200, metadata=metadata)
    return files


def freeze(figure: Figure) -> None:
    """Lay the figure out once, so that what is placed by hand stays in place."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
