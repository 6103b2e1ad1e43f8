"""Offered load: when items arrive, and up to which rate it is worth offering more."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from paretopipe_worker.plan import window
from paretopipe_worker.plan.spec import LoadSpec

KNEE_LATENCY = 2.0
"""Latency at the knee, over that of an idle pipeline."""

KEEPS_UP = 0.95
"""Rate of completions over that of arrivals below which a pipeline does not keep up."""

MOST_TREND = 1 / KEEPS_UP - 1
"""Growth of latency, in seconds per second, where items are completed at just that rate."""

_PARTS = 10
_STUDENT = {1: 63.66, 2: 9.925, 3: 5.841, 4: 4.604, 5: 4.032, 6: 3.707, 7: 3.499, 8: 3.355}
"""Quantiles 0.995 of Student's t by degrees of freedom, of which parts leave two fewer."""


class Trend(NamedTuple):
    """How latency changed over a leg, in seconds per second, and its 99 % interval.

    Null where there are too few items.
    """

    slope: float
    low: float
    high: float


def poisson(seed: str, rate_per_s: float, spec: LoadSpec, in_flight: int) -> list[int]:
    """Arrivals of a Poisson process, fixed before anything is sent.

    That no completion decides when an item arrives, and how many there are, keeps slow items from
    being left out (coordinated omission).

    Parameters
    ----------
    seed
        Of the draws: another for every replicate, or all share what chance made of one.
    rate_per_s
        Arrivals per second, on average.
    spec
        How many are to count, and for how long at least.
    in_flight
        Items in flight at most: as many come first and do not count, and at least as many count as
        make up whole windows.

    Returns
    -------
    Nanoseconds from the leg's begin: `in_flight`, then as many as reach both the minimum count and
    the minimum time.
    """
    source = random.Random(seed)
    counted = max(spec.min_items, window.needed(in_flight))
    arrivals: list[int] = []
    now_s = counted_s = 0.0
    while len(arrivals) < in_flight + counted or now_s - counted_s < spec.min_s:
        now_s += source.expovariate(rate_per_s)
        if len(arrivals) == in_flight:
            counted_s = now_s
        arrivals.append(round(now_s * 1e9))
    return arrivals


def trend(arrived_ns: Sequence[int], done_ns: Sequence[int]) -> Trend:
    """How the latency of a leg's items changed from its first to its last.

    Latencies of items behind one another in a queue are alike, so that single items would make the
    interval far too narrow: the leg is taken in ten parts of equally many items, a line is fitted
    to their means by least squares, and its slope has Student's interval (batch means: Law, Kelton,
    "Simulation Modeling and Analysis", section 9.5.3).

    Parameters
    ----------
    arrived_ns, done_ns
        When each item arrived and was back, in order.
    """
    count = len(arrived_ns)
    parts = min(_PARTS, count // 2)
    if parts < 3:
        return Trend(math.nan, math.nan, math.nan)
    bounds = list(itertools.pairwise(count * part // parts for part in range(parts + 1)))
    taken = [done - arrived for arrived, done in zip(arrived_ns, done_ns, strict=True)]
    at = [statistics.fmean(arrived_ns[begin:end]) - arrived_ns[0] for begin, end in bounds]
    latency = [statistics.fmean(taken[begin:end]) for begin, end in bounds]
    slope, level = statistics.linear_regression(at, latency)
    left = sum((y - level - slope * x) ** 2 for x, y in zip(at, latency, strict=True))
    spread = sum((x - statistics.fmean(at)) ** 2 for x in at)
    half = _STUDENT[parts - 2] * math.sqrt(left / (parts - 2) / spread)
    return Trend(slope, slope - half, slope + half)


def beyond_knee(arrived_ns: Sequence[int], done_ns: Sequence[int], idle_ns: float) -> bool:
    """Whether a rate was at the knee of the latency curve, or behind it.

    There the median latency is twice that of an idle pipeline: for M/M/1 that is where throughput
    over latency is largest (Kleinrock, "Power and deterministic rules of thumb for probabilistic
    problems in computer communications", ICC 1979). Or items leave more slowly than they arrive,
    by more than 5 %, so that latency tells only for how long they were offered: then it grows with
    every item, by :data:`MOST_TREND` at least. That is told where the whole
    interval of the :func:`trend` is above it; a single late item does not decide.

    Parameters
    ----------
    arrived_ns, done_ns
        When each item arrived and was back, in order.
    idle_ns
        Median latency with one item in flight.
    """
    taken = [done - arrived for arrived, done in zip(arrived_ns, done_ns, strict=True)]
    if statistics.median(taken) > KNEE_LATENCY * idle_ns:
        return True
    return trend(arrived_ns, done_ns).low > MOST_TREND
