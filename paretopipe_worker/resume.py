"""What a run still lacks: which sessions have no complete set of records."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paretopipe_worker import records
from paretopipe_worker.plan import Plan, Session
from paretopipe_worker.records import End, Header, Writer

CONTROLLER = "controller"
"""Folder of the records by which the controller says that a session failed."""


def todo(plan: Plan, results: Path) -> dict[str, Any]:
    """List the sessions that are not finished, in the plan's order, as the playbook needs them.

    A session is finished when every host of its placement has a file of the same attempt whose
    last line says ``ok``.
    """
    pending = []
    for session in plan.sessions:
        attempts = dict(_attempts(session, results))
        if not any(attempts.values()):
            pending.append(_task(plan, session, max(attempts, default=0) + 1))
    return {"done": len(plan.sessions) - len(pending), "sessions": pending}


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
                weights_sha256=_tables(plan, session)[0].weights_sha256,
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


def _attempts(session: Session, results: Path) -> Iterator[tuple[int, bool]]:
    """Every attempt at a session there is a trace of, and whether it is complete."""
    hosts = (*session.placement, CONTROLLER)
    found: dict[int, dict[str, bool]] = {}
    for host in hosts:
        for path in (results / "records" / host).glob(f"{session.id}.*.jsonl"):
            attempt = path.name.removeprefix(f"{session.id}.").removesuffix(".jsonl")
            if attempt.isdecimal():
                found.setdefault(int(attempt), {})[host] = _ended_well(path)
    for number, ended in found.items():
        yield number, all(ended.get(host, False) for host in session.placement)


def _ended_well(path: Path) -> bool:
    """Whether a file's last line says that the session went well."""
    last = deque(records.read(path), maxlen=1)
    return bool(last) and isinstance(last[0], End) and last[0].status == "ok"


def _tables(plan: Plan, session: Session) -> list[Any]:
    """The cut tables of a session's model."""
    return [table for table in plan.tables if table.model == session.model]


def _task(plan: Plan, session: Session, attempt: int) -> dict[str, Any]:
    """One session as the playbook needs it."""
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
        "points": len(session.points),
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
