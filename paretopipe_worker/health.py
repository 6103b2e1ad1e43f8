"""The host while a leg runs: whether anything but the stage shaped what was measured."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

from paretopipe_worker.records import Health

MOST_WALL_OVER_CPU = 1.05
"""A thread that computes has the core for itself below this (a pipeline that had lost a core still
read 0.99 of its own bound: throughput over that bound does not show it)."""

_SHORTEST_NS = 100_000
"""CPU time of an item below which wall time over it says nothing."""


class Watch:
    """Watches the host during one leg.

    Parameters
    ----------
    root
        Where ``proc`` and ``sys`` are.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._ratios: list[float] = []
        self._begin_ns = time.perf_counter_ns()
        self._busy_ns, self._own_ns = self._cpu()

    def add(self, wall_ns: int, cpu_ns: int) -> None:
        """Count one item's computation: its wall time, without stretching, and its CPU time."""
        if cpu_ns >= _SHORTEST_NS:
            self._ratios.append(wall_ns / cpu_ns)

    def end(self) -> Health:
        """What was seen since the watch was made."""
        wall_ns = time.perf_counter_ns() - self._begin_ns
        busy_ns, own_ns = self._cpu()
        others_ns = (busy_ns - self._busy_ns) - (own_ns - self._own_ns)
        return Health(
            wall_over_cpu=statistics.median(self._ratios) if self._ratios else None,
            others_cpu=round(max(0, others_ns) / wall_ns, 3),
        )

    def _cpu(self) -> tuple[int, int]:
        """CPU time that all processes of the machine have used, and that this one has."""
        words = (self._root / "proc/stat").read_text().split("\n", 1)[0].split()
        user, nice, system, _, _, irq, softirq, steal = map(int, words[1:9])
        ticks = user + nice + system + irq + softirq + steal
        return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK"), time.process_time_ns()


def disturbances(health: Health, threads: int) -> tuple[str, ...]:
    """What of a host's health is outside its band, in words.

    Parameters
    ----------
    threads
        Threads of the stage's computation: wall time over CPU time of one tells nothing where
        several share the work.
    """
    found = []
    ratio = health.wall_over_cpu
    if threads == 1 and ratio is not None and ratio > MOST_WALL_OVER_CPU:
        found.append(
            f"computing took {ratio:.2f} of its CPU time ({MOST_WALL_OVER_CPU:g} allowed): "
            "something else had the core"
        )
    return tuple(found)
