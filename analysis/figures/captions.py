"""Titles, legends and notes around the panels of a figure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.path import Path
from numpy.typing import ArrayLike

from analysis.figures import names
from analysis.measures.marks import disturbed, late, uncertified
from analysis.tables import certainty
from paretopipe_worker.plan.labels import USUAL, hosts_of, readable

_LETTERS_PER_IN = 13
"""Letters of a legend's size beside each other."""

_KEY_LETTERS = 8
"""Room for an entry's sign, in letters."""

LINK = "link"
_NONE = object()

CONDITION = [
    *("placement", "backend", "batch", "window", "dtype"),
    *("runtimes", "wire", "busy", "sources"),
]
"""Columns that identify a panel, besides model and link."""

MARKERS = "sD^vP*"
"""Markers of the endpoints, by the rank that computes all; other splits have a circle."""

MARKED = Path.make_compound_path(
    Path.unit_circle(), Path([(-0.7, -0.7), (0.7, 0.7)]), Path([(-0.7, 0.7), (0.7, -0.7)])
)
"""Marker of points whose link was not what was asked for, endpoints included."""

MARKER_PT = 2.9
"""Radius of a marker in pt (1/72 inch)."""

SMALL_PT = 1.6
"""Radius of a marker that is one of many."""

STROKE = Path([(-0.7, -1), (0.7, 1)])
"""Stroke through the marker of a disturbed point, oblique so as not to look like an error bar."""

_STROKE = 0.9
"""How far the stroke extends beyond the marker, as a share of its radius."""


def strike(axes: Axes, x: ArrayLike, y: ArrayLike, radius_pt: float) -> None:
    """Mark disturbed points: strike out their markers."""
    axes.plot(x, y, **_stroke(radius_pt), zorder=6)


def stroke_pt(radius_pt: float) -> float:
    """How far the stroke extends beyond a marker of this radius, in pt."""
    return _STROKE * min(radius_pt, MARKER_PT)


def disturbed_legend() -> Line2D:
    """Legend of that mark."""
    return Line2D([], [], **_stroke(MARKER_PT - 1), label="host disturbed")


def _stroke(radius_pt: float) -> dict[str, Any]:
    """Style of the stroke over a marker of this radius."""
    size = 2 * (radius_pt + stroke_pt(radius_pt))
    # Among many small markers thick strokes would hide them.
    width, colour = (1.0, "black") if radius_pt > SMALL_PT else (0.5, "0.4")
    return {"marker": STROKE, "ms": size, "mew": width, "color": colour, "mfc": "none", "ls": ""}


def conditions(
    points: pd.DataFrame, by: Sequence[str] = CONDITION
) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of each condition, with the part of their panels' titles that names it.

    Parameters
    ----------
    by
        The columns that tell conditions apart.
    """
    several = [name for name in by if points[name].nunique() > 1]
    for values, table in points.groupby(list(by), sort=False):
        known = dict(zip(by, values, strict=True))
        words = (
            link_title(table, str(known[name])) if name == LINK else worded(name, known[name])
            for name in several
        )
        yield "".join(f", {each}" for each in words), table


def worded(name: str, value: object) -> str:
    """One condition in words; a number gets its name, a name needs none."""
    if name == "busy":
        return "busy hosts" if value else "idle hosts"
    if name == "sources":
        return "1 source" if value == 1 else f"{value} sources"
    return f"{name} {value}" if name in ("batch", "window") else readable(str(value), "→")


def link_title(points: pd.DataFrame, link: str) -> str:
    """A link's name and what was asked of it."""
    return f"{link} ({points.loc[points['link'] == link, 'link_asked'].iloc[0]})"


def marker_of(rank: int) -> str:
    """The marker of the endpoint at which this rank computes all."""
    return MARKERS[rank % len(MARKERS)]


def front_legend(points: pd.DataFrame, colours: dict[str, Any]) -> list[Line2D | Patch]:
    """Legend of markers, and of colours by label where there are several."""
    ranks = range(max(len(hosts_of(placement)) for placement in points["placement"].unique()))
    hosts = hosts_by_rank(points) or [f"rank {rank}" for rank in ranks]

    def marker(label: str, shape: str | Path, colour: Any, face: Any) -> Line2D:
        return Line2D(
            [], [], ls="", marker=shape, ms=2 * MARKER_PT, color=colour, mfc=face, label=label
        )

    links = [Line2D([], [], color=colour, lw=2.5, label=link) for link, colour in colours.items()]
    off = [marker("link not as asked for", MARKED, "0.3", "none")]
    return [
        *(links if len(links) > 1 else []),
        Line2D([], [], color="0.3", lw=1.1, marker="o", ms=2 * MARKER_PT, label="Pareto front"),
        marker("dominated", "o", "0.6", "white"),
        *(
            marker(f"all on {host}", marker_of(rank), "0.3", "0.3")
            for rank, host in enumerate(hosts)
        ),
        *(off if uncertified(points).any() else []),
        *([disturbed_legend()] if disturbed(points).any() else []),
    ]


def hosts_by_rank(points: pd.DataFrame) -> tuple[str, ...]:
    """The hosts of a figure that has one placement; none where it has several."""
    [first, *others] = points["placement"].unique()
    return () if others else hosts_of(first)


@dataclass(frozen=True)
class Caption:
    """Title, notes and legend that each page of a figure has."""

    title: str
    notes: tuple[str, ...]
    legend: tuple[Line2D | Patch, ...]

    def height_in(self, width_in: float) -> float:
        """Its height on a page of this width, in inches."""
        title, notes = self._lines(width_in)
        rows = -(-len(self.legend) // self._columns(width_in))
        return 0.21 * title.count("\n") + 0.14 * len(notes) + 0.185 * rows + 0.45

    def write(self, figure: Figure, page: str = "") -> None:
        """Add it to a figure; `page` says which page of several it is."""
        width_in = figure.get_figwidth()
        title, notes = self._lines(width_in)
        figure.suptitle(f"{title}{page}", x=0.01, ha="left", fontsize=10.5)
        figure.legend(
            handles=list(self.legend),
            loc="outside lower left",
            ncols=self._columns(width_in),
            frameon=False,
            title="\n".join(notes) or None,
            title_fontsize=8,
            alignment="left",
        )

    def _columns(self, width_in: float) -> int:
        """Columns of the legend, each as wide as its own entries: as many as there is room for."""
        lengths = [_KEY_LETTERS + len(str(entry.get_label())) for entry in self.legend]
        most = min(4 if width_in > 9 else 2, len(lengths))
        for columns in range(most, 1, -1):
            # As matplotlib fills them.
            parts = np.array_split(lengths, columns)
            if sum(part.max() for part in parts) <= _LETTERS_PER_IN * width_in:
                return columns
        return 1

    def _lines(self, width_in: float) -> tuple[str, list[str]]:
        """The title and the lines of the notes, wrapped."""
        lines = [line for note in self.notes for line in textwrap.wrap(note, int(14 * width_in))]
        return textwrap.fill(self.title, int(10 * width_in)), lines


def page_of(number: int, count: int) -> str:
    """The page's number for its title; nothing if it is the only page."""
    return f" (page {number} of {count})" if count > 1 else ""


def explain(
    points: pd.DataFrame, stages: pd.DataFrame, legend: Iterable[Line2D | Patch], *notes: str
) -> Caption:
    """Title with the conditions common to all panels, legend, and what a reader must know.

    Parameters
    ----------
    points
        Rows of ``points.csv``, those that the figure is about.
    stages
        The table ``stages.csv``.
    legend
        Entries of the legend.
    notes
        Further notes.
    """
    alike = [name for name in CONDITION if points[name].nunique() == 1]
    common = {name: points[name].iloc[0] for name in alike}
    told = {name: value for name, value in common.items() if value != USUAL.get(name, _NONE)}
    title = [worded(name, value) for name, value in told.items()]
    unsure = certainty.without_interval(points)
    said = [
        *([unsure] if unsure else []),
        *_emulation(points, stages),
        *_links(points),
        *_disturbances(points),
    ]
    said += [*abbreviations(points), *notes]
    lost = int((points["status"] != "ok").sum())
    if lost:
        said.append(f"{lost} of {len(points)} points have no figures, see points.csv")
    return Caption(f"{points['model'].iloc[0]}: {', '.join(title)}", tuple(said), tuple(legend))


def _emulation(points: pd.DataFrame, stages: pd.DataFrame) -> Iterator[str]:
    """Say which devices' computation was stretched."""
    hosts = stages[stages["point"].isin(points["point"])].drop_duplicates("host")
    factors = zip(hosts["host"], hosts["device_emulated"], strict=True)
    stretched = [f"{host} ({factor:g} times)" for host, factor in factors if factor != 1]
    if stretched:
        yield f"device_emulated: computation stretched on {', '.join(stretched)}"


def _links(points: pd.DataFrame) -> Iterator[str]:
    """Say who shaped which links, and which were not what was asked for."""
    for engine, table in points.groupby("link_engine", sort=False):
        if engine != "none":
            emulated = " (link_emulated: in userspace)" if table["link_emulated"].any() else ""
            yield f"shaped by {engine}{emulated}: {', '.join(table['link'].unique())}"
    off = points[uncertified(points)]
    if len(off):
        kept = off["on_front"].any()
        yield (
            f"{len(off)} of {len(points)} points have a link that was not as asked for "
            f"({', '.join(off['link'].unique())}), see link_certificate in points.csv: "
            + ("they may be on the front" if kept else "left off the front")
        )
    by_ms = points.loc[late(points), "relay_late_p99_ms"]
    if len(by_ms):
        yield (
            f"link_late: the relay was late during {len(by_ms)} of {len(points)} points, by "
            f"{by_ms.min():.1f} to {by_ms.max():.1f} ms at the 99th percentile"
        )


def _disturbances(points: pd.DataFrame) -> Iterator[str]:
    """Say how many points were measured while a host was disturbed."""
    count = int(disturbed(points).sum())
    if count:
        yield (
            f"host disturbed: {count} of {len(points)} points were measured while a host was "
            "outside its band, see disturbances in points.csv"
        )


def abbreviations(points: pd.DataFrame) -> Iterator[str]:
    """Say what shortened names stand for, with one example of each, and what a missing host is."""
    short = names.shortened(points["split"].unique())
    examples = {
        name.partition(".")[0]: f"{text} stands for {name}"
        for name, text in short.items()
        if name != text
    }
    if examples:
        yield f"cuts: {', '.join(examples.values())}"
    if names.called(points).str.contains("(no ", regex=False).any():
        yield "(no HOST): that host computes nothing"
