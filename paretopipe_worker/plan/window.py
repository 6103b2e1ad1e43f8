"""How many batches in flight fill a pipeline, and what throughput it has with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

LEAST, MOST = 3, 64
"""Bounds of a window that is chosen; the least is what a pipeline on an open link needs."""

Window = int | Literal["auto"]

FEWEST_WINDOWS = 2
"""Whole windows of completions that a throughput is taken of, at least."""


def filling(latency_s: float, busiest_s: float) -> int:
    """Batches in flight with which the busiest part of a pipeline never waits.

    With W in flight throughput is at most min(1 / busiest, W / latency); one more than makes the
    two equal takes up the jitter.

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
    """Periods between completions that make up whole windows, counted from the first completion.

    Where the path is longer than the window fills, results come home in bursts of a window each.
    From the first to the last completion is then a number of bursts and a piece of one, and a rate
    over it is off by that piece; over whole windows it is not, wherever the first one begins.
    """
    return (completions - 1) // window * window


def needed(window: int) -> int:
    """Completions of which a throughput can be taken, at least."""
    return FEWEST_WINDOWS * window + 1


def rate_per_s(done_ns: Sequence[int], window: int) -> float | None:
    """Throughput in items per second: the completions of whole windows over the time they took.

    Parameters
    ----------
    done_ns
        When each item was back, in order.
    window
        Items in flight at most.

    Returns
    -------
    None for fewer completions than are `needed`.
    """
    periods = whole(len(done_ns), window)
    span_ns = done_ns[periods] - done_ns[0] if len(done_ns) >= needed(window) else 0
    return periods * 1e9 / span_ns if span_ns > 0 else None
