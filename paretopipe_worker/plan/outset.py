"""What a guided sweep measures first, when nothing is known: endpoints, and a spread of splits."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal, TypeAlias

from paretopipe_worker.plan import splits
from paretopipe_worker.plan.plan import Plan, Point
from paretopipe_worker.plan.predict import overhead_s

Why: TypeAlias = Literal["endpoint", "spread"]

SPREAD = 3
"""Splits between the endpoints for each cut of a split."""


def first(plan: Plan) -> dict[str, Why]:
    """Choose the points that a guided sweep begins with, each with the reason.

    These are the endpoints of every front, and some splits at even distances in the order of the
    data. Points that differ only in what carries their messages compute the same; such a split is
    measured in one of their sessions, a different one for each split.
    """
    chosen: dict[str, Why] = {}
    alike: dict[tuple[object, ...], dict[tuple[str, ...], list[Point]]] = {}
    for point in plan.points:
        if point.split in splits.endpoints(len(point.placement)):
            chosen[point.id] = "endpoint"
        else:
            alike.setdefault(_computing(point), {}).setdefault(point.split, []).append(point)
    for by_split in alike.values():
        order = sorted(by_split, key=lambda split: _places(plan, by_split[split][0]))
        count = min(len(order), SPREAD * len(order[0]))
        for number in range(count):
            points = by_split[order[len(order) * (2 * number + 1) // (2 * count)]]
            chosen[points[number % len(points)].id] = "spread"
    return chosen


def _computing(point: Point) -> tuple[object, ...]:
    """What the points share whose stages compute the same at equal splits."""
    return (
        *(point.model, point.placement, point.batch, point.dtype),
        *(point.runtimes, point.busy, point.sources),
    )


def _places(plan: Plan, point: Point) -> list[int]:
    """Places of a point's cuts in the order of the data."""
    order = plan.table(point.model, point.batch, point.dtype).order
    return [order.index(cut) for cut in point.split]


def predicted_s(plan: Plan, points: Collection[str] | Mapping[str, object]) -> float:
    """Predicted seconds of measuring these points in all replicates, one session after another.

    Lanes of several sources run together and count once.
    """
    seconds = 0.0
    for group in plan.groups:
        lanes = []
        for session in group:
            points_s = [plan.point(each).predicted_s for each in session.points if each in points]
            if points_s:
                link, ranks = plan.link(session.link), len(session.placement)
                rest_s = overhead_s(plan.experiment, link, ranks, points_s)
                lanes.append(rest_s + sum(points_s))
        seconds += max(lanes, default=0.0)
    return seconds
