"""How many batches in flight fill a pipeline, and its throughput with a number of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

LEAST, MOST = 3, 64
"""Bounds of a window chosen for ``auto``; a pipeline on an open link needs the lower one."""

Window = int | Literal["auto"]

FEWEST_WINDOWS = 2
"""Least number of whole windows of completions from which a throughput is computed."""


def filling(latency_s: float, busiest_s: float) -> int:
    """Number of batches in flight with which the busiest part of a pipeline never waits.

    With W batches in flight throughput is at most min(1 / busiest, W / latency). The result is one
    more than the W at which both are equal, to absorb jitter.

    Parameters
    ----------
    latency_s
        Response latency, one batch in flight.
    busiest_s
        The longest time that a stage or a hop is busy with one batch.
    """
    if busiest_s <= 0:
        return MOST
    return max(LEAST, min(MOST, math.ceil(latency_s / busiest_s) + 1))


def whole(completions: int, window: int) -> int:
    """Number of periods between completions that make up whole windows, from the first completion.

    Where the window does not fill the path, results come home in bursts of a window each. The time
    from the first to the last completion then spans whole bursts and a part of one, and a rate over
    it is wrong by that part. A rate over whole windows is right wherever in a burst it begins.
    """
    return (completions - 1) // window * window


def needed(window: int) -> int:
    """Least number of completions from which a throughput can be computed."""
    return FEWEST_WINDOWS * window + 1


def rate_per_s(done_ns: Sequence[int], window: int) -> float | None:
    """Throughput in items per second: completions of whole windows over the time they took.

    Parameters
    ----------
    done_ns
        Times at which items were back, in order.
    window
        Largest number of items in flight.

    Returns
    -------
    None where there are fewer completions than `needed`.
    """
    periods = whole(len(done_ns), window)
    span_ns = done_ns[periods] - done_ns[0] if len(done_ns) >= needed(window) else 0
    return periods * 1e9 / span_ns if span_ns > 0 else None
