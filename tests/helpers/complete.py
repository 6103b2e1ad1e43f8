"""Points that were measured, by the records alone and a rule that is read off their format."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from paretopipe_worker.records.files import read_records
from paretopipe_worker.records.lines import Header, LegEnd, PointEnd


def complete(plan: dict[str, Any], files: Iterable[Path]) -> dict[tuple[str, str], set[int]]:
    """Attempts that measured each point of each session.

    The source says that the point ended well, and every active rank has the ends of both legs.

    Parameters
    ----------
    plan
        The run's ``plan.json``.
    files
        Records, each of one host and one attempt at a session.
    """
    points = {point["id"]: point for point in plan["points"]}
    attempts: dict[tuple[str, int], dict[int, set[tuple[str, str]]]] = {}
    for path in files:
        header: Header | None = None
        for record in read_records(path):
            if isinstance(record, Header):
                header = record
                continue
            assert header is not None
            hosts = attempts.setdefault((header.session, header.attempt), {})
            ended = hosts.setdefault(header.rank, set())
            if isinstance(record, LegEnd):
                ended.add((record.point, record.phase))
            if isinstance(record, PointEnd) and record.status == "ok":
                ended.add((record.point, "end"))
    found: dict[tuple[str, str], set[int]] = {}
    for (session, attempt), ranks in attempts.items():
        for point in {point for point, what in ranks.get(0, ()) if what == "end"}:
            needed = {(point, "latency"), (point, "throughput")}
            hops = points[point]["hops"]
            active = range(len(hops) if hops[0] else 1)
            if all(needed <= ranks.get(rank, set()) for rank in active):
                found.setdefault((session, point), set()).add(attempt)
    return found
