"""What a run still lacks: the points of its sessions that have no complete set of records."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from paretopipe_worker.plan import attempts, code, executing, generations, refusals, turns
from paretopipe_worker.plan import plan as plans
from paretopipe_worker.plan.attempts import Attempt, Attempts
from paretopipe_worker.plan.belonging import Belonging
from paretopipe_worker.plan.experiment import Experiment
from paretopipe_worker.plan.fleet import Busy, Host
from paretopipe_worker.plan.generations import History
from paretopipe_worker.plan.labels import split_label
from paretopipe_worker.plan.lanes import hosts_of
from paretopipe_worker.plan.outcome import Outcome
from paretopipe_worker.plan.plan import Plan, Point, Session
from paretopipe_worker.plan.predict import duration
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
    side_by_side: bool = False,
) -> dict[str, Any]:
    """List the sessions that are not finished, in the plan's order, as the playbook needs them.

    Sessions that are launched together are one entry. A point of a session is left to measure until
    one attempt at it counts. A point that failed by itself is not left, unless `retry_failed` is
    set: it would most likely fail again (see :class:`paretopipe_worker.plan.outcome.Outcome`).
    Points that were being measured when a session broke come last. `failures` has a line for each
    point that failed by itself and has no attempt that counts, `refused` one for each model that
    could not be planned, `files` the names of all files that each host needs, `turns` the places of
    its `sessions`. Of a guided sweep only the points of its generations are listed, and `guided`
    says how far it is: its `state`, which is ``measure``, ``decide`` what comes next, or ``ended``,
    and its `progress` in words. `walk` of each session is the number of attempts before all these.

    Parameters
    ----------
    uncertified, torch
        As in :class:`paretopipe_worker.plan.known.Known`.
    sending
        What hosts are sent, and the points that do not fit; by default all tensors, and none.
    side_by_side
        Whether sessions without a common host may run at the same time.

    Raises
    ------
    RecordError
        When records are of another schema, run, plan, code or torch, or decisions are damaged.
    """
    sending = sending or Sending(plan)
    history = generations.of(plan, results)
    read = attempts.read(plan, results)
    read.belonging.hold_code(code.digest(), _HERE)
    read.belonging.hold_torch(torch or {}, "now")
    asked = None if history is None else history.asked
    found = _Remaining(sending.refusals, retry_failed, uncertified or {}, asked)
    tasks = _tasks(plan, read, found, sending)
    seconds = turns.arrange(tasks, side_by_side)
    guided = None if history is None else _guided(plan, history, tasks, sending)
    lines = [guided["progress"]] if guided else []
    lines += [_text(len(plan.groups), tasks, found, seconds), *refusals.told(sending.refusals)]
    return {
        "done": len(plan.groups) - len(tasks),
        "sessions": tasks,
        "failed": found.failed,
        "failures": found.failures,
        "files": sending.files,
        "turns": turns.of_hosts(tasks, [host.name for host in plan.hosts]),
        "refused": plan.refused,
        "guided": guided,
        "predicted_s": round(seconds, 1),
        "text": "\n".join([*lines, *read.damages]),
    }


def _tasks(plan: Plan, read: Attempts, found: _Remaining, sending: Sending) -> list[dict[str, Any]]:
    """The sessions that are not finished, those together that are launched together."""
    tasks, walk = [], 0
    for group in plan.groups:
        tried = {session.id: read.of(session.id) for session in group}
        every = list(itertools.chain(*tried.values()))
        walk += len(every)
        lists = (found.add(plan, session, tried[session.id]) for session in group)
        if left := list(itertools.chain(*lists)):
            number = max((attempt.number for attempt in every), default=0) + 1
            tasks.append(_task(plan, _lacking(group, left, every), number, sending))
    return [{**task, "walk": walk} for task in tasks]


def _guided(
    plan: Plan, history: History, tasks: Sequence[dict[str, Any]], sending: Sending
) -> dict[str, str]:
    """How far a guided sweep is; hosts are sent what later generations may need, too."""
    for session in plan.sessions:
        sending.add(session)
    left = sum(len(lane["points"]) for task in tasks for lane in task["lanes"])
    if not left and (end := history.end(plan.experiment.strategy)):
        progress = f"ended after generation {history.number}: {end.told}"
        return {"state": "ended", "progress": progress}
    progress = f"generation {history.number}: {left} points to go"
    return {"state": "measure" if left else "decide", "progress": progress}


@dataclass
class _Remaining:
    """What is to become of the points of sessions that do not count yet.

    Parameters
    ----------
    refused, retry_failed, uncertified
        Points that are not measured, and what `todo` was given.
    asked
        Points that are to be measured; None for all.
    again
        Number of points that are measured again though they count.
    failed
        Number of points that failed by themselves and are not measured again.
    failures
        A line for each point that failed by itself and has no attempt that counts.
    """

    refused: Collection[str]
    retry_failed: bool
    uncertified: Mapping[str, Collection[str]]
    asked: Collection[str] | None = None
    again: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, plan: Plan, session: Session, tried: Sequence[Attempt]) -> list[str]:
        """Return the points of a session that are left to measure, and count the others."""
        left, doubted = [], set(self.uncertified.get(session.id, ()))
        for point in map(plan.point, session.points):
            outcomes = [outcome for _, outcome in attempts.outcomes(tried, point)]
            statuses = {outcome.status for outcome in outcomes}
            if "ok" in statuses:
                if point.id in doubted:
                    left.append(point.id)
                    self.again += 1
                continue
            if point.id in self.refused:
                continue
            if self.asked is not None and point.id not in self.asked:
                continue
            if "failed" in statuses:
                self.failures.append(_failure(session, point, outcomes))
                if not self.retry_failed:
                    self.failed += 1
                    continue
            left.append(point.id)
        return left


def _lacking(
    group: Sequence[Session], left: Collection[str], tried: Sequence[Attempt]
) -> list[Session]:
    """The sessions of a group with the points that some lane lacks, alike in all lanes.

    A point at which a session broke may break the next one: all others come before it.
    """
    broke = Counter(attempt.in_hand for attempt in tried)
    alike, wanted = zip(*(session.points for session in group), strict=True), set(left)
    lacking = [points for points in alike if not wanted.isdisjoint(points)]
    lacking.sort(key=lambda points: sum(broke[point] for point in points))
    return [
        session.only(points)
        for session, points in zip(group, zip(*lacking, strict=True), strict=True)
    ]


def _failure(session: Session, point: Point, outcomes: Sequence[Outcome]) -> str:
    """A line about a point that failed by itself, with the reason of its last failure."""
    *_, reason = [outcome.reason for outcome in outcomes if outcome.status == "failed"]
    return f"{session.id}, point {point.id} (split {split_label(point.split)}): {reason}"


def _text(sessions: int, tasks: list[dict[str, Any]], found: _Remaining, seconds: float) -> str:
    """A few lines for people about what is left."""
    text = f"{len(tasks)} of {sessions} sessions to go"
    if tasks:
        points = sum(len(lane["points"]) for task in tasks for lane in task["lanes"])
        text += f": {points} points, about {duration(seconds)} predicted"
    if found.again:
        text += f"\n{found.again} of them are measured again: their link was not as asked for"
    if found.failed:
        text += (
            f"\n{found.failed} points failed by themselves and are not tried again; "
            "-e retry_failed=true does that"
        )
    return text


def _task(plan: Plan, lanes: Sequence[Session], attempt: int, sending: Sending) -> dict[str, Any]:
    """Sessions that are launched together, as the playbook needs them, with the points left.

    Each of `lanes` has the name of the attempt's files, and its hosts by rank. There is one unless
    several sources share a sink.
    """
    first, *_ = lanes
    tensors: dict[str, str] = {}
    addresses: dict[str, str] = {}
    ranks: dict[str, int] = {}
    ports: set[int] = set()
    for session in lanes:
        tensors |= sending.add(session)
        for rank, host in enumerate(hosts_of(plan, session)):
            ranks[host.name], addresses[host.name] = rank, host.data_address
            ports.add(host.data_port)
    return {
        "id": first.group or first.id,
        "attempt": attempt,
        "name": f"{first.group or first.id}.{attempt}",
        "replicate": first.replicate,
        "backend": first.backend,
        "model": first.model,
        "tensors": tensors,
        "link": link_of(plan, lanes),
        "tcp": asdict(plan.experiment.tcp),
        "deadline_s": max(session.deadline_s for session in lanes),
        "predicted_s": max(turns.session_s(plan, session) for session in lanes),
        "points": list(first.points),
        "planned": len(plan.session(first.id).points),
        "lanes": [
            {
                "session": session.id,
                "name": f"{session.id}.{attempt}",
                "points": list(session.points),
                "hosts": list(session.placement),
            }
            for session in lanes
        ],
        "ranks": ranks,
        "addresses": addresses,
        "ports": sorted(ports),
        "loads": {
            host: _options(plan.host(host).busy) for host in ranks if _loaded(plan, first, host)
        },
    }


def _loaded(plan: Plan, session: Session, host: str) -> bool:
    """Whether a host runs its background load during a session."""
    return session.busy and plan.host(host).busy is not None


def _options(load: Busy | None) -> list[str]:
    """Options of the worker's ``launch`` for a background load."""
    if load is None:
        return []
    memory = [] if load.memory_mb is None else [f"--load-memory-mb={load.memory_mb:g}"]
    return [f"--load-cores={load.cores}", *memory]


def link_of(plan: Plan, lanes: Sequence[Session]) -> dict[str, Any]:
    """The link profile as each host applies it: conditions for each peer, over all lanes."""
    link = plan.link(lanes[0].link)
    ways: dict[str, list[dict[str, Any]]] = {
        host: [] for session in lanes for host in session.placement
    }
    for placement in (session.placement for session in lanes):
        for (rank, peer), conditions in link.traced_ways(len(placement)).items():
            first, *_ = trace = [condition.said for condition in conditions]
            way = {"peer": plan.host(placement[peer]).data_address, "condition": first}
            ways[placement[rank]].append(way | ({"trace": trace} if link.timetable else {}))
    timetable = {"timetable": asdict(link.timetable)} if link.timetable else {}
    return {"name": link.name, "ways": ways, **timetable}
