"""Offered load: when items arrive, and at which rate a pipeline reaches its knee."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from paretopipe_worker.plan import window
from paretopipe_worker.plan.experiment import LoadSpec

KNEE_LATENCY = 2.0
"""Ratio of the latency at the knee to that of an idle pipeline."""

KEEPS_UP = 0.95
"""Ratio of the rates of completions and arrivals below which a pipeline does not keep up."""

MOST_TREND = 1 / KEEPS_UP - 1
"""Growth of latency, in seconds per second, where items are completed at just that rate."""

_PARTS = 10
_STUDENT = {1: 63.66, 2: 9.925, 3: 5.841, 4: 4.604, 5: 4.032, 6: 3.707, 7: 3.499, 8: 3.355}
"""Quantiles 0.995 of Student's t by degrees of freedom: two fewer than there are parts."""


class Trend(NamedTuple):
    """How latency changed over a leg, in seconds per second, with a 99 % interval.

    The values are NaN where there are too few items.
    """

    slope: float
    low: float
    high: float


def poisson(seed: str, rate_per_s: float, spec: LoadSpec, in_flight: int) -> list[int]:
    """Arrivals of a Poisson process, fixed before anything is sent.

    Completions influence neither when items arrive nor how many do: otherwise slow items would be
    underrepresented (coordinated omission).

    Parameters
    ----------
    seed
        Seed of the draws. Each replicate needs its own: with one seed all would share the same
        arrivals.
    rate_per_s
        Arrivals per second, on average.
    spec
        Minimum count of the items that count, and minimum time over which they arrive.
    in_flight
        Largest number of items in flight. As many items come first and do not count; the items that
        count are enough for a throughput over whole windows.

    Returns
    -------
    Nanoseconds from the begin of the leg: `in_flight` arrivals, then enough to reach both the
    minimum count and the minimum time.
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

    The leg is divided into ten parts of equally many items, a line is fitted to the means of the
    parts by least squares, and its slope gets Student's interval (batch means: Law, Kelton,
    "Simulation Modeling and Analysis", section 9.5.3). Fitted to single items, the interval would
    be far too narrow, since the latencies of items that queue behind one another are correlated.

    Parameters
    ----------
    arrived_ns, done_ns
        Times at which each item arrived and was back, in order.
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
    """Whether a rate was at the knee of the latency curve, or beyond it.

    That is so in either of two cases. The median latency is more than twice that of an idle
    pipeline: for M/M/1 the ratio of throughput to latency is largest at twice (Kleinrock, "Power
    and deterministic rules of thumb for probabilistic problems in computer communications", ICC
    1979). Or items leave more slowly than they arrive, by more than 5 %, so that latency depends
    only on how long the leg lasts: it then grows by at least :data:`MOST_TREND`.
    The second case requires that the whole interval of the :func:`trend` is above that slope, so
    that a single late item does not decide.

    Parameters
    ----------
    arrived_ns, done_ns
        Times at which each item arrived and was back, in order.
    idle_ns
        Median latency with one item in flight.
    """
    taken = [done - arrived for arrived, done in zip(arrived_ns, done_ns, strict=True)]
    if statistics.median(taken) > KNEE_LATENCY * idle_ns:
        return True
    return trend(arrived_ns, done_ns).low > MOST_TREND
