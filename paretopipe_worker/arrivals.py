"""Offered load: when items arrive, and up to which rate it is worth offering more."""

from __future__ import annotations

import random
from collections.abc import Sequence

from paretopipe_worker.spec import LoadSpec

KNEE_LATENCY = 2.0
"""Latency at the knee, over that of an idle pipeline."""

KEEPS_UP = 0.95
"""Rate of completions over that of arrivals below which a pipeline does not keep up."""


def poisson(seed: str, rate_per_s: float, spec: LoadSpec, warmup_items: int) -> list[int]:
    """Arrivals of a Poisson process, fixed before anything is sent.

    That no completion decides when an item arrives, and how many there are, keeps slow items from
    being left out (coordinated omission).

    Returns
    -------
    Nanoseconds from the leg's begin: `warmup_items`, then as many as reach both the minimum count
    and the minimum time.
    """
    source = random.Random(seed)
    arrivals: list[int] = []
    now_s = counted_s = 0.0
    while len(arrivals) < warmup_items + spec.min_items or now_s - counted_s < spec.min_s:
        now_s += source.expovariate(rate_per_s)
        if len(arrivals) == warmup_items:
            counted_s = now_s
        arrivals.append(round(now_s * 1e9))
    return arrivals


def beyond_knee(
    arrived_ns: Sequence[int], done_ns: Sequence[int], median_ns: float, idle_ns: float
) -> bool:
    """Whether a rate was at the knee of the latency curve, or behind it.

    There the median latency is twice that of an idle pipeline: for M/M/1 that is where throughput
    over latency is largest (Kleinrock, "Power and deterministic rules of thumb for probabilistic
    problems in computer communications", ICC 1979). Or items leave more slowly than they arrive,
    by more than 5 %, so that latency tells only for how long they were offered.

    Parameters
    ----------
    arrived_ns, done_ns
        When each item arrived and was back, in order.
    median_ns, idle_ns
        Median latency at this rate, and with one item in flight.
    """
    arriving, leaving = (times[-1] - times[0] for times in (arrived_ns, done_ns))
    return median_ns > KNEE_LATENCY * idle_ns or arriving < KEEPS_UP * leaving
