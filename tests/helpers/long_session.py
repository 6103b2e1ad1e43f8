"""A session of thousands of points on this machine, and what its processes hold meanwhile.

Everything is as on hosts: each stage runs under its supervisor, which watches a lease that is
renewed, and the points come from a file.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from paretopipe_worker.plan.plan import Session
from paretopipe_worker.records.files import file_name, read_records
from paretopipe_worker.records.lines import Item, PointBegin
from paretopipe_worker.records.probes import Probe
from paretopipe_worker.wire.formats import FORMATS
from tests.helpers.processes import Usage, usage
from tests.helpers.sessions import Lab, experiment
from tests.helpers.supervised import SupervisedHost

_LOOK_S = 0.1
_LEASE_S = 30.0


def asked(*, batches: int, windows: int) -> dict[str, Any]:
    """An experiment of the tiny model, with few items of each point, all in one session.

    It has eight splits, all wire formats, and as many batch sizes and windows as are asked for.
    """
    return experiment(
        batch=[*range(1, batches + 1)],
        window=[*range(1, windows + 1)],
        wire=list(FORMATS),
        strategy="all",
        phases={"min_items": 6, "min_s": 0, "max_s": 20, "warmup_items": 1, "retries": 0},
    )


class Look(NamedTuple):
    """What one process held when so many points were finished."""

    process: str
    points: int
    usage: Usage


def run(made: Lab, session: Session, *, attempt: int = 1, every: int = 50) -> list[Look]:
    """Run a session under supervisors to its end; its processes after every so many points."""
    hosts: dict[str, SupervisedHost] = {}
    pids: dict[str, int] = {}
    name = f"{session.id}.{attempt}"
    for host in session.placement:
        folder = made.results / "hosts" / host
        folder.mkdir(parents=True, exist_ok=True)
        hosts[host] = SupervisedHost(folder)
        hosts[host].lease.touch()
        words = _arguments(made, session, host, attempt)
        status = hosts[host].launch(
            "",
            name,
            command=(sys.executable, "-m", "paretopipe_worker", *words),
            lease_s=_LEASE_S,
            deadline_s=session.deadline_s,
            threads=1,
        )
        pids |= {f"stage on {host}": status["child_pid"], f"supervisor on {host}": status["pid"]}

    def going_on() -> bool:
        for each in hosts.values():
            each.lease.touch()
        return any(each.status(name)["state"] == "running" for each in hosts.values())

    looks = watch(pids, made.results / f"progress-{session.placement[0]}.jsonl", going_on, every)
    for each in hosts.values():
        assert each.status(name)["exit_code"] == 0, each.log(name)
    return looks


def watch(
    pids: Mapping[str, int], progress: Path, going_on: Callable[[], bool], every: int
) -> list[Look]:
    """Look at processes after every so many points, as the source tells of them from now on."""
    read_bytes = progress.stat().st_size if progress.exists() else 0
    looks: list[Look] = []
    points, wanted = 0, every
    while going_on():
        if progress.exists():
            with progress.open("rb") as file:
                file.seek(read_bytes)
                told = file.read()
            points, read_bytes = points + told.count(b"\n"), read_bytes + len(told)
        if points >= wanted:
            held = ((process, usage(pid)) for process, pid in pids.items())
            looks += [Look(process, points, each) for process, each in held if each]
            wanted = points - points % every + every
        time.sleep(_LOOK_S)
    return looks


def _arguments(made: Lab, session: Session, host: str, attempt: int) -> list[str]:
    """Arguments of a stage, with its points in a file: thousands do not fit into an argument."""
    words = made.arguments(session, host, attempt)
    place = words.index("--points")
    points = made.results / f"{session.id}.{attempt}.points"
    points.write_text("\n".join(session.points), encoding="utf-8")
    return [*words[:place], "--points-from", str(points), *words[place + 2 :]]


class Cost(NamedTuple):
    """What a point took by the source's clock: from its first item to the next point's first one.

    `between_ms` is the part after its last item: everything but its legs.
    """

    point_ms: float
    between_ms: float


def costs(made: Lab, session: Session, attempt: int = 1) -> list[Cost]:
    """Read what each point took, but for those after which the path was measured."""
    source, *_ = session.placement
    file = made.results / "records" / source / file_name(session.id, attempt)
    found: list[Cost] = []
    first_ns = last_ns = 0
    begun = False
    for record in read_records(file):
        if isinstance(record, PointBegin):
            begun = True
        elif isinstance(record, Probe):
            first_ns = 0
        elif isinstance(record, Item):
            if begun and first_ns:
                times = (record.ready_ns - first_ns, record.ready_ns - last_ns)
                found.append(Cost(*(each / 1e6 for each in times)))
            if begun:
                first_ns, begun = record.ready_ns, False
            last_ns = record.done_ns or last_ns
    return found


def cut_short(made: Lab, session: Session, point: str, attempt: int = 1) -> None:
    """Take from the records what came after the begin of a point, as if all had been killed."""
    for host in session.placement:
        file = made.results / "records" / host / file_name(session.id, attempt)
        kept = []
        for line in file.read_bytes().splitlines(keepends=True):
            if json.loads(line).get("point") == point:
                break
            kept.append(line)
        file.write_bytes(b"".join(kept))
