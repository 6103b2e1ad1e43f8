"""The figure of a soak: what its sweeps held and took over time, and what they left behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.style import DPI, STYLE, palette
from tests.soak.finding import Sweep, figures

Line = tuple[str, Callable[[Sweep], float | None]]


def draw(sweeps: Sequence[Sweep], file: Path) -> None:
    """Draw six panels over the hours of the soak; failed sweeps are marked by red lines."""
    memory: list[Line] = [
        (each.name.removeprefix("memory of ").removesuffix(", MB"), each.value)
        for each in figures(sweeps)
        if each.name.startswith("memory of ")
    ]
    first_ms = next((each.reference_ms for each in sweeps if each.reference_ms), None)
    first_images_s = next((s.reference_images_s for s in sweeps if s.reference_images_s), None)
    panels: list[tuple[str, str, list[Line]]] = [
        ("Memory, the most of each sweep", "MB that no other process has", memory),
        ("Open files, threads, processes", "the most of each sweep", [
            ("open files", lambda sweep: sweep.files),
            ("threads", lambda sweep: sweep.threads),
            ("processes", lambda sweep: sweep.processes),
        ]),
        ("One and the same point", "% of the first sweep", [
            ("latency", lambda sweep: _share(sweep.reference_ms, first_ms)),
            ("throughput", lambda sweep: _share(sweep.reference_images_s, first_images_s)),
        ]),
        ("Time of a point, sessions included", "s", [
            ("seconds per point", lambda sweep: sweep.point_s),
        ]),
        ("Left after each sweep", "number", [
            ("processes", lambda sweep: sweep.left.processes),
            ("namespaces", lambda sweep: sweep.left.namespaces),
            ("temporary files", lambda sweep: sweep.left.temporary_files),
        ]),
        ("Disk", "MB", [
            ("beside results", lambda sweep: sweep.left.beside_mb),
            ("records", lambda sweep: sweep.records_mb),
            ("a run on the hosts", lambda sweep: sweep.left.runs_mb / sweep.number),
        ]),
    ]  # fmt: skip
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 8.4), layout="constrained")
        for axes, panel in zip(figure.subplots(3, 2, sharex=True).flat, panels, strict=True):
            _panel(axes, *panel, sweeps)
        for axes in figure.axes[-2:]:
            axes.set_xlabel("hours since the soak began")
        figure.savefig(file, dpi=DPI)


def _panel(
    axes: Axes, title: str, unit: str, lines: Sequence[Line], sweeps: Sequence[Sweep]
) -> None:
    """Draw a few figures of every sweep, at the time at which it ended."""
    hours = [(sweep.at_s + sweep.seconds) / 3600 for sweep in sweeps]
    colours: list[Any] = palette()
    for number, (name, value) in enumerate(lines):
        values = [value(sweep) for sweep in sweeps]
        shown: list[float] = [float("nan") if each is None else each for each in values]
        axes.plot(hours, shown, ".-", color=colours[number], linewidth=1, markersize=4, label=name)
    for hour, sweep in zip(hours, sweeps, strict=True):
        if sweep.failed:
            axes.axvline(hour, color="red", linewidth=0.8, alpha=0.6)
    axes.set_title(title)
    axes.set_ylabel(unit)
    # With room for the legend above the lines.
    axes.set_ylim(0, (1.2 + 0.1 * -(-len(lines) // 3)) * max(1e-9, axes.get_ylim()[1]))
    axes.set_xlim(left=0)
    axes.grid(True)
    axes.legend(frameon=False, ncols=3, loc="upper left", fontsize=7)


def _share(value: float | None, first: float | None) -> float | None:
    """A value in per cent of another."""
    return None if value is None or not first else 100 * value / first
