"""What a run still lacks: which points of which sessions have no complete set of records."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paretopipe_worker.plan import attempts, code
from paretopipe_worker.plan import plan as plans
from paretopipe_worker.plan.attempts import Outcome
from paretopipe_worker.plan.belonging import Belonging
from paretopipe_worker.plan.fleet import Host
from paretopipe_worker.plan.plan import Plan, Point, Session
from paretopipe_worker.plan.predict import duration, overhead_s
from paretopipe_worker.plan.spec import Experiment
from paretopipe_worker.records.files import Writer, file_name
from paretopipe_worker.records.lines import CONTROLLER, CONTROLLER_RANK, SCHEMA, End, Header

_HERE = "this checkout"


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


def hold(plan: Plan, results: Path) -> None:
    """Refuse to go on with a run whose records are of another plan, or by other code.

    Raises
    ------
    ForeignRecords
        Naming the file, and what to do.
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
) -> dict[str, Any]:
    """List the sessions that are not finished, in the plan's order, as the playbook needs them.

    A point of a session is left to measure until one attempt at it counts. One that failed by
    itself is not, unless `retry_failed`: it would most likely fail again (see
    :class:`paretopipe_worker.plan.attempts.Outcome`). What was in hand when a session broke comes
    last.
    `failures` has a line for each point that failed by itself and has no attempt that counts.

    Parameters
    ----------
    uncertified
        Points by session that count and are to be measured again all the same, since their link
        was not as asked for.
    torch
        Public version of torch by host, where it is known.

    Raises
    ------
    ForeignRecords
        When records of something else lie there, or what is left would be measured with other code
        or another torch.
    RecordError
        When records are of another schema.
    """
    tasks, failed, again = [], 0, 0
    failures: list[str] = []
    read = attempts.read(plan, results)
    read.belonging.hold_code(code.digest(), _HERE)
    read.belonging.hold_torch(torch or {}, "now")
    for session in plan.sessions:
        tried = read.of(session.id)
        left = []
        for point in map(plan.point, session.points):
            outcomes = [outcome for _, outcome in attempts.outcomes(tried, point)]
            found = {outcome.status for outcome in outcomes}
            if "failed" in found and "ok" not in found:
                failures.append(_failure(session, point, outcomes))
            if "ok" in found:
                if point.id in (uncertified or {}).get(session.id, ()):
                    left.append(point)
                    again += 1
            elif "failed" in found and not retry_failed:
                failed += 1
            else:
                left.append(point)
        if left:
            # What was in hand when a session broke may break the next: all else comes before it.
            broke = Counter(attempt.in_hand for attempt in tried)
            left.sort(key=lambda point: broke[point.id])
            number = max((attempt.number for attempt in tried), default=0) + 1
            tasks.append(_task(plan, session, number, left))
    seconds = sum(task["predicted_s"] for task in tasks)
    text = _text(len(plan.sessions), tasks, failed, again, seconds)
    return {
        "done": len(plan.sessions) - len(tasks),
        "sessions": tasks,
        "failed": failed,
        "failures": failures,
        "predicted_s": round(seconds, 1),
        "text": "\n".join([text, *read.damages]),
    }


def _failure(session: Session, point: Point, outcomes: Sequence[Outcome]) -> str:
    """Which point failed by itself, and why, as said last."""
    *_, reason = [outcome.reason for outcome in outcomes if outcome.status == "failed"]
    return f"{session.id}, point {point.id} (split {'+'.join(point.split)}): {reason}"


def _text(
    sessions: int, tasks: list[dict[str, Any]], failed: int, again: int, seconds: float
) -> str:
    """What is left, for people."""
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


def record_failure(plan: Plan, session: Session, attempt: int, results: Path, reason: str) -> Path:
    """Write down that the controller saw a session fail; return the file."""
    path = results / "records" / CONTROLLER / file_name(session.id, attempt)
    with Writer(path) as writer:
        writer.write(
            Header(
                run=plan.run,
                session=session.id,
                attempt=attempt,
                replicate=session.replicate,
                host=CONTROLLER,
                rank=CONTROLLER_RANK,
                backend=session.backend,
                link=session.link,
                model=session.model,
                points=session.points,
                plan_sha256=plans.digest(plan),
                code_sha256=code.digest(),
                torch="",
                device_emulated=1.0,
                link_engine="none",
                link_emulated=False,
                tcp={},
                started_unix_ns=time.time_ns(),
                facts={},
                versions={},
                schema=SCHEMA,
            )
        )
        now = time.perf_counter_ns()
        writer.write(
            End(status="failed", reason=reason, process_start_ns=now, end_ns=now, shares_ns={})
        )
    return path


def _tables(plan: Plan, session: Session) -> list[Any]:
    """The cut tables of a session's model."""
    return [table for table in plan.tables if table.model == session.model]


def _task(plan: Plan, session: Session, attempt: int, left: Sequence[Point]) -> dict[str, Any]:
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
        "weights": sorted({f"{t.weights_sha256}.safetensors" for t in _tables(plan, session)}),
        "link": _link(plan, session),
        "tcp": asdict(plan.experiment.tcp),
        "deadline_s": session.deadline_s,
        "predicted_s": rest_s + sum(points_s),
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
        first, *_ = trace = [condition.said for condition in conditions]
        way = {"peer": plan.host(placement[peer]).data_address, "condition": first}
        ways[placement[rank]].append(way | ({"trace": trace} if link.timetable else {}))
    timetable = {"timetable": asdict(link.timetable)} if link.timetable else {}
    return {"name": link.name, "ways": ways, **timetable}
