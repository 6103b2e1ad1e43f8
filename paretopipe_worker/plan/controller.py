"""What the controller records by itself: why a session failed, and why points are not measured."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from paretopipe_worker.plan import attempts, code, identity
from paretopipe_worker.plan.plan import Plan, Session
from paretopipe_worker.plan.refusals import Refusal
from paretopipe_worker.records.files import Writer, file_name
from paretopipe_worker.records.lines import (
    CONTROLLER,
    CONTROLLER_RANK,
    SCHEMA,
    End,
    Header,
    PointEnd,
)


def refuse(plan: Plan, results: Path, refusals: Mapping[str, Refusal]) -> None:
    """Record that points are not measured, and why, unless that was recorded already.

    They count as failed. A point that was measured before stays measured.
    """
    read = attempts.read(plan, results) if refusals else None
    digest = identity.digest(plan)
    for session in plan.sessions if read else ():
        tried = read.of(session.id) if read else []
        ends = []
        for point in map(plan.point, session.points):
            refusal = refusals.get(point.id)
            outcomes = [outcome for _, outcome in attempts.outcomes(tried, point)]
            last = outcomes[-1].reason if outcomes else None
            measured = any(outcome.status == "ok" for outcome in outcomes)
            if refusal and not measured and last != refusal.reason:
                ends.append(PointEnd(point.id, "failed", refusal.reason, None, "unchecked", None))
        if ends:
            number = max((attempt.number for attempt in tried), default=0) + 1
            only = session.only([end.point for end in ends])
            _record(plan, digest, only, number, results, ends, None)


def record_failure(plan: Plan, session: Session, attempt: int, results: Path, reason: str) -> Path:
    """Record that the controller saw a session fail; return the path of the file."""
    return _record(plan, identity.digest(plan), session, attempt, results, (), reason)


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Writer]:
    """Write records into a file that is there whole or not at all, and in place of no other."""
    half = path.with_suffix(".part")
    half.unlink(missing_ok=True)
    try:
        with Writer(half) as writer:
            yield writer
        path.hardlink_to(half)
    finally:
        half.unlink(missing_ok=True)


def _record(
    plan: Plan,
    digest: str,
    session: Session,
    attempt: int,
    results: Path,
    ends: Sequence[PointEnd],
    reason: str | None,
) -> Path:
    """Write the controller's file of an attempt; return its path."""
    path = results / "records" / CONTROLLER / file_name(session.id, attempt)
    with _whole(path) as writer:
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
                plan_sha256=digest,
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
        for end in ends:
            writer.write(end)
        now = time.perf_counter_ns()
        writer.write(End("failed" if reason else "ok", reason, now, now, shares_ns={}))
    return path
