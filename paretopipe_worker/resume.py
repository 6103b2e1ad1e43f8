"""What a run still lacks: which points of which sessions have no complete set of records."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from paretopipe_worker import plan as plans
from paretopipe_worker import records
from paretopipe_worker.fleet import Host
from paretopipe_worker.plan import Plan, Point, Session
from paretopipe_worker.predict import duration
from paretopipe_worker.records import End, Header, PhaseEnd, PointEnd, Writer
from paretopipe_worker.spec import Experiment

CONTROLLER = "controller"
"""Folder of the records by which the controller says that a session failed."""

MEASURED = ("latency", "throughput")
"""Phases that every point needs."""


def lacking(point: Point, ended: Collection[tuple[int, str]]) -> tuple[str, ...]:
    """Hosts of which an attempt at a point has not the ends of all phases.

    An attempt is complete, its figures count and it is not made again, when this is empty and the
    source says that the point ended well.

    Parameters
    ----------
    point
        The point.
    ended
        Ranks and phases of which the attempt's records hold the end.
    """
    # Ranks with a part in it: the source, and whoever something is sent to.
    active = [0] + [rank for rank, hop in enumerate(point.hops[:-1], start=1) if hop]
    return tuple(
        point.placement[rank]
        for rank in active
        if not all((rank, phase) in ended for phase in MEASURED)
    )


def planned(
    experiment: Experiment, hosts: Sequence[Host], results: Path, cache: Path
) -> Plan | None:
    """The plan that was made before for a run, if it is of the same and its weights are there.

    Then no model need be built again to go on; but one with a checkpoint is, to look at that.

    Raises
    ------
    PlanError
        When the plan is damaged.
    """
    path = results / "plan.json"
    if not path.exists():
        return None
    plan = plans.load(path)
    files = [plans.weights_file(cache, table.weights_sha256) for table in plan.tables]
    same = (plan.experiment, plan.hosts) == (experiment, tuple(hosts))
    # What lies under a checkpoint's name now only reading it tells.
    read = any(model.weights for model in experiment.models)
    return plan if same and not read and all(file.exists() for file in files) else None


def todo(plan: Plan, results: Path, *, retry_failed: bool = False) -> dict[str, Any]:
    """List the sessions that are not finished, in the plan's order, as the playbook needs them.

    A point of a session is left to measure until one attempt at it is complete. One that failed by
    itself is not, unless `retry_failed`: it would most likely fail again.
    """
    tasks, failed = [], 0
    for session in plan.sessions:
        attempts = list(_attempts(session, results))
        points = [plan.point(point_id) for point_id in session.points]
        left = [point for point in points if not any(each.complete(point) for each in attempts)]
        if not retry_failed:
            lost = [point for point in left if not any(each.failed(point) for each in attempts)]
            failed += len(left) - len(lost)
            left = lost
        if left:
            number = max((each.number for each in attempts), default=0) + 1
            tasks.append(_task(plan, session, number, left))
    seconds = sum(task["predicted_s"] for task in tasks)
    return {
        "done": len(plan.sessions) - len(tasks),
        "sessions": tasks,
        "failed": failed,
        "predicted_s": round(seconds, 1),
        "text": _text(len(plan.sessions), tasks, failed, seconds),
    }


def _text(sessions: int, tasks: list[dict[str, Any]], failed: int, seconds: float) -> str:
    """What is left, for people."""
    text = f"{len(tasks)} of {sessions} sessions to go"
    if tasks:
        points = sum(len(task["points"]) for task in tasks)
        text += f": {points} points, about {duration(seconds)} predicted"
    if failed:
        text += (
            f"\n{failed} points failed by themselves and are not tried again; "
            "-e retry_failed=true does that"
        )
    return text


def record_failure(plan: Plan, session: Session, attempt: int, results: Path, reason: str) -> Path:
    """Write down that the controller saw a session fail; return the file."""
    path = results / "records" / CONTROLLER / records.file_name(session.id, attempt)
    with Writer(path) as writer:
        writer.write(
            Header(
                run=plan.run,
                session=session.id,
                attempt=attempt,
                replicate=session.replicate,
                host=CONTROLLER,
                rank=-1,
                backend=session.backend,
                link=session.link,
                model=session.model,
                points=session.points,
                device_emulated=1.0,
                link_engine="none",
                link_emulated=False,
                tcp={},
                started_unix_ns=time.time_ns(),
                facts={},
                versions={},
            )
        )
        now = time.perf_counter_ns()
        writer.write(
            End(status="failed", reason=reason, process_start_ns=now, end_ns=now, shares_ns={})
        )
    return path


@dataclass
class _Attempt:
    """What the records of one attempt at a session hold of its points.

    `phases` has the last leg of each rank and phase.
    """

    number: int
    ends: dict[str, PointEnd] = field(default_factory=dict)
    phases: dict[str, dict[tuple[int, str], int]] = field(default_factory=dict)

    def add(self, path: Path) -> None:
        """Read one host's file, which may have been cut short."""
        rank = -1
        for record in records.read(path):
            match record:
                case Header():
                    rank = record.rank
                case PhaseEnd():
                    legs = self.phases.setdefault(record.point, {})
                    legs[rank, record.phase] = max(record.leg, legs.get((rank, record.phase), 0))
                case PointEnd():
                    self.ends[record.point] = record

    def complete(self, point: Point) -> bool:
        """Whether it measured the point."""
        end = self.ends.get(point.id)
        legs = self.phases.get(point.id, {})
        last = {name: leg for (_, name), leg in sorted(legs.items(), key=lambda item: item[1])}
        # Only the last leg of a phase counts, so every rank must have that one.
        ended = {(rank, name) for (rank, name), leg in legs.items() if leg == last[name]}
        return end is not None and end.status == "ok" and not lacking(point, ended)

    def failed(self, point: Point) -> bool:
        """Whether the point failed by itself, and not because the session broke."""
        end = self.ends.get(point.id)
        return end is not None and end.status == "failed"


def _attempts(session: Session, results: Path) -> Iterator[_Attempt]:
    """Every attempt at a session there is a trace of."""
    found: dict[int, _Attempt] = {}
    for host in (*session.placement, CONTROLLER):
        for path in (results / "records" / host).glob(f"{session.id}.*.jsonl"):
            number = path.name.removeprefix(f"{session.id}.").removesuffix(".jsonl")
            if number.isdecimal():
                found.setdefault(int(number), _Attempt(int(number))).add(path)
    yield from found.values()


def _tables(plan: Plan, session: Session) -> list[Any]:
    """The cut tables of a session's model."""
    return [table for table in plan.tables if table.model == session.model]


def _task(plan: Plan, session: Session, attempt: int, left: Sequence[Point]) -> dict[str, Any]:
    """One session as the playbook needs it, with the points that are left."""
    hosts = [plan.host(name) for name in session.placement]
    return {
        "id": session.id,
        "attempt": attempt,
        "replicate": session.replicate,
        "backend": session.backend,
        "model": session.model,
        "weights": sorted({f"{t.weights_sha256}.safetensors" for t in _tables(plan, session)}),
        "link": _link(plan, session),
        "tcp": asdict(plan.experiment.tcp),
        "deadline_s": session.deadline_s,
        "predicted_s": session.overhead_s + sum(point.predicted_s for point in left),
        "points": [point.id for point in left],
        "planned": len(session.points),
        "ranks": {host.name: rank for rank, host in enumerate(hosts)},
        "addresses": [host.data_address for host in hosts],
        "ports": [host.data_port for host in hosts],
    }


def _link(plan: Plan, session: Session) -> dict[str, Any]:
    """A session's link profile as each of its hosts applies it: what it does to which peer."""
    link, placement = plan.link(session.link), session.placement
    ways: dict[str, list[dict[str, Any]]] = {host: [] for host in placement}
    for (rank, peer), conditions in link.traced_ways(len(placement)).items():
        first, *_ = trace = [asdict(condition) for condition in conditions]
        way = {"peer": plan.host(placement[peer]).data_address, "condition": first}
        ways[placement[rank]].append(way | ({"trace": trace} if link.timetable else {}))
    timetable = {"timetable": asdict(link.timetable)} if link.timetable else {}
    return {"name": link.name, "ways": ways, **timetable}
