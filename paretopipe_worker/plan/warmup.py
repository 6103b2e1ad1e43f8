"""When a leg has warmed up: its items are steady, or warming up has taken long enough."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from typing import Literal

from paretopipe_worker.plan.spec import PhaseSpec

FEWEST, MOST = 6, 10
"""Items that must agree: the most where they are quick, the fewest where they are slow."""

BAND = 0.03
"""Largest difference between the quartiles of both halves, as a share of the median."""

SPREAD = 0.10
"""Largest distance between the quartiles of all, as a share of the median."""

_ENOUGH_NS = 100_000_000

EndedBy = Literal["steady", "never steady"]


def steady(times_ns: Sequence[int]) -> bool:
    """Whether the last items of a leg took about the same time each, and no more in one half.

    The last k items are taken in two halves, whose quartiles must agree: the median tells of a
    drift, and with the others of a spread that still changes, as pyperf calibrates its warm-up
    (psf/pyperf, ``_worker.py``). What scatters widely about one place agrees by chance sooner or
    later, so that the quartiles of all must be close as well. A single item that was interrupted
    moves no quartile of ten. k is 10, or as many items as 100 ms hold, but at least 6: at seconds
    an item a warm-up takes a few items.

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
    """The warm-up of one leg, from when this is made.

    Parameters
    ----------
    spec
        Bounds its items and time.
    filling
        Items before those that are judged: while the window fills, latency grows. Afterwards it is
        as steady as throughput is, since with W in flight the one is W over the other (Little).

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
