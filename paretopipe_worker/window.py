"""How many batches in flight fill a pipeline."""

from __future__ import annotations

import math
from typing import Literal

LEAST, MOST = 3, 64
"""Bounds of a window that is chosen; the least is what a pipeline on an open link needs."""

Window = int | Literal["auto"]


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
