"""What test_uml runs inside User-Mode Linux: shape a link, measure it, print all of it as JSON.

It judges nothing. The one-way delays are true ones: both hosts share a clock.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paretopipe_worker.__main__ import main
from paretopipe_worker.link.conditions import Condition, TcpSettings
from paretopipe_worker.link.replay import Replay
from paretopipe_worker.link.state import SYSCTL, TCP_NAMES
from paretopipe_worker.link.traces import Timetable
from paretopipe_worker.shaping import interfaces
from tests.helpers.namespaces import INTERFACE, Namespace, joined_pair

DATA_PORT = 29400
OTHER_PORT = 29500
"""A port that nobody asked to shape: it stands for SSH."""
PORTS = (DATA_PORT, OTHER_PORT)

DELAY, JITTER, LOSS, BURSTS, REORDER, CUT = (f"10.77.0.{last}" for last in range(11, 17))
DELAY6 = "fd77::2"
ALONE = {
    DELAY: Condition(delay_ms=50),
    DELAY6: Condition(delay_ms=30),
    JITTER: Condition(delay_ms=30, jitter_ms=4),
    LOSS: Condition(loss_percent=10),
    BURSTS: Condition(burst_loss_percent=4, burst_recovery_percent=40),
    REORDER: Condition(delay_ms=50, reorder_percent=25),
    CUT: Condition(loss_percent=100),
}
"""Addresses of one host, each way there with one parameter of a condition."""

DUPLICATE = Condition(duplicate_percent=10)
"""Not among them: beside other netems the kernel refuses one that duplicates."""

REPLACED = {
    "all": Condition(
        delay_ms=40,
        jitter_ms=5,
        distribution="pareto",
        burst_loss_percent=1,
        burst_recovery_percent=30,
        rate_mbit=5,
        reorder_percent=2,
        duplicate_percent=1,
    ),
    "duplicate": DUPLICATE,
    "paper-delay200-rate5": Condition(delay_ms=200, rate_mbit=5),
    "paper-delay200": Condition(delay_ms=200),
    "paper-rate5": Condition(rate_mbit=5),
}
"""Profiles that are applied in this order, each in place of the one before."""

COUNT = 1000
INTERVAL_S = 0.005
"""Datagrams that are sent each way, and the time between two of a way unless told otherwise."""

EVERY = {JITTER: 4}
"""Ways on which only every so many are sent, five times the jitter apart: netem keeps packets in
order, and would else delay those behind a late one."""

GOODPUT_BYTES = 1_200_000

TCP = TcpSettings(congestion_control="reno")
Profile = dict[str, Any]

_DATAGRAM = struct.Struct("!IIQ")
_SYSCTLS = [SYSCTL / name for name in TCP_NAMES]


TIMES = Timetable((0, 0.5), 1)
STEPS = (Condition(delay_ms=60, rate_mbit=5), Condition(delay_ms=10, loss_percent=0.5))
"""A trace in which the second segment must keep no rate of the first, nor the first any loss."""


class Worker:
    """The worker's command on the host whose link is shaped."""

    def __init__(self, host: Namespace, folder: Path) -> None:
        self._host = host
        self._state_dir = folder / "state"
        self._lease = folder / "lease"
        self._lease.touch()

    def apply(self, profile: Profile, *more: str) -> dict[str, Any]:
        """Shape the link; a host that allows emulation must not need it here."""
        return self._run(
            *("apply", "--profile", json.dumps(profile), "--emulate"),
            *("--address", self._host.address, "--ports", str(DATA_PORT)),
            *("--lease", str(self._lease), "--lease-s", "600"),
            *("--state-dir", str(self._state_dir), *more),
        )

    @property
    def replay(self) -> Replay:
        """The trace that the link follows."""
        return Replay(self._state_dir)

    def restore(self, *more: str) -> dict[str, Any]:
        """Put the link back."""
        return self._run("restore", "--state-dir", str(self._state_dir), *more)

    def state(self) -> dict[str, Any]:
        """What shapes the link, its TCP settings, and what the state folder says of both."""
        values = self._host.run("cat", *_SYSCTLS).stdout.splitlines()
        link = self._state_dir / "link.json"
        with self._host.entered():
            shown = interfaces.owning(self._host.address).state
        return {
            "shown": shown,
            "tcp": {file.name: text.split() for file, text in zip(_SYSCTLS, values, strict=True)},
            "link": json.loads(link.read_text()) if link.exists() else None,
        }

    def _run(self, *arguments: str) -> dict[str, Any]:
        """Run the command on the host, in a fork: a Python of its own takes seconds to start."""
        sys.stdout.flush()
        with tempfile.TemporaryFile("w+") as printed:
            child = os.fork()
            if child == 0:
                os.dup2(printed.fileno(), 1)
                os.dup2(printed.fileno(), 2)
                code = 1
                try:
                    with self._host.entered():
                        code = main(["link", *arguments])
                    sys.stdout.flush()
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(code)
            _, status = os.waitpid(child, 0)
            printed.seek(0)
            text = printed.read()
        if status != 0:
            raise RuntimeError(f"{arguments}: {text}")
        answer: dict[str, Any] = json.loads(text)
        return answer


def connect_ms(host: Namespace, address: str, *ports: int, own: str = "") -> list[list[float]]:
    """How long TCP takes to connect to each port, by turns: a round trip each.

    The first ones, which pay for ARP, are left out.
    """
    times: list[list[float]] = [[] for _ in ports]
    for _ in range(6):
        for port, taken in zip(ports, times, strict=True):
            with host.entered():
                begun = time.monotonic()
                socket.create_connection((address, port), 20, source_address=(own, 0)).close()
            taken.append((time.monotonic() - begun) * 1000)
    return [taken[1:] for taken in times]


@contextmanager
def listening(host: Namespace, *ports: int) -> Iterator[None]:
    """Let the kernel accept connections at these ports; nobody reads from them."""
    with host.entered():
        sockets = [socket.create_server(("::", port), family=socket.AF_INET6, backlog=64,
                                        dualstack_ipv6=True) for port in ports]  # fmt: skip
    try:
        yield
    finally:
        for each in sockets:
            each.close()


def one_way(
    source: Namespace, sink: Namespace, addresses: list[str], interval_s: float = INTERVAL_S
) -> dict[str, list[list[float]]]:
    """Send paced datagrams to each address; [number, delay in ms] of each that arrives.

    In the order of arrival, copies too.
    """
    arrived: dict[str, list[list[float]]] = {address: [] for address in addresses}
    with sink.entered():
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("", DATA_PORT))
    receiver.settimeout(0.5)
    ended = threading.Event()

    def receive() -> None:
        # Until, the last one sent, nothing comes for far longer than any delay asked for.
        while True:
            try:
                index, number, sent_ns = _DATAGRAM.unpack(receiver.recv(64))
            except TimeoutError:
                if ended.is_set():
                    return
                continue
            delay_ms = (time.monotonic_ns() - sent_ns) / 1e6
            arrived[addresses[index]].append([number, round(delay_ms, 3)])

    thread = threading.Thread(target=receive)
    thread.start()
    with source.entered():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    due = time.monotonic()
    for number in range(COUNT):
        time.sleep(max(0.0, due - time.monotonic()))
        for index, address in enumerate(addresses):
            if number % EVERY.get(address, 1):
                continue
            packet = _DATAGRAM.pack(index, number, time.monotonic_ns())
            sender.sendto(packet, (address, DATA_PORT))
        due += interval_s
    ended.set()
    thread.join()
    sender.close()
    receiver.close()
    return arrived


def goodput_mbit(source: Namespace, sink: Namespace, address: str) -> float:
    """Rate at which the second half of a transfer arrives over one TCP connection."""
    marks = []

    def receive(server: socket.socket) -> None:
        connection, _ = server.accept()
        received = 0
        while part := connection.recv(1 << 16):
            received += len(part)
            if received >= GOODPUT_BYTES // 2:
                marks.append((time.monotonic(), received))
        connection.close()

    with sink.entered():
        server = socket.create_server((address, DATA_PORT))
    thread = threading.Thread(target=receive, args=(server,))
    thread.start()
    with source.entered():
        connection = socket.create_connection((address, DATA_PORT), timeout=30)
    with connection, server:
        connection.sendall(bytes(GOODPUT_BYTES))
        connection.shutdown(socket.SHUT_WR)
        thread.join()
    (begun, before), (ended, after) = marks[0], marks[-1]
    return (after - before) * 8e-6 / (ended - begun)


def profile(name: str, ways: dict[str, Condition]) -> Profile:
    """A profile as the worker's command takes it."""
    listed = [{"peer": peer, "condition": asdict(each)} for peer, each in ways.items()]
    return {"name": name, "ways": listed}


def each_alone(source: Namespace, sink: Namespace, worker: Worker) -> dict[str, Any]:
    """Shape ways by one parameter each, all at once; before that, only say what would be."""
    asked = profile("alone", ALONE)
    found: dict[str, Any] = {
        "checked": worker.apply(asked, "--check"),
        "after_check": worker.state(),
        "applied": worker.apply(asked, "--tcp", json.dumps(asdict(TCP))),
        "again": worker.apply(asked, "--tcp", json.dumps(asdict(TCP))),
        "state": worker.state(),
    }
    with listening(sink, *PORTS), listening(source, *PORTS):
        # Looks up all neighbours too, so that no datagram waits for that.
        found["other_ms"] = {each: connect_ms(source, each, OTHER_PORT) for each in ALONE}
        found["connect_ms"] = {each: connect_ms(source, each, *PORTS) for each in (DELAY, DELAY6)}
        found["back_ms"] = connect_ms(sink, source.address, *PORTS, own=DELAY)
    found["one_way"] = one_way(source, sink, [each for each in ALONE if each != DELAY6])
    return found


def replaced(source: Namespace, sink: Namespace, worker: Worker) -> dict[str, Any]:
    """Apply one profile after the other, each in place of the one before."""
    found: dict[str, dict[str, Any]] = {}
    for name, condition in REPLACED.items():
        found[name] = {
            "applied": worker.apply(profile(name, {DELAY: condition})),
            "state": worker.state(),
        }
        if condition == DUPLICATE:
            found[name]["one_way"] = one_way(source, sink, [DELAY], 0.002)
        elif not condition.erratic:
            with listening(sink, *PORTS):
                found[name]["connect_ms"] = connect_ms(source, DELAY, *PORTS)
            found[name]["mbit"] = goodput_mbit(source, sink, DELAY)
    return found


def stepped(source: Namespace, sink: Namespace, worker: Worker) -> dict[str, Any]:
    """Hold the segments of a trace, and let it run."""
    trace = [asdict(condition) for condition in STEPS]
    asked: Profile = profile("trace", {DELAY: STEPS[0]})
    asked["ways"][0]["trace"] = trace
    worker.apply(asked | {"timetable": asdict(TIMES)})
    held = []
    for segment in (1, 0):
        worker.replay.hold(segment)
        shown = worker.state()["shown"]
        with listening(sink, *PORTS):
            held.append({"shown": shown, "connect_ms": connect_ms(source, DELAY, *PORTS)})
    # Without losses: what a step itself loses would show.
    lossless = [asdict(condition) | {"loss_percent": 0.0} for condition in STEPS]
    asked["ways"][0] |= {"condition": lossless[0], "trace": lossless}
    worker.apply(asked | {"timetable": asdict(TIMES)})
    worker.replay.run()
    return {"held": held, "one_way": one_way(source, sink, [DELAY])[DELAY]}


def measure() -> None:
    """Take the link through check mode, every profile, a trace, and back."""
    with tempfile.TemporaryDirectory() as folder, joined_pair() as (source, sink):
        for address in ALONE:
            if ":" not in address:
                command = f"ip address add {address}/24 dev {INTERFACE}"
                sink.run(*command.split())
        worker = Worker(source, Path(folder))
        print(json.dumps({
            "unshaped": worker.state(),
            "alone": each_alone(source, sink, worker),
            "replaced": replaced(source, sink, worker),
            "stepped": stepped(source, sink, worker),
            "restore_checked": worker.restore("--check"),
            "restored": worker.restore(),
            "restored_again": worker.restore(),
            "after": worker.state(),
        }))  # fmt: skip


if __name__ == "__main__":
    measure()
