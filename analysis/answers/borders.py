"""The rates and delays at which the best split changes, predicted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.answers.choosing import furthest
from analysis.answers.elsewhere import MOST_SPLITS
from analysis.column import OBJECTIVES
from analysis.prediction.costs import Array
from analysis.prediction.elsewhere import Base, Link, every_split
from analysis.tables.front import GROUP, is_nondominated

BESTS = ("latency", "throughput", "knee")
"""In what a split may be the best; the knee is that of the front of both."""

RATES = np.geomspace(1, 10_000, 61)
"""Rates of a map, Mbit/s."""

DELAYS = np.geomspace(0.03, 300, 61)
"""One-way delays of a map, milliseconds."""

_EVERY = 10
"""Borders are told on each so many-th line of a map."""

_HALVINGS = 14
_DIRECTIONS = list(OBJECTIVES.values())


@dataclass(frozen=True)
class Map:
    """Which split is the best at each rate and delay.

    Parameters
    ----------
    splits
        Labels of splits.
    rates, delays
        Mbit/s, length r; milliseconds, length d.
    best
        Array (3, d, r) of numbers of splits, in the order of :data:`BESTS`.
    borders
        See :func:`best_by_link`.
    """

    splits: tuple[str, ...]
    rates: Array
    delays: Array
    best: NDArray[np.int64]
    borders: pd.DataFrame


def best_by_link(
    base: Base, back: Link | None = None, rates: Array = RATES, delays: Array = DELAYS
) -> Map:
    """Find the best splits over links of many rates and delays, and where they change.

    Parameters
    ----------
    base
        The parts of the pipeline.
    back
        A link whose return is that of all links; None where it is as the way forward.
    rates, delays
        Those of the map.

    Returns
    -------
    The map. ``borders`` has columns ``objective``, one of :data:`BESTS`; ``along``, the quantity
    that grows (``rate`` or ``delay``) while the other one stays; ``rate_mbit`` and ``delay_ms``,
    where the best split changes; and ``predicted_before`` and ``predicted_after``.

    Raises
    ------
    analysis.prediction.parts.PredictionError
        When there are too many splits to compare each.
    """
    chooser = _Chooser(base, back)
    found = np.array([[chooser.best(rate, delay) for rate in rates] for delay in delays])
    best = np.moveaxis(found, -1, 0)
    labels = tuple(base.split(cuts) for cuts in chooser.splits.tolist())
    rows = [
        (BESTS[which], along, *where, labels[before], labels[after])
        for which in range(len(BESTS))
        for along, where, before, after in _borders(chooser, best[which], which, rates, delays)
    ]
    about = ["predicted_before", "predicted_after"]
    columns = ["objective", "along", "rate_mbit", "delay_ms", *about]
    table = pd.DataFrame.from_records(rows, columns=columns)
    for name in reversed([name for name in GROUP if name != "link"]):
        table.insert(0, name, base.about[name])
    return Map(labels, rates, delays, best, table)


class _Chooser:
    """Tells which splits of a pipeline are the best over a link."""

    def __init__(self, base: Base, back: Link | None) -> None:
        self.splits = every_split(base.costs, MOST_SPLITS)
        self._base = base
        self._back = back or Link(1, 0)

    def best(self, rate_mbit: float, delay_ms: float) -> tuple[int, int, int]:
        """The numbers of the best splits; of two that are alike, the one better in the other."""
        link = replace(self._back, rate_mbit=rate_mbit, delay_ms=delay_ms)
        costs = link.under(self._base.costs)
        latency = costs.latency_ms(self.splits)
        period = np.maximum(costs.busiest_ms(self.splits), latency / self._base.window)
        values = np.column_stack((latency, 1 / period))
        front = np.flatnonzero(is_nondominated(values, _DIRECTIONS))
        own = values[front]
        # Of those on a front none is alike in one objective only.
        first, most = int(own[:, 0].argmin()), int(own[:, 1].argmax())
        at = front[[first, most, furthest(own, _DIRECTIONS)]]
        return int(at[0]), int(at[1]), int(at[2])


def _borders(
    chooser: _Chooser, best: NDArray[np.int64], which: int, rates: Array, delays: Array
) -> Iterator[tuple[str, tuple[float, float], int, int]]:
    """Where the best split of one kind changes along lines of a map."""
    for delay, line in zip(delays[::_EVERY], best[::_EVERY], strict=True):

        def at_rate(rate: float, delay: float = delay) -> int:
            return chooser.best(rate, delay)[which]

        for rate, before, after in _changes(at_rate, rates, line):
            yield "rate", (rate, float(delay)), before, after
    for rate, line in zip(rates[::_EVERY], best.T[::_EVERY], strict=True):

        def at_delay(delay: float, rate: float = rate) -> int:
            return chooser.best(rate, delay)[which]

        for delay, before, after in _changes(at_delay, delays, line):
            yield "delay", (float(rate), delay), before, after


def _changes(
    best: Callable[[float], int], values: Array, line: NDArray[np.int64]
) -> Iterator[tuple[float, int, int]]:
    """Where the best split changes between neighbouring values, found by halving."""
    for number in np.flatnonzero(np.diff(line)):
        before, end = int(line[number]), int(line[number + 1])
        low, most = float(values[number]), float(values[number + 1])
        while before != end:
            high, after = most, end
            for _ in range(_HALVINGS):
                middle = float(np.sqrt(low * high))
                there = best(middle)
                if there == before:
                    low = middle
                else:
                    high, after = middle, there
            yield high, before, after
            # Between the two there may be the narrow region of a third split.
            low, before = high, after
