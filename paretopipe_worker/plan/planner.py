"""Lay out the plan of a run: a pure function of spec, fleet and cut tables.

The order of sessions within a replicate and of points within a session is random and seeded, so
that the drift of a machine is not taken for the effect of a link or a backend.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

from paretopipe_worker.cuts import FIRST, CutTable, TensorSpec, payload_bytes
from paretopipe_worker.link.profiles import LinkSpec
from paretopipe_worker.link.traces import outage_s
from paretopipe_worker.plan import executing, lanes, memory, splits
from paretopipe_worker.plan.experiment import Experiment
from paretopipe_worker.plan.fleet import Host
from paretopipe_worker.plan.identity import special
from paretopipe_worker.plan.placements import check_busy, check_links, placements_of
from paretopipe_worker.plan.plan import Plan, PlanError, Point, Session, message_sizes, slug
from paretopipe_worker.plan.predict import expected_s, legs_s, overhead_s
from paretopipe_worker.plan.splits import Split
from paretopipe_worker.plan.window import filling

_POINT_S = 0.3
_PATIENCE_S = 30.0

_Key: TypeAlias = tuple[str, str, str, tuple[str, ...], tuple[str, ...], bool, int]
"""What the points of a session share: link, backend, model, placement, ring, busy, and the number
of sources."""


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
        One cut table per model, batch and dtype of the experiment; a model without one is left out.

    Raises
    ------
    PlanError
        When a placement names an unknown host or hosts that cannot reach one another, an entry of
        a list of cuts makes no split of a model, a link profile does not fit a placement, hosts are
        to be busy of which none can be, there are too few hosts for the sources, or the plan is
        beyond its limit.
    """
    fleet = {host.name: host for host in hosts}
    placements = placements_of(experiment, fleet)
    check_links(experiment, placements)
    executing.check(experiment, fleet)
    check_busy(experiment, hosts)
    inside = _inside(experiment, fleet, tables, placements)
    numbers = {placement: number for number, placement in enumerate(placements)}
    points: dict[str, Point] = {}
    sessions: list[Session] = []
    seconds = 0.0
    for replicate in range(experiment.replicates):
        keys = list(inside)
        random.Random(f"{experiment.seed} sessions {replicate}").shuffle(keys)
        for key in keys:
            name = _name(replicate, key, numbers)
            order = list(inside[key])
            random.Random(f"{experiment.seed} points {name}").shuffle(order)
            made = [
                _session(name, replicate, experiment, of_lane, lane)
                for lane, of_lane in enumerate(zip(*order, strict=True))
            ]
            points.update((point.id, point) for alike in order for point in alike)
            sessions += [session for session, _ in made]
            seconds += max(predicted_s for _, predicted_s in made)
    _hold_limit(experiment, "hours", seconds / 3600)
    return Plan(
        run=run,
        experiment=experiment,
        hosts=tuple(hosts),
        tables=tuple(tables),
        points=tuple(points.values()),
        sessions=tuple(sessions),
        predicted_hours=round(seconds / 3600, 3),
    )


def _inside(
    experiment: Experiment,
    fleet: Mapping[str, Host],
    tables: Sequence[CutTable],
    placements: Sequence[tuple[str, ...]],
) -> dict[_Key, list[tuple[Point, ...]]]:
    """The points of each session, one for each lane where several sessions run together."""
    measured = list(dict.fromkeys(table.model for table in tables))
    asked = _splits(experiment, tables, Counter(map(len, placements)))
    lanes_of = lanes.planned(experiment, fleet, placements)
    inside: dict[_Key, list[tuple[Point, ...]]] = {}
    for link, backend, model, placement, busy, sources in itertools.product(
        *(experiment.links, experiment.backends, measured, placements),
        *(experiment.busy, experiment.sources),
    ):
        lane_hosts = [[fleet[host] for host in lane] for lane in lanes_of[placement, sources]]
        if busy and not any(host.busy for stages in lane_hosts for host in stages):
            continue  # it would be measured twice in the same way
        splits_asked = asked[model, len(placement)]
        of_lanes = [
            list(_points(experiment, link, backend, splits_asked, stages, busy, sources))
            for stages in lane_hosts
        ]
        if len(set(map(len, of_lanes))) > 1:
            raise PlanError(
                "runtimes: with several sources each entry must come to the same number of choices "
                "on every lane; allowed: entries that do not name the hosts of single lanes"
            )
        for alike in zip(*of_lanes, strict=True):
            key = (link.name, backend, model, placement, alike[0].ring, busy, sources)
            inside.setdefault(key, []).append(alike)
    return inside


def _name(replicate: int, key: _Key, numbers: dict[tuple[str, ...], int]) -> str:
    """Name of a session, or of the group of the sessions of several sources.

    Where it reaches only the first hosts of a placement, it says how many.
    """
    link, backend, model, placement, ring, busy, sources = key
    name = f"r{replicate}-{link}-{backend}-{slug(model)}-p{numbers[placement]}"
    name = name if ring == placement else f"{name}-first{len(ring)}"
    name = f"{name}-busy" if busy else name
    return name if sources == 1 else f"{name}-sources{sources}"


def _session(
    name: str, replicate: int, experiment: Experiment, points: Sequence[Point], lane: int
) -> tuple[Session, float]:
    """The session that measures these points in this order, and its predicted seconds."""
    first, *_ = points
    alone = first.sources == 1
    points_s = [point.predicted_s for point in points]
    link = next(link for link in experiment.links if link.name == first.link)
    rest_s = overhead_s(experiment, link, len(first.ring), points_s)
    session = Session(
        id=name if alone else f"{name}-lane{lane}",
        replicate=replicate,
        link=first.link,
        backend=first.backend,
        model=first.model,
        placement=first.ring,
        points=tuple(point.id for point in points),
        deadline_s=_session_deadline_s(experiment, rest_s, points),
        busy=first.busy,
        group="" if alone else name,
        lane=lane,
        sources=first.sources,
    )
    return session, rest_s + sum(points_s)


def _splits(
    experiment: Experiment, tables: Sequence[CutTable], placements: Mapping[int, int]
) -> dict[tuple[str, int], list[tuple[CutTable, Split]]]:
    """The splits to measure, each with its cut table, by model and number of stages.

    Parameters
    ----------
    placements
        Number of placements by their number of hosts.
    """
    of_model: dict[str, list[CutTable]] = {}
    for table in tables:
        of_model.setdefault(table.model, []).append(table)
    lists = (experiment.links, experiment.backends, experiment.window, experiment.busy)
    each_with = math.prod(map(len, (*lists, experiment.runtimes, experiment.wire)))
    each_with *= sum(experiment.sources)
    points = 0
    for table in tables:
        splits.check(experiment, table, placements)
        for stages, number in placements.items():
            found = splits.choice(experiment, table, of_model[table.model], stages)
            points += each_with * number * (found.count + stages)
    _hold_limit(experiment, "points", points)
    return {
        (model, stages): [
            (table, split)
            for table in those
            for split in splits.chosen(experiment, table, those, stages)
        ]
        for model, those in of_model.items()
        for stages in placements
    }


def _hold_limit(experiment: Experiment, what: Literal["points", "hours"], found: float) -> None:
    """Refuse a plan beyond the limit, where the spec has no strategy and no list of cuts."""
    most = getattr(experiment.limit, what)
    if experiment.strategy or experiment.splits.cuts != "all" or found <= most:
        return
    raise PlanError(
        f"limit.{what}: all splits together make a plan of {_rounded(found)} {what}, the limit is "
        f"{_rounded(most)}; allowed: strategy: all (measures them all the same), guided (those "
        "that may be best), {sample: N} (N of each model), a list in splits.cuts, or another limit"
    )


def _rounded(number: float) -> str:
    """A number for people, never less than it is."""
    return f"{math.ceil(number * 100) / 100:,.12g}"


def _points(
    experiment: Experiment,
    link: LinkSpec,
    backend: str,
    asked: Sequence[tuple[CutTable, Split]],
    stages: Sequence[Host],
    busy: bool,
    sources: int,
) -> Iterator[Point]:
    """Every point of one link, backend, model and placement, in the order of the splits."""
    known, hardest, blocked = _identity(link), link.hardest, _Blocked.of(link)
    placement = tuple(host.name for host in stages)
    varied: list[dict[str, Any]] = [
        {"runtimes": runtimes, "wire": wire, "busy": busy, "sources": sources}
        for runtimes in executing.chosen(experiment, stages)
        for wire in experiment.wire
    ]
    for table, split in asked:
        hops = _hops(table, split)
        for window, circumstances in itertools.product(experiment.window, varied):
            sizes = _predicted_bytes(circumstances["wire"], hops)
            # Where the link follows a trace: in the worst of the segments that let data pass.
            latency_s, busiest_s = max(
                expected_s(table, split, sizes, part, experiment.tcp, stages) for part in hardest
            )
            in_flight = filling(latency_s, busiest_s) if window == "auto" else window
            identity = {
                "model": table.model,
                "weights": table.weights_sha256,
                "input": [(each.shape, each.dtype) for each in table.inputs],
                "split": split,
                "placement": placement,
                "link": known,
                "tcp": asdict(experiment.tcp),
                "backend": backend,
                "batch": table.batch,
                "window": window,
                "dtype": table.dtype,
            } | special(circumstances)
            predicted_s = _POINT_S + legs_s(experiment, in_flight, latency_s, busiest_s)
            yield Point(
                id=_digest(identity),
                model=table.model,
                split=split,
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
                deadline_s=round(blocked.allowed_s(_PATIENCE_S + 10 * latency_s * in_flight), 1),
                memory_bytes=memory.needed(table, split, hops, in_flight, circumstances["wire"]),
                **circumstances,
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


def _hops(table: CutTable, split: Split) -> tuple[tuple[TensorSpec, ...], ...]:
    """The tensors that cross each hop up to the sink, then those that the sink returns.

    Where the source has all operations there is no such rank, and nothing crosses.
    """
    sink = split.index(FIRST) if FIRST in split else len(split)
    if sink == 0:
        return ((),) * (len(split) + 1)
    return (*map(table.crossing, split[:sink]), table.output)


def _predicted_bytes(wire: str, hops: tuple[tuple[TensorSpec, ...], ...]) -> list[int]:
    """Bytes of a message on each hop: packed where that is one size, else those of the tensors."""
    sizes = zip(message_sizes(wire, hops), hops, strict=True)
    return [each[0] if len(each) == 1 else payload_bytes(hop) for each, hop in sizes]


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
