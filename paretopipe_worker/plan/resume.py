"""What a run still lacks: the points of its sessions that have no complete set of records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from paretopipe_worker.plan import attempts, code, executing, refusals
from paretopipe_worker.plan import plan as plans
from paretopipe_worker.plan.attempts import Attempt, Outcome
from paretopipe_worker.plan.belonging import Belonging
from paretopipe_worker.plan.experiment import Experiment
from paretopipe_worker.plan.fleet import Busy, Host
from paretopipe_worker.plan.labels import split_label
from paretopipe_worker.plan.plan import Plan, Point, Session
from paretopipe_worker.plan.predict import duration, overhead_s
from paretopipe_worker.plan.sending import Sending

_HERE = "this checkout"


def planned(
    experiment: Experiment, hosts: Sequence[Host], results: Path, cache: Path
) -> Plan | None:
    """The plan made earlier for this run, if it asks for the same and its programs are stored.

    With it no model need be built again to go on. Where a model has a checkpoint, or images, there
    is no such plan: these files must be read again.

    Returns
    -------
    None where the plan must be made anew.

    Raises
    ------
    PlanError
        When the plan is damaged.
    """
    path = results / "plan.json"
    if not path.exists():
        return None
    plan = plans.read(path)
    folder = plans.kept(cache)
    files = [file for table in plan.tables for file in plans.program_files(table, folder)]
    files += [folder / plans.references_name(table) for table in plan.tables]
    files += [
        folder / plans.stage_name(table, *ends)
        for table in plan.tables
        for ends in executing.asked_files(plan, table)
    ]
    same = (plan.experiment, plan.hosts) == (experiment, tuple(hosts))
    # Such a file may have changed since: only reading it shows.
    in_files = any(model.in_files for model in experiment.models)
    # What was refused may work by now.
    same = same and not plan.refused and not plan.unexported
    return plan if same and not in_files and all(file.exists() for file in files) else None


def hold(plan: Plan, results: Path) -> None:
    """Refuse to go on with a run whose records are of another plan or of other code.

    Raises
    ------
    ForeignRecords
        Naming the file and what to do.
    """
    belonging = Belonging(plan)
    for path in attempts.files(results):
        belonging.check_first(path)
    belonging.hold_code(code.digest(), _HERE)


def todo(
    plan: Plan,
    results: Path,
    *,
    retry_failed: bool = False,
    uncertified: Mapping[str, Collection[str]] | None = None,
    torch: Mapping[str, str] | None = None,
    sending: Sending | None = None,
) -> dict[str, Any]:
    """List the sessions that are not finished, in the plan's order, as the playbook needs them.

    A point of a session is left to measure until one attempt at it counts. A point that failed by
    itself is not left, unless `retry_failed` is set: it would most likely fail again (see
    :class:`paretopipe_worker.plan.attempts.Outcome`). Points that were being measured when a
    session broke come last. `failures` has a line for each point that failed by itself and has no
    attempt that counts, `refused` one for each model that could not be planned, `files` the names
    of all files that each host needs.

    Parameters
    ----------
    uncertified
        Points by session that count but are to be measured again, since their link was off.
    torch
        Public version of torch by host, where it is known.
    sending
        What hosts are sent, and the points that do not fit; by default all tensors, and none.

    Raises
    ------
    RecordError
        When records are of another schema, run or plan, or of other code or another torch.
    """
    tasks, failures, failed, again = [], [], 0, 0
    sending = sending or Sending(plan)
    read = attempts.read(plan, results)
    read.belonging.hold_code(code.digest(), _HERE)
    read.belonging.hold_torch(torch or {}, "now")
    for session in plan.sessions:
        tried = read.of(session.id)
        doubted = (uncertified or {}).get(session.id, ())
        found = _remaining(plan, session, tried, doubted, retry_failed, sending.refusals)
        failures += found.failures
        failed += found.failed
        again += found.again
        if found.left:
            number = max((attempt.number for attempt in tried), default=0) + 1
            tensors = sending.add(session)
            tasks.append(_task(plan, session, number, found.left, tensors))
    seconds = sum(task["predicted_s"] for task in tasks)
    text = _text(len(plan.sessions), tasks, failed, again, seconds)
    return {
        "done": len(plan.sessions) - len(tasks),
        "sessions": tasks,
        "failed": failed,
        "failures": failures,
        "files": sending.files,
        "refused": plan.refused,
        "predicted_s": round(seconds, 1),
        "text": "\n".join([text, *refusals.told(sending.refusals), *read.damages]),
    }


@dataclass
class _Remaining:
    """The points of one session by what is to become of them.

    Parameters
    ----------
    left
        Points to measure, in order.
    again
        Number of these that count already.
    failed
        Number of points that failed by themselves and are not left.
    failures
        A line for each point that failed by itself and has no attempt that counts.
    """

    left: list[Point] = field(default_factory=list)
    again: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)


def _remaining(
    plan: Plan,
    session: Session,
    tried: Sequence[Attempt],
    uncertified: Collection[str],
    retry_failed: bool,
    refused: Collection[str],
) -> _Remaining:
    """Decide for each point of a session whether it is left to measure."""
    found = _Remaining()
    for point in map(plan.point, session.points):
        outcomes = [outcome for _, outcome in attempts.outcomes(tried, point)]
        statuses = {outcome.status for outcome in outcomes}
        if "ok" in statuses:
            if point.id in uncertified:
                found.left.append(point)
                found.again += 1
            continue
        if point.id in refused:
            continue
        if "failed" in statuses:
            found.failures.append(_failure(session, point, outcomes))
            if not retry_failed:
                found.failed += 1
                continue
        found.left.append(point)
    # A point at which a session broke may break the next one: all others come before it.
    broke = Counter(attempt.in_hand for attempt in tried)
    found.left.sort(key=lambda point: broke[point.id])
    return found


def _failure(session: Session, point: Point, outcomes: Sequence[Outcome]) -> str:
    """A line about a point that failed by itself, with the reason of its last failure."""
    *_, reason = [outcome.reason for outcome in outcomes if outcome.status == "failed"]
    return f"{session.id}, point {point.id} (split {split_label(point.split)}): {reason}"


def _text(
    sessions: int, tasks: list[dict[str, Any]], failed: int, again: int, seconds: float
) -> str:
    """A few lines for people about what is left."""
    text = f"{len(tasks)} of {sessions} sessions to go"
    if tasks:
        points = sum(len(task["points"]) for task in tasks)
        text += f": {points} points, about {duration(seconds)} predicted"
    if again:
        text += f"\n{again} of them are measured again: their link was not as asked for"
    if failed:
        text += (
            f"\n{failed} points failed by themselves and are not tried again; "
            "-e retry_failed=true does that"
        )
    return text


def _task(
    plan: Plan,
    session: Session,
    attempt: int,
    left: Sequence[Point],
    tensors: dict[str, str],
) -> dict[str, Any]:
    """One session as the playbook needs it, with the points that are left."""
    hosts = [plan.host(name) for name in session.placement]
    points_s = [point.predicted_s for point in left]
    rest_s = overhead_s(plan.experiment, plan.link(session.link), len(hosts), points_s)
    return {
        "id": session.id,
        "attempt": attempt,
        "replicate": session.replicate,
        "backend": session.backend,
        "model": session.model,
        "tensors": tensors,
        "link": _link(plan, session),
        "tcp": asdict(plan.experiment.tcp),
        "deadline_s": session.deadline_s,
        "predicted_s": rest_s + sum(points_s),
        "points": [point.id for point in left],
        "planned": len(session.points),
        "ranks": {host.name: rank for rank, host in enumerate(hosts)},
        "addresses": [host.data_address for host in hosts],
        "ports": [host.data_port for host in hosts],
        "loads": {host.name: _options(host.busy) for host in hosts if host.busy and session.busy},
    }


def _options(load: Busy) -> list[str]:
    """Options of the worker's ``launch`` for a background load."""
    memory = [] if load.memory_mb is None else [f"--load-memory-mb={load.memory_mb:g}"]
    return [f"--load-cores={load.cores}", *memory]


def _link(plan: Plan, session: Session) -> dict[str, Any]:
    """A session's link profile as each of its hosts applies it: conditions for each peer."""
    link, placement = plan.link(session.link), session.placement
    ways: dict[str, list[dict[str, Any]]] = {host: [] for host in placement}
    for (rank, peer), conditions in link.traced_ways(len(placement)).items():
        first, *_ = trace = [condition.said for condition in conditions]
        way = {"peer": plan.host(placement[peer]).data_address, "condition": first}
        ways[placement[rank]].append(way | ({"trace": trace} if link.timetable else {}))
    timetable = {"timetable": asdict(link.timetable)} if link.timetable else {}
    return {"name": link.name, "ways": ways, **timetable}
