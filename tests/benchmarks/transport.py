"""There and back through the `tcp` backend, a bare socket echo, and pickle-and-send.

Two processes over the loopback address; all three in one run, alternating, so that the machine's
drift falls on all alike. The bare echo (``sendall`` and ``recv_into`` on one connection, with the
same socket options) is the floor. Pickle-and-send is the naive way: a length and then the pickle,
in two writes. With Nagle's algorithm the second write of a small message waits for the
acknowledgement of the first, which the other side delays by 40 ms; the backend sends header and
payload in one call with Nagle's algorithm off.
"""

from __future__ import annotations

import json
import pickle
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from paretopipe_worker.cuts import TensorSpec
from paretopipe_worker.transport import PHASES, Endpoint, Tag, Transport, connect
from paretopipe_worker.transport.ring import tune
from tests.benchmarks.report import Check, Rows, main
from tests.rings import free_ports

SIZES = {
    "5 KB": 5_000,
    "40 KB": 40_000,
    "400 KB": 400_000,
    "2.4 MB": 2_400_000,
    "12.8 MB": 12_800_000,
}
LIMITS = {"5 KB": 1.6, "40 KB": 1.6, "400 KB": 1.2, "2.4 MB": 1.1, "12.8 MB": 1.1}
ROUNDS = 9
ROUND_S = 0.15
_LENGTH = struct.Struct("<Q")
_ITEM = PHASES.index("latency")


class Bare:
    """The floor: the bytes, and nothing else."""

    def __init__(self, link: socket.socket) -> None:
        tune(link)
        self.link = link

    def configure(self, size: int) -> None:
        """Take a buffer of the size."""
        self.buffer = memoryview(bytearray(size))

    def exchange(self, count: int, answering: bool) -> None:
        """Send and receive `count` times, or the other way round."""
        for _ in range(count):
            if not answering:
                self.link.sendall(self.buffer)
            got = 0
            while got < len(self.buffer):
                got += self.link.recv_into(self.buffer[got:])
            if answering:
                self.link.sendall(self.buffer)


class Pickle:
    """The naive way."""

    def __init__(self, link: socket.socket) -> None:
        self.link = link
        self.file = link.makefile("rb")

    def configure(self, size: int) -> None:
        """Make a tensor of the size."""
        self.tensor = torch.zeros(size, dtype=torch.uint8)

    def exchange(self, count: int, answering: bool) -> None:
        """Send and receive `count` times, or the other way round."""
        for _ in range(count):
            if not answering:
                self.send()
            (length,) = _LENGTH.unpack(self.file.read(_LENGTH.size))
            self.tensor = pickle.loads(self.file.read(length))
            if answering:
                self.send()

    def send(self) -> None:
        """Length, then pickle."""
        text = pickle.dumps(self.tensor)
        self.link.sendall(_LENGTH.pack(len(text)))
        self.link.sendall(text)


class Backend:
    """A backend as a sweep's latency phase runs it."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    def configure(self, size: int) -> None:
        """Plan messages of the size."""
        specs = [TensorSpec((size,), "uint8")]
        self.transport.configure(specs, specs, window=1, deadline_s=60)
        self.transport.begin(overlap=False)
        self.tensor = torch.zeros(size, dtype=torch.uint8)

    def exchange(self, count: int, answering: bool) -> None:
        """Send and receive `count` times, or the other way round."""
        for number in range(count):
            if answering:
                message = self.transport.recv()
                self.transport.send(message.tag, message.tensors)
            else:
                self.transport.send(Tag(_ITEM, number), [self.tensor])
                self.transport.recv()


def ways(rank: int, ports: Sequence[int]) -> dict[str, Any]:
    """Every way across, as this rank sees it."""
    own, other = (("127.0.0.1", ports[rank]), ("127.0.0.1", ports[1 - rank]))
    made: dict[str, Any] = {
        "tcp": Backend(connect("tcp", Endpoint(rank, own, other, "bench"), deadline_s=60))
    }
    for name, kind, port in (("bare", Bare, ports[2]), ("pickle", Pickle, ports[3])):
        if rank == 0:
            with socket.create_server(("127.0.0.1", port)) as listener:
                link, _ = listener.accept()
        else:
            link = reach(port)
        made[name] = kind(link)
    return made


def reach(port: int) -> socket.socket:
    """Connect to the other process, which may not listen yet."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 60)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise


def answer(ports: Sequence[int]) -> None:
    """The other process: do what each line says."""
    torch.set_num_threads(1)
    all_ways = ways(1, ports)
    for line in sys.stdin:
        name, size, count = json.loads(line)
        all_ways[name].configure(size)
        print("ready", flush=True)
        all_ways[name].exchange(count, answering=True)


def measure(quick: bool) -> tuple[Rows, Sequence[Check]]:
    """Every size and way, alternating."""
    rounds = 1 if quick else ROUNDS
    torch.set_num_threads(1)
    ports = free_ports(4)
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.transport", "--answer", *map(str, ports)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        all_ways = ways(0, ports)
        rows = [_row(name, size, rounds, all_ways, child) for name, size in SIZES.items()]
    finally:
        assert child.stdin is not None
        child.stdin.close()
        child.wait(timeout=30)
    checks = [
        Check(
            f"tcp over bare echo, {row['size']}", row["tcp_over_bare"], LIMITS[row["size"]], "lower"
        )
        for row in rows
    ]
    return rows, checks


def _row(name: str, size: int, rounds: int, all_ways: dict[str, Any], child: Any) -> dict[str, Any]:
    """One size: rounds of every way in turn, and the ratios round by round."""

    def run(way: str, count: int) -> float:
        child.stdin.write(json.dumps([way, size, count]) + "\n")
        child.stdin.flush()
        all_ways[way].configure(size)
        assert child.stdout.readline() == "ready\n"
        start = time.perf_counter()
        all_ways[way].exchange(count, answering=False)
        return (time.perf_counter() - start) / count

    counts = {way: max(3, round(ROUND_S / run(way, 3))) for way in all_ways}
    taken = [{way: run(way, counts[way]) for way in all_ways} for _ in range(rounds)]

    def median(value: Callable[[dict[str, float]], float]) -> float:
        return statistics.median(map(value, taken))

    return {
        "size": name,
        "bytes": size,
        **{f"{way}_ms": median(lambda r, way=way: r[way] * 1e3) for way in all_ways},
        "tcp_over_bare": median(lambda r: r["tcp"] / r["bare"]),
        "pickle_over_bare": median(lambda r: r["pickle"] / r["bare"]),
        "rounds": rounds,
        "messages_per_round": counts,
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--answer"]:
        answer([int(port) for port in sys.argv[2:]])
    else:
        main("transport", measure, __doc__ or "")
