"""The next line of ``generations.jsonl``: what is measured now, or why nothing more is."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.guiding.candidates import Bounded, Predictor, known
from analysis.guiding.rule import Array, Boxes, Integers, next_points, nondominated
from analysis.run import Run
from paretopipe_worker.plan import outset
from paretopipe_worker.plan.generations import (
    Bounds,
    Choice,
    End,
    Generation,
    History,
    LeftOut,
    Line,
    Standing,
)
from paretopipe_worker.plan.plan import Plan
from paretopipe_worker.plan.strategy import GuideSpec

SHARE, FEWEST = 0.1, 4
"""Points that a generation has at most, of those that compute the same: a share of them all, but at
least so many. What they measure makes others more certain."""


@dataclass(frozen=True)
class _Found:
    """What the rule finds in points that compute the same."""

    skipped: tuple[LeftOut, ...]
    wanted: tuple[Choice, ...]
    left: tuple[Choice, ...]


def decide(
    run: Run,
    measured: pd.DataFrame,
    history: History,
    spec: GuideSpec,
    predictor: Predictor,
    hours_used: float,
) -> Line:
    """Decide what a guided sweep measures next.

    Parameters
    ----------
    measured
        See :func:`analysis.measures.replicates.replicates`.
    history
        What was decided before. All its points must have been tried.
    hours_used
        Hours in which sessions ran.
    """
    plan = run.plan
    table = known(run, measured, predictor)
    if begin := _begin(plan, table, history, spec, hours_used):
        return begin
    families = [_rule(plan, rows, spec.epsilon) for _, rows in table.groupby("family", sort=False)]
    standing = _standing(table, history, spec, hours_used, families)
    wanted = list(_in_turn([found.wanted for found in families]))
    if not wanted:
        skipped = any(found.skipped for found in families)
        return End("settled" if skipped else "measured", (), standing)
    if spec.hours is not None:
        done = set(table.loc[table["state"] != "open", "point"])
        wanted = _within(plan, wanted, spec.hours - hours_used, _pace(plan, done, hours_used))
    if not wanted:
        return End("hours", tuple(each for found in families for each in found.left), standing)
    return _generation(plan, history.number + 1, wanted, standing)


def _generation(
    plan: Plan, number: int, wanted: Sequence[Choice], standing: Standing
) -> Generation:
    """A generation of these points."""
    seconds = outset.predicted_s(plan, {each.point for each in wanted})
    return Generation(number, tuple(wanted), round(seconds, 1), standing)


def _standing(
    table: pd.DataFrame,
    history: History,
    spec: GuideSpec,
    hours_used: float,
    families: Sequence[_Found],
) -> Standing:
    """What is left out from now on, and what is no more."""
    before, open_ = history.skipped, set(table.loc[table["state"] == "open", "point"])
    skipped = {each.point: each for found in families for each in found.skipped}
    return Standing(
        spec.epsilon,
        spec.hours,
        round(hours_used, 4),
        tuple(each for point, each in skipped.items() if point not in before),
        tuple(point for point in before if point not in skipped and point in open_),
    )


def _begin(
    plan: Plan, table: pd.DataFrame, history: History, spec: GuideSpec, hours_used: float
) -> Generation | None:
    """The first generation, as far as it is not measured yet."""
    if history.number:
        return None
    open_ = set(table.loc[table["state"] == "open", "point"])
    first = {point: why for point, why in outset.first(plan).items() if point in open_}
    if not first:
        return None
    wanted = [Choice(point, why) for point, why in first.items()]
    return _generation(plan, 1, wanted, Standing(spec.epsilon, spec.hours, round(hours_used, 4)))


def _rule(plan: Plan, family: pd.DataFrame, epsilon: float) -> _Found:
    """Apply the rule to points that compute the same."""
    bounded = Bounded(plan, family)
    points = bounded.open["point"].to_list()
    if not points:
        return _Found((), (), ())
    low, mean, high, worst = bounded.low, bounded.mean, bounded.high, bounded.worst()
    by = np.full(len(points), -1)
    on_front = np.zeros(len(points), dtype=np.bool_)
    of_measured = bounded.measured["group"].to_numpy()
    for group in np.unique(bounded.groups):
        own, those = bounded.groups == group, np.flatnonzero(of_measured == group)
        boxes = Boxes(low[own], mean[own], high[own], worst[those])
        numbers = boxes.covered(epsilon)
        by[own] = np.where(numbers >= 0, those[numbers] if len(those) else -1, -1)
        figures = bounded.measured.iloc[those][["latency", "rate"]].to_numpy(np.float64)
        on_front[own] = nondominated(mean[own], np.vstack([mean[own], figures]))
    told = [_bounds(*ends) for ends in zip(low, mean, high, strict=True)]
    names = bounded.measured["point"].to_list()
    skipped = tuple(LeftOut(points[at], names[by[at]], told[at]) for at in np.flatnonzero(by >= 0))
    candidates = np.flatnonzero(by < 0)

    def choice(at: int) -> Choice:
        return Choice(points[at], "front" if on_front[at] else "uncertain", told[at])

    most = max(FEWEST, round(SHARE * len(family)))
    wanted = _wanted(bounded, candidates, epsilon, most)
    return _Found(skipped, tuple(map(choice, wanted)), tuple(map(choice, candidates.tolist())))


def _wanted(bounded: Bounded, candidates: Integers, epsilon: float, most: int) -> list[int]:
    """The candidates that are measured next, most wanted first."""
    if not len(candidates):
        return []
    latency, rate = bounded.beliefs()
    found = next_points(
        bounded.low[candidates],
        bounded.mean[candidates],
        bounded.groups[candidates],
        (latency.only(candidates), rate.only(candidates)),
        epsilon,
        most,
    )
    return [int(candidates[number]) for number in found]


def _bounds(low: Array, mean: Array, high: Array) -> Bounds:
    """A box as people read it."""
    figures = np.exp(np.stack([low, mean, high], axis=1))
    least, predicted, most = (float(value) for value in figures[0])
    slowest, expected, fastest = (float(1 / value) for value in figures[1][::-1])
    return Bounds((least, predicted, most), (slowest, expected, fastest))


def _in_turn(lists: Sequence[Sequence[Choice]]) -> Iterator[Choice]:
    """The first of each list, then the second of each, and so on."""
    for row in itertools.zip_longest(*lists):
        yield from (each for each in row if each is not None)


def _pace(plan: Plan, done: set[str], hours_used: float) -> float:
    """How much longer measuring has taken than predicted, 1 where that is not known."""
    predicted_s = outset.predicted_s(plan, done)
    return 3600 * hours_used / predicted_s if hours_used and predicted_s else 1.0


def _within(plan: Plan, wanted: Sequence[Choice], hours: float, pace: float) -> list[Choice]:
    """The most wanted points, as many as fit into so many hours."""
    least, most = 0, len(wanted)
    while least < most:
        middle = (least + most + 1) // 2
        points = {each.point for each in wanted[:middle]}
        if pace * outset.predicted_s(plan, points) <= 3600 * hours:
            least = middle
        else:
            most = middle - 1
    return list(wanted[:least])
