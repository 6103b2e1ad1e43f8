"""Watch the host during a leg: what besides the stage may have changed the measurement."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from paretopipe_worker.host.sensors import CoreClock, sensors, throttled
from paretopipe_worker.records.health import Health

MOST_WALL_OVER_CPU = 1.05
"""Wall time over CPU time up to which a computing thread had its core to itself. (Throughput over
its bound does not show the loss of a core: it was still 0.99 in a pipeline that had lost one.)"""

MOST_OTHERS_CPU = 0.5
"""Cores that other processes may take from a stage of several threads, on average. The kernel's
work for the stage's traffic and the polls of the controller stay below it."""

LEAST_CLOCK = 0.9
"""Least ratio of the lowest to the highest clock of cores of one kind, under the governor that is
to keep the highest."""

MOST_SWAPPED_PAGES = 256
"""Swapped pages that may still belong to a process that sleeps."""

MOST_OVERSLEPT = 0.02
"""Share by which a stretched computation may take longer than asked for."""

MOST_SLOWED = 0.2
"""Share by which items may take more CPU time than the fastest quarter of them. The code and the
data of all items are the same, so a core that needs more CPU time for some shares its caches, its
memory or, as the cores of virtual machines do, its circuits with something that works meanwhile.
On two virtual cores two in three of 198 throughput legs had more than 0.1, one in eleven more than
0.2."""

_SHORTEST_NS = 100_000
"""CPU time of an item below which its wall time over CPU time says nothing, since one switch
between two threads takes a large share of it."""

_LONG_NS = 1_000_000
_ENOUGH = 8
"""CPU time of an item, and number of items, below which it is their own that varies so much."""

_PAUSE_NS = 250_000_000
_PAUSE_PER_COST = 1000
"""Samples are at least this far apart, and at least this many times as long as the last one took:
sampling takes no more than a thousandth of a core, however slow a host's sensors are."""


class Watch:
    """Watches the host during one leg.

    It samples the host when it is made, when it ends, and at times when an item is added. Then
    nothing is being timed in a latency leg, and the core still has the clock at which it computed.
    A thread of its own would compete with the stage and read the clock of an idle core.

    Parameters
    ----------
    root
        Where ``proc``, ``sys`` and ``usr`` are.
    by_sums
        Whether `wall_over_cpu` is a ratio of sums over all items, and `slowed` that of their mean,
        as throughput and latency under load depend on all of them: where four in ten took twice as
        long, a median would not show it. Otherwise both are medians, as the latency is one.
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
        self, wall_ns: int, cpu_ns: int | None, asked_ns: int = 0, overslept_ns: int | None = None
    ) -> None:
        """Count one item's computation: its wall time, without stretching, and its CPU time.

        The latter is None where a device beside the CPU computes.

        Where it was stretched, also how long it should have taken and how late it ended.
        """
        if cpu_ns is not None and cpu_ns >= _SHORTEST_NS:
            self._computed_ns.append((wall_ns, cpu_ns))
        if overslept_ns is not None and (wall_ns if cpu_ns is None else cpu_ns) >= _SHORTEST_NS:
            self._asked_ns += asked_ns
            self._overslept_ns += overslept_ns
        if time.perf_counter_ns() >= self._next_ns:
            self._sample()

    def end(self) -> Health:
        """End the watch, and return what was seen since it was made."""
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
            slowed=self._slowed(),
        )

    def _slowed(self) -> float | None:
        """By what share items took more CPU time than the fastest quarter of them."""
        cpu_ns = [cpu_ns for _, cpu_ns in self._computed_ns]
        if len(cpu_ns) < _ENOUGH or statistics.median(cpu_ns) < _LONG_NS:
            return None
        typical = statistics.fmean(cpu_ns) if self._by_sums else statistics.median(cpu_ns)
        return max(0.0, typical / statistics.quantiles(cpu_ns, n=4)[0] - 1)

    def _wall_over_cpu(self) -> float | None:
        """Wall time of the computation over its CPU time; None without long enough items."""
        if not self._computed_ns:
            return None
        if not self._by_sums:
            return statistics.median(wall_ns / cpu_ns for wall_ns, cpu_ns in self._computed_ns)
        wall_ns, cpu_ns = map(sum, zip(*self._computed_ns, strict=True))
        return wall_ns / cpu_ns

    def _by_policy(self) -> dict[str, tuple[float, float]] | None:
        """Lowest and highest clock of each group of cores that computed."""
        seen: dict[str, list[float]] = {}
        for clock in self._cpu_mhz:
            seen.setdefault(clock.policy, []).append(clock.mhz)
        return {policy: (min(mhz), max(mhz)) for policy, mhz in seen.items()} or None

    def _sample(self) -> None:
        """Read what varies, and set the time of the next sample."""
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


def disturbances(
    health: Health, threads: int, cores: int | None = None, *, load: int = 0, shared: bool = False
) -> tuple[str, ...]:
    """Say in words which values of a host's health are outside the allowed range.

    Its temperature, and its clock under a governor that varies it, are recorded but not judged.

    Parameters
    ----------
    threads
        Threads of the stage's computation. With one, wall time over CPU time shows what others
        took of its core. Several share the work unevenly, so only the CPU time that all others used
        can show it.
    cores
        Cores of the machine; None stands for those of this one.
    load
        Cores that the host's background load may use. What it takes from the stage is what is to be
        measured: only what others use beside it is a disturbance.
    shared
        Whether it is measured how processes take cores from one another. Then that is no
        disturbance.
    """
    found = []
    ratio, others = (None, None) if shared else (health.wall_over_cpu, health.others_cpu)
    cores = cores or os.cpu_count() or 1
    if load:
        if others is not None and others > load + MOST_OTHERS_CPU:
            found.append(
                f"others used {others:.2f} cores beside the stage, and the background load may use "
                f"{load} ({MOST_OTHERS_CPU:g} more allowed)"
            )
    elif threads == 1 and ratio is not None and ratio > MOST_WALL_OVER_CPU:
        found.append(
            f"computing took {ratio:.2f} of its CPU time ({MOST_WALL_OVER_CPU:g} allowed): "
            "something else had the core"
        )
    elif threads > 1 and others is not None and others > max(0, cores - threads) + MOST_OTHERS_CPU:
        found.append(
            f"others used {others:.2f} cores, which with {threads} threads is more than the "
            f"{cores} there are ({MOST_OTHERS_CPU:g} too many allowed)"
        )
    steady = health.governor in (None, "performance") and threads == 1 and not (load or shared)
    if steady and health.slowed is not None and health.slowed > MOST_SLOWED:
        found.append(
            f"items took {health.slowed:.0%} more CPU time than the fastest quarter of them "
            f"({MOST_SLOWED:.0%} allowed): something slowed the core or its memory"
        )
    found += _fallen(health)
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


def _fallen(health: Health) -> Iterator[str]:
    """Say which cores lost their clock though the governor is to keep the highest."""
    policies = health.policy_mhz or {} if health.governor == "performance" else {}
    for policy, (lowest, highest) in policies.items():
        if lowest < LEAST_CLOCK * highest:
            yield (
                f"the clock of cores {policy} fell from {highest:.0f} to {lowest:.0f} MHz "
                f"({LEAST_CLOCK:.0%} allowed) under governor performance"
            )
