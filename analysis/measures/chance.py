"""A simulation of datagrams on a link with jitter or loss, as netem would treat them.

With jitter, bursts of losses, and packets that wait for the one before them, there is no simple
formula for the median delay of a few hundred datagrams, nor for its scatter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from paretopipe_worker.link.conditions import Condition

_STREAMS = 400
_SEED = 7070
_PARETO = 3.0
_PARETO_MEAN, _PARETO_SD = 1.5, 0.75**0.5
_MOST_SD = 4.0  # where iproute2's tables end


class Spread(NamedTuple):
    """Mean and standard deviation of something over many simulated streams."""

    mean: float
    sd: float


class Expected(NamedTuple):
    """The expected median round trip of a stream of datagrams, and the share lost at each hop."""

    round_trip_ms: Spread
    lost: tuple[Spread, ...]


def simulate(path: Sequence[Condition], count: int, interval_ms: float) -> Expected:
    """Simulate many streams of datagrams around a ring.

    Parameters
    ----------
    path
        The condition of each hop, in order.
    count
        Datagrams of one stream.
    interval_ms
        Time between two datagrams.
    """
    draw = np.random.default_rng(_SEED)
    sent = np.tile(np.arange(count) * interval_ms, (_STREAMS, 1))
    arrived, there = sent, np.ones((_STREAMS, count), dtype=np.bool_)
    lost = []
    for condition in path:
        left = there & ~_losses(condition, there, draw)
        with np.errstate(invalid="ignore"):
            share = 1 - left.sum(axis=1) / there.sum(axis=1)
        lost.append(_spread(share))
        arrived, there = _delayed(condition, arrived, left, draw), left
    came = there.any(axis=1)
    medians = np.full(_STREAMS, np.nan)
    medians[came] = np.nanmedian(np.where(there, arrived - sent, np.nan)[came], axis=1)
    return Expected(_spread(medians), tuple(lost))


def _losses(
    condition: Condition, there: NDArray[np.bool_], draw: np.random.Generator
) -> NDArray[np.bool_]:
    """Which datagrams a hop drops. Only datagrams that reach it advance Gilbert's chain."""
    if not condition.burst_loss_percent:
        return draw.random(there.shape) < condition.loss_percent / 100
    enter, leave = condition.burst_loss_percent / 100, condition.burst_recovery_percent / 100
    bad = draw.random(len(there)) < condition.mean_loss
    dropped = np.zeros_like(there)
    for number, chance in enumerate(draw.random(there.shape).T):
        dropped[:, number] = bad
        changed = np.where(bad, chance < leave, chance < enter) & there[:, number]
        bad = bad ^ changed
    return dropped


def _delayed(
    condition: Condition,
    arrived: NDArray[np.float64],
    there: NDArray[np.bool_],
    draw: np.random.Generator,
) -> NDArray[np.float64]:
    """When each datagram leaves a hop: in order, except for those that overtake."""
    jitter = condition.jitter_ms * _deviates(condition.distribution, arrived.shape, draw)
    leaves = arrived + np.maximum(0, condition.delay_ms + jitter)
    overtakes = draw.random(arrived.shape) < condition.reorder_percent / 100
    order = np.argsort(arrived, axis=1, kind="stable")
    waits = np.take_along_axis(np.where(there & ~overtakes, leaves, -np.inf), order, axis=1)
    back = np.argsort(order, axis=1, kind="stable")
    queued = np.take_along_axis(np.maximum.accumulate(waits, axis=1), back, axis=1)
    result: NDArray[np.float64] = np.where(overtakes, arrived, queued)
    return result


def _deviates(
    distribution: str, shape: tuple[int, ...], draw: np.random.Generator
) -> NDArray[np.float64]:
    """Deviations from the delay in units of the jitter, distributed as in iproute2's tables."""
    if distribution == "uniform":
        return draw.uniform(-1, 1, shape)
    values: NDArray[np.float64] = draw.standard_normal(shape)
    if distribution != "normal":
        pareto = (1 + draw.pareto(_PARETO, shape) - _PARETO_MEAN) / _PARETO_SD
        values = pareto if distribution == "pareto" else 0.25 * values + 0.75 * pareto
    return values.clip(-_MOST_SD, _MOST_SD)


def _spread(values: NDArray[np.float64]) -> Spread:
    """Mean and standard deviation over the streams that have a value."""
    known = values[~np.isnan(values)]
    return Spread(float(known.mean()), float(known.std())) if len(known) else Spread(np.nan, np.nan)
