"""Records of attempts at sessions of a plan, as far as resume looks at them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from paretopipe_worker.plan import identity
from paretopipe_worker.plan.plan import Plan, Point, Session
from paretopipe_worker.records.files import Writer, file_name
from paretopipe_worker.records.lines import End, Header, Item, LegEnd, Phase, PointBegin, PointEnd
from tests.helpers.records import HEADER


def write(
    made: Plan,
    results: Path,
    session: Session,
    attempt: int = 1,
    *,
    ok: Iterable[str] = (),
    failed: Iterable[str] = (),
    hosts: Iterable[str] | None = None,
    phases: Iterable[Phase] = ("latency", "throughput"),
    in_hand: str | None = None,
    end: str | None = "ok",
    interrupted: bool = False,
    **changes: Any,
) -> None:
    """Each host's records of one attempt; without an `end` they are cut short.

    On all hosts the points `ok` have the ends of `phases`, on the source `failed` ones too; the
    point `in_hand` was only begun. `interrupted` ones were told to end.
    """
    for rank, host in enumerate(session.placement):
        if hosts is not None and host not in hosts:
            continue
        path = results / "records" / host / file_name(session.id, attempt)
        with Writer(path) as writer:
            writer.write(header(made, session, attempt, rank, **changes))
            for point in map(made.point, ok):
                for number, phase in enumerate(phases if rank in point.active_ranks else ()):
                    for line in leg(point, rank, phase, number=number):
                        writer.write(line)
            for name in (*ok, *failed) if rank == 0 else ():
                status, reason = ("ok", None) if name in ok else ("failed", "too slow")
                writer.write(PointEnd(name, status, reason, True, "exact", None))  # type: ignore[arg-type]
            if in_hand and rank == 0:
                writer.write(PointBegin(in_hand))
            if end:
                reason = None if end == "ok" else f"{host}: broke"
                writer.write(End(end, reason, 0, 1, {}, interrupted=interrupted))  # type: ignore[arg-type]


def header(made: Plan, session: Session, attempt: int, rank: int, **changes: Any) -> Header:
    """The first line of one host's file."""
    values: dict[str, Any] = {
        "session": session.id,
        "attempt": attempt,
        "points": session.points,
        "rank": rank,
        "host": session.placement[rank],
        "plan_sha256": identity.digest(made),
    }
    return replace(HEADER, **(values | changes))


def leg(
    point: Point, rank: int, phase: Phase, *, number: int = 0, items: int = 20
) -> list[Item | LegEnd]:
    """A leg that went well, as one rank wrote it."""
    none: dict[str, Any] = dict.fromkeys(
        ("wire_sent_bytes", "wire_counter", "retransmitted_bytes", "relay_late_p99_ns")
    )
    rest: dict[str, Any] = {**none, "relay_forwarded": None, "relay_dropped": None}
    sent = items * point.message_sizes[rank][-1]
    done_ns = 5 if rank == 0 else None
    return [
        *(Item(point.id, phase, n, 1, 2, 3, 1, 1, 4, done_ns, leg=number) for n in range(items)),
        LegEnd(point.id, phase, items, 0, 1, None, sent, leg=number, **rest),
    ]
