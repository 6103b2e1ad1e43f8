"""The host while a leg runs: whether anything but the stage shaped what was measured."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

from paretopipe_worker.host.sensors import CoreClock, sensors, throttled
from paretopipe_worker.records.health import Health

MOST_WALL_OVER_CPU = 1.05
"""A thread that computes has the core for itself below this (a pipeline that had lost a core still
read 0.99 of its own bound: throughput over that bound does not show it)."""

MOST_OTHERS_CPU = 0.5
"""Cores that others may take from a stage of several threads, on average: what the kernel's own
work for the stage's traffic and the controller's looks stay below."""

LEAST_CLOCK = 0.9
"""Lowest over highest clock of cores of one kind, where the governor was told to keep the
highest."""

MOST_SWAPPED_PAGES = 256
"""Pages swapped that still may be somebody's who sleeps."""

MOST_OVERSLEPT = 0.02
"""Share of the stretched computation by which it may take longer than asked for."""

_SHORTEST_NS = 100_000
"""CPU time of an item below which wall time over it says nothing: what one hand-over between two
threads takes is a large share of it."""

_PAUSE_NS = 250_000_000
_PAUSE_PER_COST = 1000
"""Samples are at least so far apart, and so many times what the last one took: so sampling takes
no more than a thousandth of a core, however slow a host's sensors are."""


class Watch:
    """Watches the host during one leg.

    It looks when it is made, when it ends, and in between when an item was added. There nothing is
    timed in a latency leg, and the clock is that at which the core has just computed; a thread of
    its own would compete with the stage, and read the clock of an idle core.

    Parameters
    ----------
    root
        Where ``proc``, ``sys`` and ``usr`` are.
    by_sums
        Whether wall time over CPU time is that of all items together, as throughput and what load
        leaves of it depend on them: where four in ten took twice as long, the median says nothing.
        Else it is the median of the items, as a latency is.
    """

    def __init__(self, root: Path = Path("/"), *, by_sums: bool = False) -> None:
        self._sensors = sensors(root)
        self._by_sums = by_sums
        self._computed_ns: list[tuple[int, int]] = []
        self._asked_ns = self._overslept_ns = 0
        self._cpu_mhz: list[CoreClock] = []
        self._gpu_mhz: list[float] = []
        self._temperatures_c: list[float] = []
        self._governor = self._sensors.governor()
        self._throttling = self._sensors.throttling()
        self._swapped_pages = self._sensors.swapped_pages()
        self._peak_is_ours = self._sensors.forget_peak()
        self._sample()
        self._begin_ns = time.perf_counter_ns()
        self._busy_ns, self._own_ns = self._sensors.busy_ns(), time.process_time_ns()

    def add(
        self, wall_ns: int, cpu_ns: int, asked_ns: int = 0, overslept_ns: int | None = None
    ) -> None:
        """Count one item's computation: its wall time, without stretching, and its CPU time.

        Where it was stretched, also how long it was to take and by how much it took longer.
        """
        if cpu_ns >= _SHORTEST_NS:
            self._computed_ns.append((wall_ns, cpu_ns))
            if overslept_ns is not None:
                self._asked_ns += asked_ns
                self._overslept_ns += overslept_ns
        if time.perf_counter_ns() >= self._next_ns:
            self._sample()

    def end(self) -> Health:
        """What was seen since the watch was made."""
        wall_ns = time.perf_counter_ns() - self._begin_ns
        busy_ns = self._sensors.busy_ns() - self._busy_ns
        others_ns = busy_ns - (time.process_time_ns() - self._own_ns)
        self._sample()
        swapped_pages = self._sensors.swapped_pages()
        if swapped_pages is not None and self._swapped_pages is not None:
            swapped_pages -= self._swapped_pages
        clocks, gpu = sorted(clock.mhz for clock in self._cpu_mhz), self._gpu_mhz
        return Health(
            wall_over_cpu=self._wall_over_cpu(),
            others_cpu=round(max(0, others_ns) / wall_ns, 3),
            cpu_mhz=(clocks[0], statistics.median(clocks), clocks[-1]) if clocks else None,
            policy_mhz=self._by_policy(),
            governor=self._governor,
            temperature_c=max(self._temperatures_c, default=None),
            throttled=throttled(self._throttling, self._sensors.throttling()),
            swapped_pages=swapped_pages,
            peak_rss_bytes=self._sensors.peak_rss_bytes() if self._peak_is_ours else None,
            gpu_mhz=(min(gpu), max(gpu)) if gpu else None,
            overslept=self._overslept_ns / self._asked_ns if self._asked_ns else None,
        )

    def _wall_over_cpu(self) -> float | None:
        """Wall time of the computation over its CPU time; None where nothing to speak of was."""
        if not self._computed_ns:
            return None
        if not self._by_sums:
            return statistics.median(wall_ns / cpu_ns for wall_ns, cpu_ns in self._computed_ns)
        wall_ns, cpu_ns = map(sum, zip(*self._computed_ns, strict=True))
        return wall_ns / cpu_ns

    def _by_policy(self) -> dict[str, tuple[float, float]] | None:
        """Lowest and highest clock of each group of cores that was computed on."""
        seen: dict[str, list[float]] = {}
        for clock in self._cpu_mhz:
            seen.setdefault(clock.policy, []).append(clock.mhz)
        return {policy: (min(mhz), max(mhz)) for policy, mhz in seen.items()} or None

    def _sample(self) -> None:
        """Read what varies, and say when to read it again."""
        begin_ns = time.perf_counter_ns()
        if (clock := self._sensors.cpu_clock()) is not None:
            self._cpu_mhz.append(clock)
        for value, values in (
            (self._sensors.gpu_mhz(), self._gpu_mhz),
            (self._sensors.temperature_c(), self._temperatures_c),
        ):
            if value is not None:
                values.append(value)
        end_ns = time.perf_counter_ns()
        self._next_ns = end_ns + max(_PAUSE_NS, _PAUSE_PER_COST * (end_ns - begin_ns))


def disturbances(health: Health, threads: int, cores: int | None = None) -> tuple[str, ...]:
    """What of a host's health is outside its band, in words.

    How warm it was, and its clock under a governor that varies it, are recorded and not judged.

    Parameters
    ----------
    threads
        Threads of the stage's computation. Of one, wall time over CPU time tells at once what
        others took; several share the work unevenly, so that only the sum of all load can tell.
    cores
        Cores of the machine; those of this one where not given.
    """
    found = []
    ratio, others = health.wall_over_cpu, health.others_cpu
    cores = cores or os.cpu_count() or 1
    if threads == 1 and ratio is not None and ratio > MOST_WALL_OVER_CPU:
        found.append(
            f"computing took {ratio:.2f} of its CPU time ({MOST_WALL_OVER_CPU:g} allowed): "
            "something else had the core"
        )
    if threads > 1 and others is not None and others > max(0, cores - threads) + MOST_OTHERS_CPU:
        found.append(
            f"others used {others:.2f} cores, which with {threads} threads is more than the "
            f"{cores} there are ({MOST_OTHERS_CPU:g} too many allowed)"
        )
    policies = health.policy_mhz or {} if health.governor == "performance" else {}
    for policy, (lowest, highest) in policies.items():
        if lowest < LEAST_CLOCK * highest:
            found.append(
                f"the clock of cores {policy} fell from {highest:.0f} to {lowest:.0f} MHz "
                f"({LEAST_CLOCK:.0%} allowed) under governor performance"
            )
    if health.throttled:
        found.append(f"the firmware intervened: {', '.join(health.throttled)}")
    if health.overslept is not None and health.overslept > MOST_OVERSLEPT:
        found.append(
            f"stretching took {health.overslept:.1%} longer than asked for "
            f"({MOST_OVERSLEPT:.0%} allowed): its waits ended late"
        )
    if health.swapped_pages is not None and health.swapped_pages > MOST_SWAPPED_PAGES:
        found.append(f"the host swapped {health.swapped_pages} pages")
    return tuple(found)
