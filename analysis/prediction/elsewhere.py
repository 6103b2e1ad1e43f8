"""Pipelines over links that were never measured, from the parts that a run measured on its own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.column import OBJECTIVES
from analysis.prediction.costs import Array, Costs, Hop, Places
from analysis.prediction.parts import PredictionError, costs, group_of, hop
from analysis.prediction.predicting import predictions
from analysis.run import Run
from paretopipe_worker.plan.plan import Point
from paretopipe_worker.plan.predict import WIRE_PER_PAYLOAD
from paretopipe_worker.plan.window import MOST

LATENCY, THROUGHPUT = OBJECTIVES

Errors = tuple[float | None, float | None]
"""Root mean squares of differences of logarithms, of latencies and of throughputs: 0.02 is 2 %."""


@dataclass(frozen=True)
class Link:
    """What a link is asked to be, between all hosts.

    Parameters
    ----------
    rate_mbit
        Rate of the wire, Mbit/s.
    delay_ms
        One-way delay, milliseconds.
    return_rate_mbit, return_delay_ms
        Those of the way back; None where they are as those forward.
    """

    rate_mbit: float
    delay_ms: float
    return_rate_mbit: float | None = None
    return_delay_ms: float | None = None

    def forward(self, software: Hop) -> Hop:
        """The hop forward, whose software takes what that of another hop does."""
        return hop(self.rate_mbit, self.delay_ms, software)

    def back(self, software: Hop) -> Hop:
        """The hop back, likewise."""
        rate = self.rate_mbit if self.return_rate_mbit is None else self.return_rate_mbit
        delay = self.delay_ms if self.return_delay_ms is None else self.return_delay_ms
        return hop(rate, delay, software)

    def under(self, made: Costs) -> Costs:
        """A pipeline with this link in place of its own."""
        return replace(
            made,
            hops=tuple(map(self.forward, made.hops)),
            back=tuple(None if way is None else self.back(way) for way in made.back),
        )


@dataclass(frozen=True)
class Measured:
    """A link of the run: its name, and the rate and delay that were measured of its first hop."""

    name: str
    rate_mbit: float
    delay_ms: float


@dataclass(frozen=True)
class Base:
    """The parts of one pipeline, and how far predictions from them are off.

    Parameters
    ----------
    about
        Values of the columns of :data:`analysis.tables.front.GROUP`; ``link`` is the one over which
        the parts were measured: the fastest, of which they hold the least.
    costs
        The parts.
    left_out
        Errors of predictions of the points over that link, each from all others.
    others
        Errors of predictions of the points over all other links from these parts, with the rates
        and delays that these links were measured to have.
    links
        All links over which the pipeline was measured.
    """

    about: dict[str, Any]
    costs: Costs
    left_out: Errors
    others: Errors
    links: tuple[Measured, ...]

    @property
    def window(self) -> int:
        """Items in flight, as far as a throughput depends on them.

        One that is chosen by the latency fills the pipeline, up to the most that is chosen.
        """
        window = self.about["window"]
        return MOST if window == "auto" else int(window)

    @property
    def batch(self) -> int:
        """Images in an item."""
        return int(self.about["batch"])

    def split(self, cuts: Sequence[int]) -> str:
        """The label of a split by its places."""
        return "+".join(self.costs.places[place] for place in cuts)


def bases(
    run: Run, measured: pd.DataFrame, model: str | None = None
) -> tuple[list[Base], list[str]]:
    """The pipelines of a run, whatever their link.

    Parameters
    ----------
    run
        The run.
    measured
        Its replicates, see :func:`analysis.measures.replicates.replicates`.
    model
        The only model that is wanted; None for all.

    Returns
    -------
    One for each combination of what identifies a front, but for the link; and why there is none of
    others.
    """
    alike: dict[tuple[Any, ...], dict[str, list[Point]]] = {}
    for point in run.plan.points:
        if model in (None, point.model):
            about = group_of(point)
            key = tuple(value for name, value in about.items() if name != "link")
            alike.setdefault(key, {}).setdefault(point.link, []).append(point)
    counted = measured[measured["status"] == "ok"].groupby("point")[list(OBJECTIVES)].mean()
    errors = predictions(run, measured).set_index("point")[["latency_error", "throughput_error"]]
    found, refused = [], []
    for links in alike.values():
        try:
            found.append(_base(run, measured, links, counted, errors))
        except PredictionError as error:
            refused.append(str(error))
    return found, refused


def _base(
    run: Run,
    measured: pd.DataFrame,
    links: dict[str, list[Point]],
    counted: pd.DataFrame,
    errors: pd.DataFrame,
) -> Base:
    """The parts of what shares all but its link."""
    made, reasons = {}, []
    for link, points in links.items():
        try:
            made[link] = costs(run, measured, group_of(points[0]))
        except PredictionError as error:
            reasons.append(str(error))
    if not made:
        raise PredictionError(reasons[0])
    fastest = min(made, key=lambda link: _slowness(made[link]))
    chosen = made[fastest]
    others: list[Array] = []
    for link, there in made.items():
        if link != fastest:
            ways = _ways(chosen, there)
            others += _off(ways, links[link], counted)
    own = errors.loc[links[fastest][0].id].to_numpy(dtype=np.float64)
    told = [Measured(link, *_told(each.hops[0])) for link, each in made.items() if each.hops]
    return Base(
        about=group_of(links[fastest][0]),
        costs=chosen,
        left_out=_known(own),
        others=_known(
            np.sqrt(np.mean(np.square(others), axis=0)) if others else np.full(2, np.nan)
        ),
        links=tuple(told),
    )


def _slowness(made: Costs) -> float:
    """How long the largest message takes to the next host."""
    largest = np.array(made.forward_bytes.max())
    return float(sum(hop.crossing_ms(largest) for hop in made.hops))


def _ways(made: Costs, there: Costs) -> Costs:
    """A pipeline over the wires of another link; the software stays."""
    return replace(
        made,
        hops=tuple(map(_wire, made.hops, there.hops)),
        back=tuple(
            None if own is None or other is None else _wire(own, other)
            for own, other in zip(made.back, there.back, strict=True)
        ),
    )


def _wire(own: Hop, other: Hop) -> Hop:
    """A hop's software over another one's wire."""
    return replace(own, delay_ms=other.delay_ms, ms_per_byte=other.ms_per_byte)


def _off(made: Costs, points: Sequence[Point], counted: pd.DataFrame) -> Iterator[Array]:
    """By how much the logarithms of both objectives are off at each point that was measured."""
    known = [point for point in points if point.id in counted.index]
    splits = made.index([point.split for point in known])
    latency, busiest = made.latency_ms(splits), made.busiest_ms(splits)
    for point, latency_ms, busiest_ms in zip(known, latency, busiest, strict=True):
        window = MOST if point.window == "auto" else point.window
        rate = 1e3 * point.batch / max(busiest_ms, latency_ms / window)
        values = counted.loc[point.id].to_numpy(dtype=np.float64)
        off: Array = np.log([latency_ms, rate]) - np.log(values)
        if np.isfinite(off).all():
            yield off


def _known(values: Array) -> Errors:
    """Numbers as they are told; None for those that are not known."""
    latency, throughput = (None if np.isnan(value) else float(value) for value in values)
    return latency, throughput


def _told(hop: Hop) -> tuple[float, float]:
    """A hop's rate in Mbit/s, and its delay in milliseconds."""
    return 8e-3 * WIRE_PER_PAYLOAD / hop.ms_per_byte if hop.ms_per_byte else np.inf, hop.delay_ms


def every_split(made: Costs, most: int) -> Places:
    """All splits of a pipeline, as an array (n, k-1).

    Raises
    ------
    PredictionError
        When there are more than `most`.
    """
    count = math.comb(len(made.places) + len(made.hops) - 1, len(made.hops))
    if count > most:
        raise PredictionError(
            f"{' > '.join(made.hosts)} has {count} splits; so many are not compared one by one, "
            f"at most {most} are"
        )
    cuts = itertools.combinations_with_replacement(range(len(made.places)), len(made.hops))
    return np.array(list(cuts), dtype=np.int64).reshape(count, len(made.hops))
