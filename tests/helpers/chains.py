"""Plans of more than two stages, made from the plan of the first two hosts."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from paretopipe_worker.cuts import FIRST, LAST, CutTable, TensorSpec
from paretopipe_worker.plan.experiment import Experiment
from paretopipe_worker.plan.fleet import Host
from paretopipe_worker.plan.plan import Plan, Point, Session


def planned(
    plan_two: Callable[[Experiment, Sequence[Host]], Plan],
    experiment: Experiment,
    hosts: Sequence[Host],
) -> Plan:
    """The plan of an experiment over all `hosts`, made from what `plan_two` plans for the first."""
    links = [replace(link, hops=link.hops[:1], return_way=None) for link in experiment.links]
    plan = plan_two(replace(experiment, links=tuple(links)), hosts[:2])
    return replace(chained(plan, hosts), experiment=experiment)


def chained(plan: Plan, hosts: Sequence[Host]) -> Plan:
    """The plan of one placement over all `hosts`, with every split at the cuts of `plan`.

    Points whose last ranks idle are in a session of their own, whose ring is shorter.
    """
    points: dict[str, Point] = {}
    sessions = []
    for session in plan.sessions:
        rings: dict[int, list[Point]] = {}
        for point in _points(plan, session, hosts):
            points[point.id] = point
            rings.setdefault(len(point.hops), []).append(point)
        for ranks, inside in sorted(rings.items(), reverse=True):
            sessions.append(
                replace(
                    session,
                    id=f"{session.id}-k{ranks}",
                    placement=tuple(host.name for host in hosts[:ranks]),
                    points=tuple(point.id for point in inside),
                    deadline_s=len(hosts) ** 2 * session.deadline_s,
                )
            )
    return replace(
        plan, hosts=tuple(hosts), points=tuple(points.values()), sessions=tuple(sessions)
    )


def _points(plan: Plan, session: Session, hosts: Sequence[Host]) -> Iterator[Point]:
    """Every point of a session's links and conditions, over all hosts."""
    known = [plan.point(point) for point in session.points]
    alike = {(point.batch, point.window, point.dtype): point for point in known}
    placement = tuple(host.name for host in hosts)
    for like in alike.values():
        table = plan.table(like.model, like.batch, like.dtype)
        measured = {point.split[0] for point in known}
        order = [name for name in (LAST, *table.names, FIRST) if name in measured]
        for split in itertools.combinations_with_replacement(order, len(hosts) - 1):
            hops = hops_of(table, split)
            text = f"{like.id} {split} {placement}"
            yield replace(
                like,
                id=hashlib.sha256(text.encode()).hexdigest()[:12],
                split=split,
                placement=placement,
                hops=hops,
            )


def hops_of(table: CutTable, split: Sequence[str]) -> tuple[tuple[TensorSpec, ...], ...]:
    """The tensors of each hop of the ring of a split, the way back last."""
    if set(split) == {FIRST}:
        return ((),) * (len(split) + 1)
    order = (LAST, *table.names, FIRST)
    bounds = [0, *map(order.index, split), len(order) - 1]
    parts = itertools.pairwise(bounds)
    sink = max(rank for rank, (before, after) in enumerate(parts) if before < after)
    return (*(table.crossing(name) for name in split[: max(1, sink)]), table.output)
