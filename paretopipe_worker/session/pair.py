"""Measure the path between two hosts: the process that runs on each of them.

The two meet as two stages do, with the same ports, handshakes and tuning of their connection, but
without torch or a plan. Then each measures its own way while the other one answers, the first host
first. A process ends by itself at its deadline, whatever becomes of the other one and of whoever
started it. It changes nothing on its host.
"""

from __future__ import annotations

import contextlib
import json
import platform
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from paretopipe_worker import __version__
from paretopipe_worker.host.machine import network
from paretopipe_worker.records.pairs import PATIENCE_S, Facts, Pair, Part, Place, Settings
from paretopipe_worker.session import control, pair_steps
from paretopipe_worker.session.control import Channel, ControlError
from paretopipe_worker.session.datagrams import PortInUse
from paretopipe_worker.session.pair_steps import Path
from paretopipe_worker.transport.agreement import Agreement
from paretopipe_worker.transport.api import TransportError
from paretopipe_worker.transport.doorway import Doorway
from paretopipe_worker.transport.handshake import Identity
from paretopipe_worker.transport.patience import Patience
from paretopipe_worker.transport.reaching import reach
from paretopipe_worker.transport.sockets import settings as connection_settings

PARTS: tuple[Part, ...] = ("goodput", "transfers", "datagrams")
"""What is measured of each way, in this order: bulk data first, which lets TCP find the rate."""


class DeadlinePassed(BaseException):
    """The process has run for as long as it may; no handler on the way may swallow it."""


@dataclass(frozen=True)
class Task:
    """What one of two hosts is to do.

    Parameters
    ----------
    name
        What the two call their meeting; both must say the same.
    rank
        Which of `hosts` this one is, 0 or 1.
    hosts
        Both hosts.
    secret
        What both know and nobody else does.
    deadline_s
        Seconds after which the process ends.
    """

    name: str
    rank: int
    hosts: tuple[Place, Place]
    settings: Settings
    secret: bytes
    deadline_s: float

    @classmethod
    def parse(cls, text: str) -> Task:
        """Read a task from JSON, as the playbook writes it.

        Raises
        ------
        ValueError
            When it is no task.
        """
        try:
            said = json.loads(text)
            first, second = (Place(**host) for host in said["hosts"])
            asked = said["settings"] | {"transfer_bytes": tuple(said["settings"]["transfer_bytes"])}
            return cls(
                name=said["name"],
                rank=(0, 1)[said["rank"]],
                hosts=(first, second),
                settings=Settings(**asked),
                secret=said["secret"].encode(),
                deadline_s=float(said["deadline_s"]),
            )
        except (TypeError, KeyError, IndexError, AttributeError) as error:
            raise ValueError(f"standard input holds no task of measuring a pair: {error}") from None

    @property
    def own(self) -> Place:
        """The host that measures."""
        return self.hosts[self.rank]

    @property
    def other(self) -> Place:
        """The other one."""
        return self.hosts[1 - self.rank]


def run(task: Task) -> Pair:
    """Measure a pair as one of its hosts; what fails on the way is in the reasons."""
    found: dict[str, Any] = {"source": task.own.name, "sink": task.other.name}
    reasons: dict[Part, str] = {}
    try:
        with _until(task.deadline_s), _met(task) as path:
            found["started_unix_ns"] = time.time_ns()
            found["facts"] = _facts(path.data)
            if task.rank:
                _answer(path)
            _conduct(path, found, reasons)
            path.channel.send({"do": "done"})
            if not task.rank:
                _answer(path)
    except (TransportError, ControlError) as error:
        reasons |= dict.fromkeys(_missing(found, reasons), str(error))
    except DeadlinePassed:
        text = f"measuring the pair was ended after {task.deadline_s:g} s"
        reasons |= dict.fromkeys(_missing(found, reasons), text)
    return Pair(**found, reasons=reasons)


def _conduct(path: Path, found: dict[str, Any], reasons: dict[Part, str]) -> None:
    """Measure this host's way; each part is added to `found` when it is complete."""
    found["ping_ns"] = pair_steps.ping(path)
    round_trip_s = min(found["ping_ns"]) / 1e9
    found["goodput"] = bulk = pair_steps.goodput(path, round_trip_s)
    rate_mbit = bulk.arrivals[-1][1] * 8e3 / max(1, bulk.arrivals[-1][0])
    found["transfers"] = pair_steps.transfers(path, rate_mbit, round_trip_s)
    try:
        found["datagrams"] = pair_steps.single_packets(path, rate_mbit, round_trip_s)
    except PortInUse as error:
        reasons["datagrams"] = str(error)


def _answer(path: Path) -> None:
    """Take part in the other host's steps until it is done."""
    while (command := path.channel.receive(2 * PATIENCE_S)).get("do") != "done":
        pair_steps.answer(command, path)


def _missing(found: dict[str, Any], reasons: dict[Part, str]) -> list[Part]:
    """The parts that were not measured and have no reason yet; ``all`` where there are none."""
    if "started_unix_ns" not in found:
        return ["all"]
    return [part for part in PARTS if part not in found and part not in reasons]


@contextlib.contextmanager
def _met(task: Task) -> Iterator[Path]:
    """Meet the other host; the connections are closed when the block ends."""
    addresses = [(place.data_address, place.data_port) for place in (task.own, task.other)]
    (here, port), there = addresses
    # Before anything is listening, the other process may still have to be started.
    patience = Patience(task.settings.patience_s)
    agreement = Agreement(schema=__version__)
    who = Identity("control", task.rank, task.name, agreement, task.secret)
    hello = {"host": task.own.name}
    with contextlib.ExitStack() as stack:
        ring = Identity("ring", task.rank, task.name, agreement, task.secret)
        doorway = stack.enter_context(Doorway((here, port), ring)) if task.rank else None
        channel = _channel(task, (here, port), there, who, hello)
        stack.callback(channel.close)
        if doorway:
            data, _ = doorway.admit({0}, patience)
        else:
            data, _ = reach(there, here, ring, {1}, patience)
        stack.enter_context(data)
        pair_steps.prepare(data)
        yield Path(data, channel, addresses, task.settings)


def _channel(
    task: Task, own: tuple[str, int], there: tuple[str, int], who: Identity, hello: dict[str, Any]
) -> Channel:
    """Open the control channel, at the port after the first host's data port."""
    if task.rank == 0:
        at = own[0], own[1] + 1
        return control.lead(at, who, hello, 2, task.settings.patience_s)[0]
    at = there[0], there[1] + 1
    return control.follow(at, own[0], who, hello, task.settings.patience_s)


def _facts(data: socket.socket) -> Facts:
    """Describe this host, and how TCP is set on it and on the connection."""
    tcp: dict[str, Any] = dict(connection_settings(data, data))
    tcp["mss_bytes"] = data.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    return Facts(
        kernel=platform.release(),
        machine=platform.machine(),
        python=platform.python_version(),
        paretopipe=__version__,
        tcp=tcp | network()["sysctl"],
    )


@contextlib.contextmanager
def _until(deadline_s: float) -> Iterator[None]:
    """End the block with :class:`DeadlinePassed` after so many seconds."""

    def end(number: int, frame: FrameType | None) -> None:
        raise DeadlinePassed

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, deadline_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
