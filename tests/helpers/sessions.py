"""Real sessions of stage processes on loopback addresses, for tests and benchmarks."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch

from paretopipe_worker.host.supervise import STAGE_ENVIRONMENT
from paretopipe_worker.link import state
from paretopipe_worker.plan import fleet, spec
from paretopipe_worker.plan.labels import split_label
from paretopipe_worker.plan.plan import Plan, Session
from paretopipe_worker.prepare import prepare
from paretopipe_worker.records.files import Writer, file_name, read_records
from paretopipe_worker.records.lines import Item, LegEnd, Record
from paretopipe_worker.session.context import Shares
from paretopipe_worker.session.join import Seat, joined
from paretopipe_worker.session.source import Source
from paretopipe_worker.session.stage import header
from paretopipe_worker.transport.secret import read_secret
from tests import ROOT
from tests.helpers.forked import Forked
from tests.helpers.namespaces import Namespace
from tests.helpers.rings import free_ports
from tests.helpers.shaped_link import DATA_PORT
from tests.helpers.synthetic import PACKAGES
from tests.helpers.waiting import until

Inside: TypeAlias = Callable[[], AbstractContextManager[None]]
"""A block in which this thread opens sockets and starts processes on one of the hosts."""

HOSTS = ("edge", "server")

PHASES = {"min_items": 8, "min_s": 0.05, "max_s": 20, "retries": 0}
"""Short legs, none of which is measured again, whatever else the machine does meanwhile."""

Kind = TypeVar("Kind", bound=Record)

ENVIRONMENT = {**STAGE_ENVIRONMENT, "PYTHONPATH": f"{ROOT}{os.pathsep}{PACKAGES}"}
"""What stages have in their environment beside what this process has."""

Stage: TypeAlias = "subprocess.Popen[str] | Forked"


def fresh(arguments: Sequence[str], environment: Mapping[str, str], _: Path) -> Stage:
    """Start a command of the worker as a host does; what it says on stderr is piped."""
    return subprocess.Popen(
        [sys.executable, "-m", "paretopipe_worker", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


start_stage: Callable[[Sequence[str], Mapping[str, str], Path], Stage] = fresh
"""How stages are started: tests that time none have them begin as copies (`forked`)."""


def experiment(model: str = "paretopipe_worker.model.tiny:network", **keys: Any) -> dict[str, Any]:
    """A short experiment of one model, whose calls are those of its points alone."""
    return {"models": [model], "phases": PHASES, "profile": False, **keys}


def of(kind: type[Kind], lines: Sequence[Record]) -> list[Kind]:
    """The records of one kind."""
    return [line for line in lines if isinstance(line, kind)]


@dataclass(frozen=True)
class Lab:
    """A run that is planned, and whose sessions tests start."""

    plan: Plan
    results: Path
    cache: Path
    link_state: Path | None = None
    link_states: Mapping[str, Path] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    """By host: the file of tensors it was sent, in the folder with all files that it was sent."""

    @property
    def secret(self) -> Path:
        """The file of the run's secret."""
        return self.results / "secret"

    def arguments(self, session: Session, host: str, attempt: int = 1) -> list[str]:
        """Arguments of the `stage` command of one host."""
        records = self.results / "records" / host / f"{session.id}.{attempt}.jsonl"
        link_state = self.link_states.get(host, self.link_state)
        tensors = self.files.get(host)
        programs = tensors.parent if tensors else self.cache / "programs"
        return [
            *("stage", "--plan", str(self.results / "plan.json")),
            *("--session", session.id, "--attempt", str(attempt), "--host", host),
            *("--secret", str(self.secret)),
            *("--programs", str(programs), "--records", str(records)),
            *(("--tensors", tensors.name) if tensors else ()),
            *("--progress", str(self.results / f"progress-{host}.jsonl")),
            *("--points", ",".join(session.points)),
            *(("--link-state", str(link_state)) if link_state else ()),
        ]

    def start(self, session: Session, host: str, attempt: int = 1) -> Stage:
        """Start one stage as a process of its own."""
        said = self.results / f"{host}.{attempt}.stderr"
        return start_stage(self.arguments(session, host, attempt), ENVIRONMENT, said)

    def first_point(self, stages: Collection[Stage]) -> Path:
        """Wait until the source has reported its first point; return the file of its reports."""
        progress = self.results / "progress-edge.jsonl"
        ended = "a stage ended before a point was finished"

        def reported() -> bool:
            assert all(stage.poll() is None for stage in stages), ended
            return progress.exists()

        until(reported, "the first point")
        return progress

    def run(self, session: Session, attempt: int = 1, sides: Sequence[Inside] = ()) -> Finished:
        """Run a whole session; a failing stage's words are in the error.

        Parameters
        ----------
        sides
            Where to start each stage, by rank; without them all run in this network namespace.
        """
        stages = []
        places = sides or [contextlib.nullcontext] * len(session.placement)
        for host, side in zip(session.placement, places, strict=True):
            with side():
                stages.append(self.start(session, host, attempt))
        texts = [stage.communicate(timeout=240)[1] for stage in stages]
        assert [stage.returncode for stage in stages] == [0] * len(stages), "\n".join(texts)
        return Finished(self, session, attempt)

    def start_group(self, attempt: int = 1) -> dict[tuple[str, str], Stage]:
        """Start all stages of the plan's only group, by the hosts of their lane's source and own.

        Those of the host that the sources share have one core, and all others have the rest.
        """
        [group] = self.plan.groups
        cores = sorted(os.sched_getaffinity(0))
        started = {}
        for session in group:
            source, *_, sink = session.placement
            for host in session.placement:
                started[source, host] = process = self.start(session, host, attempt)
                os.sched_setaffinity(process.pid, cores[:1] if host == sink else cores[1:] or cores)
        return started

    def written(self, session: Session, host: str, attempt: int = 1) -> list[Record]:
        """All records that one host's stage has written so far."""
        name = file_name(session.id, attempt)
        return list(read_records(self.results / "records" / host / name))


@dataclass(frozen=True)
class Finished:
    """An attempt at a session that is over, and what its hosts recorded."""

    lab: Lab
    session: Session
    attempt: int = 1

    @cached_property
    def lines(self) -> tuple[list[Record], ...]:
        """All records, by rank."""
        hosts = self.session.placement
        return tuple(self.lab.written(self.session, host, self.attempt) for host in hosts)

    def of(self, kind: type[Kind], rank: int = 0) -> list[Kind]:
        """One rank's records of one kind."""
        return of(kind, self.lines[rank])

    def point(self, cut: str, window: object = None) -> str:
        """Id of the point that is cut there; several cuts are joined by ``+``."""
        [found] = [
            point.id
            for point in map(self.lab.plan.point, self.session.points)
            if split_label(point.split) == cut and window in (None, point.window)
        ]
        return found

    def items(self, rank: int, cut: str, phase: str, window: object = None) -> list[Item]:
        """Items of one phase of a point."""
        wanted = (self.point(cut, window), phase)
        return [item for item in self.of(Item, rank) if (item.point, item.phase) == wanted]

    def legs(self, rank: int, cut: str, phase: str, window: object = None) -> list[LegEnd]:
        """Legs of one phase of a point."""
        wanted = (self.point(cut, window), phase)
        return [leg for leg in self.of(LegEnd, rank) if (leg.point, leg.phase) == wanted]


def only(made: Lab, *cuts: str) -> Session:
    """The only session that measures these splits, with none but their points."""
    found = [
        session.only(kept)
        for session in made.plan.sessions
        if (kept := [id for id in session.points if split_label(made.plan.point(id).split) in cuts])
    ]
    [session] = found
    return session


def on_link(hosts: Sequence[Namespace], names: Sequence[str] = HOSTS) -> dict[str, dict[str, Any]]:
    """The hosts of a shaped link, as the inventory describes them."""
    return {
        name: {"data_address": host.address, "data_port": DATA_PORT}
        for name, host in zip(names, hosts, strict=True)
    }


def lab(folder: Path, experiment: dict[str, Any], **hosts: dict[str, Any]) -> Lab:
    """Plan an experiment for hosts that are addresses of the loopback network."""
    described: Sequence[dict[str, Any]] = [
        {
            "name": name,
            "data_address": f"127.0.0.{number}",
            "data_port": _ports(2 * max(experiment.get("sources", [1]))),
            "threads": 1,
            **hosts.get(name, {}),
        }
        for number, name in enumerate(hosts or HOSTS, start=1)
    ]
    results, cache = folder / "run", folder / "cache"
    plan = prepare(
        "test", spec.parse(experiment), fleet.parse(json.dumps(described)), results, cache
    )
    made = Lab(plan, results, cache)
    made.secret.touch(mode=0o600)
    made.secret.write_text(secrets.token_hex(32))
    return made


@contextlib.contextmanager
def led(
    made: Lab,
    session: Session,
    source_side: Inside = contextlib.nullcontext,
    other_side: Inside = contextlib.nullcontext,
) -> Iterator[Source]:
    """Lead a session from this process; the other stage is a process of its own.

    Yields the source, which measures points as it is told; its records grow meanwhile. Measure in
    inference mode.
    """
    source, other = session.placement
    path = made.results / "records" / source / file_name(session.id, 1)
    with other_side():
        child = made.start(session, other)
    torch.set_num_threads(1)
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(Writer(path))
        link = state.read(made.link_states.get(source, made.link_state))
        writer.write(header(made.plan, session, 1, source, link))
        secret, programs = read_secret(made.secret), made.cache / "programs"
        with source_side():
            seat = Seat(made.plan, session, 1, 0, secret, programs, link)
            context, channels = stack.enter_context(joined(seat, writer, Shares()))
        leader = Source(context, channels, made.results / "progress.jsonl")
        yield leader
        leader.dismiss()
        assert child.wait(timeout=30) == 0


def _ports(count: int) -> int:
    """The first of so many free ports that follow one another."""
    while True:
        [port] = free_ports(1)
        with contextlib.suppress(OSError, OverflowError), contextlib.ExitStack() as stack:
            for number in range(1, count):
                following = stack.enter_context(socket.socket())
                following.bind(("127.0.0.1", port + number))
            return port
