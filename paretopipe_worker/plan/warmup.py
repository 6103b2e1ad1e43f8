"""When a leg has warmed up: its items are steady, or a bound on the warm-up is reached."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from typing import Literal

from paretopipe_worker.plan.experiment import PhaseSpec

FEWEST, MOST = 6, 10
"""Bounds of the number of items that must agree: many where items are quick, few where slow."""

BAND = 0.03
"""Largest difference between equal quartiles of the two halves, as a share of the median."""

SPREAD = 0.10
"""Largest interquartile range of all items, as a share of the median."""

_ENOUGH_NS = 100_000_000

EndedBy = Literal["steady", "never steady"]


def steady(times_ns: Sequence[int]) -> bool:
    """Whether the last items of a leg took about the same time each, without a drift.

    The last k items are divided into two halves whose quartiles must agree, as in pyperf's
    calibration of a warm-up (psf/pyperf, ``_worker.py``): medians that differ show a drift, and
    lower or upper quartiles that differ show a spread that still changes. The halves of widely
    scattered items agree by chance sooner or later, so that the quartiles of all k items must be
    close to one another as well. A single interrupted item among ten changes no quartile. k is 10,
    or the number of items that 100 ms hold where that is less, but at least 6: where an item takes
    seconds, a warm-up takes only a few.

    Parameters
    ----------
    times_ns
        Latencies of the leg's items so far, in the order of their completion.

    Returns
    -------
    False for fewer than six items.
    """
    if len(times_ns) < FEWEST:
        return False
    typical_ns = max(1.0, statistics.median(times_ns[-FEWEST:]))
    depth = min(MOST, max(FEWEST, 2 * math.ceil(_ENOUGH_NS / typical_ns / 2)))
    if len(times_ns) < depth:
        return False
    recent = times_ns[-depth:]
    low, median, high = _quartiles(recent)
    if high - low > SPREAD * median:
        return False
    halves = (_quartiles(recent[: depth // 2]), _quartiles(recent[depth // 2 :]))
    return all(abs(a - b) <= BAND * median for a, b in zip(*halves, strict=True))


def _quartiles(times_ns: Sequence[int]) -> list[float]:
    """Lower quartile, median and upper quartile, between items linearly."""
    return statistics.quantiles(times_ns, n=4, method="inclusive")


class Warmup:
    """The warm-up of one leg; it begins when this object is made.

    Parameters
    ----------
    spec
        Bounds on its number of items and its time.
    filling
        Number of items before those that are judged, since latency grows while the window fills.
        Afterwards latency is as steady as throughput: with W items in flight it is W divided by the
        throughput (Little's law).

    Attributes
    ----------
    ended_by
        None while it lasts.
    """

    def __init__(self, spec: PhaseSpec, filling: int = 0) -> None:
        self.ended_by: EndedBy | None = None
        self._spec = spec
        self._filling = filling
        self._times_ns: list[int] = []
        self._begin_ns = time.perf_counter_ns()

    def add(self, latency_ns: int) -> None:
        """Count one item that is back."""
        self._times_ns.append(latency_ns)
        judged = self._times_ns[self._filling :]
        elapsed_s = (time.perf_counter_ns() - self._begin_ns) / 1e9
        if steady(judged):
            self.ended_by = "steady"
        elif len(judged) >= self._spec.warmup_items or elapsed_s >= self._spec.warmup_s:
            self.ended_by = "never steady"
