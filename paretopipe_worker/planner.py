"""Lay out the plan of a run: a pure function of spec, fleet and cut tables.

Sessions come in seeded random order within a replicate and points in seeded random order within a
session, so that the drift of a machine is not taken for the effect of a link or a backend.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from paretopipe_worker.cuts import FIRST, LAST, CutTable, TensorSpec
from paretopipe_worker.fleet import Host
from paretopipe_worker.link.profiles import LinkSpec
from paretopipe_worker.plan import Plan, PlanError, Point, Session, slug
from paretopipe_worker.predict import certificate_s, duration, expected_s, phases_s
from paretopipe_worker.spec import MIN_ITEMS, Experiment, ModelSpec
from paretopipe_worker.window import filling

_SESSION_S = 20.0
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
        When a placement names no host, a list of cuts a cut that a model does not have, or a link
        profile does not fit a placement.
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
            certificates_s = 2 * certificate_s(link, experiment.tcp, len(placement))
            overhead_s = _SESSION_S + certificates_s
            seconds += overhead_s + sum(point.predicted_s for point in inside)
            sessions.append(
                Session(
                    id=name,
                    replicate=replicate,
                    link=link.name,
                    backend=backend,
                    model=model.name,
                    placement=placement,
                    points=tuple(point.id for point in inside),
                    overhead_s=round(overhead_s, 1),
                    deadline_s=_session_deadline_s(experiment, certificates_s, inside),
                )
            )
    return Plan(
        run=run,
        experiment=experiment,
        hosts=tuple(hosts),
        tables=tuple(tables),
        points=tuple(points.values()),
        sessions=tuple(sessions),
        predicted_hours=round(seconds / 3600, 3),
    )


def summary(plan: Plan) -> str:
    """What the plan holds, in a few lines for people."""
    experiment = plan.experiment
    measured = sum(len(session.points) for session in plan.sessions)
    hopeless = sum(
        MIN_ITEMS * point.predicted_latency_s > experiment.phases.max_s for point in plan.points
    )
    warning = (
        f"{hopeless} of the points are predicted to fail: {MIN_ITEMS} items, the fewest a median "
        f"is taken of, take them longer than phases.max_s ({experiment.phases.max_s:g} s)"
    )
    return "\n".join(
        (
            f"{len(plan.points)} points "
            f"({len(experiment.models)} models, {len(experiment.links)} links, "
            f"{len(experiment.backends)} backends), {experiment.replicates} replicates, "
            f"{len(plan.sessions)} sessions: {measured} measurements",
            f"about {duration(plan.predicted_hours * 3600)} predicted, with compute times taken on "
            "the controller and each host's speed_hint",
            *([warning] if hopeless else []),
            *plan.notes,
            *_about_traces(plan),
        )
    )


def _about_traces(plan: Plan) -> Iterator[str]:
    """What to know of links that follow traces: what phases or items do not fit into them."""
    shortest_s = plan.experiment.phases.min_s
    for link in plan.experiment.links:
        if link.timetable is None:
            continue
        period_s, segment_s = link.timetable.period_s, min(link.timetable.durations_s)
        if shortest_s < period_s:
            yield (
                f"link {link.name}: phases may end before its trace ({period_s:g} s) has been "
                f"replayed once: phases.min_s is {shortest_s:g} s"
            )
        taken = [point.predicted_latency_s for point in plan.points if point.link == link.name]
        if slow := sum(latency_s > segment_s for latency_s in taken):
            yield (
                f"link {link.name}: items of {slow} of its {len(taken)} points are predicted to "
                f"take longer than its shortest segment ({segment_s:g} s): those that see it "
                "change count for no segment"
            )


def _placements(experiment: Experiment, fleet: dict[str, Host]) -> tuple[tuple[str, ...], ...]:
    """The placements to measure, each of known hosts."""
    if experiment.placements is None:
        names = tuple(fleet)
        if len(names) != 2:
            raise PlanError(
                f"placements: the inventory's group 'stages' has {len(names)} hosts "
                f"({', '.join(names)}) and pipelines have two stages in this version; "
                f"name them, as in placements: [[{names[0]}, {names[1]}]]"
            )
        return (names,)
    for number, placement in enumerate(experiment.placements):
        for rank, name in enumerate(placement):
            if name not in fleet:
                raise PlanError(
                    f"placements[{number}][{rank}]: unknown host '{name}'; "
                    f"the inventory's group 'stages' has: {', '.join(fleet)}"
                )
        if len(placement) != 2:
            raise PlanError(
                f"placements[{number}]: pipelines have two stages in this version; "
                f"got {len(placement)} hosts"
            )
    return experiment.placements


def _check_links(experiment: Experiment, placements: Sequence[tuple[str, ...]]) -> None:
    """Refuse profiles that do not fit the pipelines they are for."""
    for number, link in enumerate(experiment.links):
        for placement in placements:
            if reason := link.misfit(len(placement)):
                raise PlanError(f"links[{number}].{reason} (placement {' > '.join(placement)})")


def _points(
    experiment: Experiment,
    link: LinkSpec,
    backend: str,
    model: ModelSpec,
    placement: tuple[str, ...],
    fleet: dict[str, Host],
    tables: Sequence[CutTable],
) -> Iterator[Point]:
    """Every point of one session."""
    for table in tables:
        if table.model != model.name:
            continue
        for name in _split_names(experiment, table):
            hops = _hops(table, name)
            stages = [fleet[host] for host in placement]
            # On a link that follows a trace: in its slowest segment.
            latency_s, busiest_s = max(
                expected_s(table, name, hops, part, experiment.tcp, stages)
                for part in link.segments
            )
            for window in experiment.window:
                in_flight = filling(latency_s, busiest_s) if window == "auto" else window
                identity = {
                    "model": model.name,
                    "weights": table.weights_sha256,
                    "input": table.input.shape,
                    "split": (name,),
                    "placement": placement,
                    "link": asdict(link),
                    "tcp": asdict(experiment.tcp),
                    "backend": backend,
                    "batch": table.batch,
                    "window": window,
                    "dtype": table.dtype,
                }
                predicted_s = _POINT_S + phases_s(experiment, in_flight, latency_s, busiest_s)
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
                    # Ten times what is expected, since hosts may be slower than their hint, and
                    # for a window of items, since the last one waits for all the others.
                    deadline_s=round(_PATIENCE_S + 10 * latency_s * in_flight, 1),
                )


def _split_names(experiment: Experiment, table: CutTable) -> tuple[str, ...]:
    """The cuts to measure, endpoints included, each known to the model."""
    if experiment.splits.cuts == "all":
        return (FIRST, *table.names, LAST)
    for number, name in enumerate(experiment.splits.cuts):
        if name not in (FIRST, *table.names, LAST):
            raise PlanError(
                f"splits.cuts[{number}]: model '{table.model}' has no "
                f"{table.granularity} cut '{name}'; allowed: {', '.join(table.names)}"
            )
    inner = tuple(name for name in experiment.splits.cuts if name not in (FIRST, LAST))
    return (FIRST, *inner, LAST)


def _hops(table: CutTable, name: str) -> tuple[tuple[TensorSpec, ...], ...]:
    """What crosses each hop of a two-stage pipeline cut at `name`, the way back last."""
    return (table.crossing(name), () if name == FIRST else table.output)


def _session_deadline_s(
    experiment: Experiment, certificates_s: float, points: Sequence[Point]
) -> float:
    """An upper bound of a session's time: past it something hangs."""
    phases = experiment.phases
    legs = (2 + (len(phases.load.shares) if phases.load else 0)) * (1 + phases.retries)
    # Warm-up and phase each end with the first item past their time, the leg with a window of them.
    leg_s = phases.cool_down_s + phases.warmup_s + phases.max_s
    points_s = sum(legs * (leg_s + 3 * point.deadline_s) for point in points)
    return round(120 + 4 * certificates_s + points_s, 1)


def _digest(identity: dict[str, Any]) -> str:
    """A short name made from content: the same combination has the same name in every run."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
