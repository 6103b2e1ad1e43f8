"""When a leg has warmed up: its items are steady, or warming up has taken long enough."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from typing import Literal

from paretopipe_worker.spec import PhaseSpec

FEWEST, MOST = 3, 10
"""Items that must agree: the most where they are quick, the fewest where they are slow."""

BAND = 0.05
"""Largest spread of items that agree, as a share of their median."""

_ENOUGH_NS = 100_000_000
_SIGMA_PER_MAD = 1.4826

EndedBy = Literal["steady", "maximum"]


def steady(times_ns: Sequence[int]) -> bool:
    """Whether the last items of a leg took about the same time each.

    A leg is steady once the coefficient of variation of its last k items is below a threshold, as
    in Georges, Buytaert, Eeckhout, "Statistically rigorous Java performance evaluation", OOPSLA
    2007, section 4.2. On shared machines single items are interrupted, so standard deviation and
    mean give way to the median absolute deviation, scaled to agree with the former for normal
    errors, and the median (Rousseeuw, Croux, "Alternatives to the median absolute deviation",
    JASA 88, 1993). k is 10, or as many items as 100 ms hold, but at least 3: at seconds an item a
    warm-up takes a few items.

    Parameters
    ----------
    times_ns
        Latencies of the leg's items so far, in the order of their completion.

    Returns
    -------
    False for fewer than three items.
    """
    if len(times_ns) < FEWEST:
        return False
    typical_ns = max(1.0, statistics.median(times_ns[-FEWEST:]))
    depth = min(MOST, max(FEWEST, math.ceil(_ENOUGH_NS / typical_ns)))
    if len(times_ns) < depth:
        return False
    recent = times_ns[-depth:]
    median = statistics.median(recent)
    spread = _SIGMA_PER_MAD * statistics.median(abs(value - median) for value in recent)
    return spread <= BAND * median


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
            self.ended_by = "maximum"
