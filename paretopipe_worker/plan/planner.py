"""Lay out the plan of a run: a pure function of spec, fleet and cut tables.

The order of sessions within a replicate and of points within a session is random and seeded, so
that the drift of a machine is not taken for the effect of a link or a backend.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from paretopipe_worker.cuts import FIRST, LAST, CutTable, TensorSpec
from paretopipe_worker.link.profiles import LinkSpec
from paretopipe_worker.link.traces import outage_s
from paretopipe_worker.plan import memory
from paretopipe_worker.plan.experiment import MIN_ITEMS, Experiment, ModelSpec
from paretopipe_worker.plan.fleet import Host, apart
from paretopipe_worker.plan.labels import placement_label, readable
from paretopipe_worker.plan.plan import Plan, PlanError, Point, Session, slug
from paretopipe_worker.plan.predict import MOST_LOSS, duration, expected_s, legs_s, overhead_s
from paretopipe_worker.plan.window import filling
from paretopipe_worker.usertext import listed, shown

_POINT_S = 0.3
_PATIENCE_S = 30.0


def make(
    run: str, experiment: Experiment, hosts: Sequence[Host], tables: Sequence[CutTable]
) -> Plan:
    """Lay out every session and point of a run.

    Parameters
    ----------
    run
        Name of the run.
    hosts
        The hosts of the inventory's group ``stages``, in order.
    tables
        One cut table per model, batch and dtype of the experiment.

    Raises
    ------
    PlanError
        When a placement names an unknown host or hosts that cannot reach one another, a list of
        cuts names one that a model does not have, or a link profile does not fit a placement.
    """
    fleet = {host.name: host for host in hosts}
    placements = _placements(experiment, fleet)
    _check_links(experiment, placements)
    points: dict[str, Point] = {}
    sessions: list[Session] = []
    seconds = 0.0
    for replicate in range(experiment.replicates):
        keys = list(
            itertools.product(experiment.links, experiment.backends, experiment.models, placements)
        )
        random.Random(f"{experiment.seed} sessions {replicate}").shuffle(keys)
        for link, backend, model, placement in keys:
            number = placements.index(placement)
            name = f"r{replicate}-{link.name}-{backend}-{slug(model.name)}-p{number}"
            inside = list(_points(experiment, link, backend, model, placement, fleet, tables))
            random.Random(f"{experiment.seed} points {name}").shuffle(inside)
            points.update((point.id, point) for point in inside)
            session, predicted_s = _session(name, replicate, experiment, link, inside)
            sessions.append(session)
            seconds += predicted_s
    return Plan(
        run=run,
        experiment=experiment,
        hosts=tuple(hosts),
        tables=tuple(tables),
        points=tuple(points.values()),
        sessions=tuple(sessions),
        predicted_hours=round(seconds / 3600, 3),
    )


def _session(
    name: str, replicate: int, experiment: Experiment, link: LinkSpec, points: Sequence[Point]
) -> tuple[Session, float]:
    """The session that measures these points in this order, and its predicted seconds."""
    first, *_ = points
    points_s = [point.predicted_s for point in points]
    rest_s = overhead_s(experiment, link, len(first.placement), points_s)
    session = Session(
        id=name,
        replicate=replicate,
        link=link.name,
        backend=first.backend,
        model=first.model,
        placement=first.placement,
        points=tuple(point.id for point in points),
        deadline_s=_session_deadline_s(experiment, rest_s, points),
    )
    return session, rest_s + sum(points_s)


def summary(plan: Plan) -> str:
    """A few lines for people about what the plan holds."""
    experiment = plan.experiment
    measured = sum(len(session.points) for session in plan.sessions)
    return "\n".join(
        (
            f"{len(plan.points)} points "
            f"({len(experiment.models)} models, {len(experiment.links)} links, "
            f"{len(experiment.backends)} backends), {experiment.replicates} replicates, "
            f"{len(plan.sessions)} sessions: {measured} measurements",
            f"about {duration(plan.predicted_hours * 3600)} predicted, with compute times taken on "
            "the controller and each host's speed_hint",
            *_about_hopeless(plan),
            *_about_losses(plan),
            *plan.notes,
            *_about_traces(plan),
        )
    )


def _about_hopeless(plan: Plan) -> Iterator[str]:
    """A line for each link some of whose points are predicted to fail."""
    most_s = plan.experiment.phases.max_s
    for link in plan.experiment.links:
        crossing = [p for p in plan.points if p.link == link.name and any(p.hops)]
        slow = [p for p in crossing if MIN_ITEMS * p.predicted_latency_s > most_s]
        if slow:
            least_s = MIN_ITEMS * min(point.predicted_latency_s for point in slow)
            which = "all" if len(slow) == len(crossing) else f"{len(slow)} of the"
            yield (
                f"link {link.name}: {which} {len(crossing)} points at which something crosses are "
                f"predicted to fail: {MIN_ITEMS} items, the fewest a median is taken of, take them "
                f"{least_s:.0f} s and more, phases.max_s is {most_s:g} s"
            )


def _about_losses(plan: Plan) -> Iterator[str]:
    """A line for each link that loses so many packets that its times cannot be predicted."""
    for link in plan.experiment.links:
        ways = [way for hop in link.hops for way in (hop.forward, hop.back)]
        loss = max(way.mean_loss for way in (*ways, link.return_way or ways[0]))
        if link.timetable is None and loss > MOST_LOSS:
            yield (
                f"link {link.name}: loses {loss:.0%} of all packets; above {MOST_LOSS:.0%} TCP "
                "hardly moves: points may fail, and take longer than predicted"
            )


def _about_traces(plan: Plan) -> Iterator[str]:
    """Lines for links that follow traces: legs and items that do not fit the trace's times."""
    shortest_s = plan.experiment.phases.min_s
    for link in plan.experiment.links:
        if link.timetable is None:
            continue
        period_s, segment_s = link.timetable.period_s, min(link.timetable.durations_s)
        if shortest_s < period_s:
            yield (
                f"link {link.name}: legs may end before its trace ({period_s:g} s) has been "
                f"replayed once: phases.min_s is {shortest_s:g} s"
            )
        if len(link.certified) < (distinct := len(set(link.conditions))):
            yield (
                f"link {link.name}: {len(link.certified)} of the {distinct} conditions of its "
                "trace are certified, the slowest, the fastest and the lossiest among them"
            )
        taken = [point.predicted_latency_s for point in plan.points if point.link == link.name]
        if slow := sum(latency_s > segment_s for latency_s in taken):
            yield (
                f"link {link.name}: items of {slow} of its {len(taken)} points are predicted to "
                f"take longer than its shortest segment ({segment_s:g} s): those that see it "
                "change count for no segment"
            )


def _placements(experiment: Experiment, fleet: dict[str, Host]) -> tuple[tuple[str, ...], ...]:
    """The placements to measure; all their hosts are known and can reach one another."""
    if experiment.placements is None:
        names = tuple(fleet)
        if len(names) != 2:
            raise PlanError(
                f"placements: the inventory's group 'stages' has {len(names)} hosts "
                f"({listed(names)}) and pipelines have two stages in this version; "
                f"name them, as in placements: [[{names[0]}, {names[1]}]]"
            )
        if reason := apart(list(fleet.values())):
            raise PlanError(f"inventory: {reason}")
        return (names,)
    for number, placement in enumerate(experiment.placements):
        for rank, name in enumerate(placement):
            if name not in fleet:
                raise PlanError(
                    f"placements[{number}][{rank}]: unknown host '{name}'; "
                    f"the inventory's group 'stages' has: {listed(tuple(fleet))}"
                )
        if len(placement) != 2:
            raise PlanError(
                f"placements[{number}]: pipelines have two stages in this version; "
                f"got {len(placement)} hosts"
            )
        if reason := apart([fleet[name] for name in placement]):
            raise PlanError(f"placements[{number}]: {reason}")
    return experiment.placements


def _check_links(experiment: Experiment, placements: Sequence[tuple[str, ...]]) -> None:
    """Refuse profiles that do not fit the pipelines they are for."""
    for number, link in enumerate(experiment.links):
        for placement in placements:
            if reason := link.misfit(len(placement)):
                raise PlanError(
                    f"links[{number}].{reason} (placement {readable(placement_label(placement))})"
                )


def _points(
    experiment: Experiment,
    link: LinkSpec,
    backend: str,
    model: ModelSpec,
    placement: tuple[str, ...],
    fleet: dict[str, Host],
    tables: Sequence[CutTable],
) -> Iterator[Point]:
    """Every point of one session, in the order of the cut tables."""
    known, hardest, blocked = _identity(link), link.hardest, _Blocked.of(link)
    for table in tables:
        if table.model != model.name:
            continue
        for name in _split_names(experiment, table):
            hops = _hops(table, name)
            stages = [fleet[host] for host in placement]
            # Where the link follows a trace: in the worst of the segments that let data pass.
            latency_s, busiest_s = max(
                expected_s(table, name, hops, part, experiment.tcp, stages) for part in hardest
            )
            for window in experiment.window:
                in_flight = filling(latency_s, busiest_s) if window == "auto" else window
                identity = {
                    "model": model.name,
                    "weights": table.weights_sha256,
                    "input": [(each.shape, each.dtype) for each in table.inputs],
                    "split": (name,),
                    "placement": placement,
                    "link": known,
                    "tcp": asdict(experiment.tcp),
                    "backend": backend,
                    "batch": table.batch,
                    "window": window,
                    "dtype": table.dtype,
                }
                predicted_s = _POINT_S + legs_s(experiment, in_flight, latency_s, busiest_s)
                yield Point(
                    id=_digest(identity),
                    model=model.name,
                    split=(name,),
                    placement=placement,
                    link=link.name,
                    backend=backend,
                    batch=table.batch,
                    window=window,
                    dtype=table.dtype,
                    hops=hops,
                    predicted_latency_s=round(latency_s, 4),
                    predicted_s=round(predicted_s, 2),
                    # Ten times the expected latency, since hosts may be slower than their hint,
                    # times the window, since the last item waits for all the others.
                    deadline_s=round(
                        blocked.allowed_s(_PATIENCE_S + 10 * latency_s * in_flight), 1
                    ),
                    memory_bytes=memory.needed(table, (name,), hops, in_flight),
                )


def _identity(link: LinkSpec) -> dict[str, Any]:
    """What distinguishes a link from others; short even where its trace is long."""
    document = asdict(replace(link, trace=()))
    del document["certified"]  # it follows from the trace
    trace = hashlib.sha256(repr(link.trace).encode()).hexdigest() if link.trace else ()
    return document | {"trace": trace}


@dataclass(frozen=True)
class _Blocked:
    """The longest time for which a link lets nothing pass, and the share of all such times."""

    longest_s: float = 0.0
    share: float = 0.0

    @classmethod
    def of(cls, link: LinkSpec) -> _Blocked:
        """The outages of a link."""
        if link.timetable is None:
            return cls()
        conditions, times = link.conditions, link.timetable
        lost_s = sum(
            duration_s
            for duration_s, condition in zip(times.durations_s, conditions, strict=True)
            if condition.outage
        )
        return cls(outage_s(times, conditions), lost_s / times.period_s)

    def allowed_s(self, seconds: float) -> float:
        """How long to wait for something that takes `seconds` while data passes.

        After an outage TCP may wait as long again before it tries (RFC 6298, section 5.5).
        """
        return seconds / (1 - self.share) + 2 * self.longest_s


def _split_names(experiment: Experiment, table: CutTable) -> tuple[str, ...]:
    """The cuts to measure, endpoints included; all of them are cuts of the model."""
    if experiment.splits.cuts == "all":
        return (FIRST, *table.names, LAST)
    for number, name in enumerate(experiment.splits.cuts):
        if name not in (FIRST, *table.names, LAST):
            raise PlanError(
                f"splits.cuts[{number}]: model '{table.model}' has no "
                f"{table.granularity} cut {shown(name)}; allowed: {listed(table.names)}"
            )
    inner = tuple(name for name in experiment.splits.cuts if name not in (FIRST, LAST))
    return (FIRST, *inner, LAST)


def _hops(table: CutTable, name: str) -> tuple[tuple[TensorSpec, ...], ...]:
    """The tensors that cross each hop of a two-stage pipeline cut at `name`, the way back last."""
    return (table.crossing(name), () if name == FIRST else table.output)


def _session_deadline_s(experiment: Experiment, rest_s: float, points: Sequence[Point]) -> float:
    """An upper bound of a session's time: a session that takes longer hangs."""
    phases = experiment.phases
    legs = (2 + (len(phases.load.shares) if phases.load else 0)) * (1 + phases.retries)
    # The warm-up and the items that count each end with the first item past their time; then a
    # window of items is still to come back.
    leg_s = phases.cool_down_s + phases.warmup_s + phases.max_s
    points_s = sum(legs * (leg_s + 3 * point.deadline_s) for point in points)
    return round(120 + 4 * rest_s + points_s, 1)


def _digest(identity: dict[str, Any]) -> str:
    """A short name made from the content: a combination has the same name in every run."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
