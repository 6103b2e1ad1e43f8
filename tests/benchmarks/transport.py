"""Round trips through every backend, a bare socket echo, pickle-and-send, and ZeroMQ.

Each way of sending runs between two processes of its own over the loopback address, as a sweep runs
a backend. Rounds of all ways alternate, so that the machine's drift affects them alike. The bare
echo (``sendall`` and ``recv_into`` on one connection, with the same socket options) is the floor.
The bare ring does the same over two connections, each used in one direction like the links of
longer pipelines: acknowledgements then cannot travel with answers, which slows small messages.
Pickle-and-send is the naive way: a length, then the pickle, in two writes. With Nagle's algorithm
the second write of a small message waits for the acknowledgement of the first, which the other side
delays by 40 ms. ZeroMQ is measured where pyzmq is installed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import pickle
import socket
import statistics
import struct
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from paretopipe_worker.cuts import TensorSpec
from paretopipe_worker.transport.api import MARK, PHASES, Endpoint, Tag, Transport, connect
from paretopipe_worker.transport.backends import BACKENDS
from paretopipe_worker.transport.connections import tune
from tests.benchmarks.report import Check, Rows, main
from tests.benchmarks.wire import receive
from tests.helpers.rings import free_ports

SIZES = {
    "5 KB": 5_000,
    "40 KB": 40_000,
    "400 KB": 400_000,
    "2.4 MB": 2_400_000,
    "12.8 MB": 12_800_000,
}
LIMITS = {"5 KB": 1.6, "40 KB": 1.6, "400 KB": 1.2, "2.4 MB": 1.1, "12.8 MB": 1.1}
BUILT = list(BACKENDS)
ROUNDS = 9
ROUND_S = 0.15
_LENGTH = struct.Struct("<Q")
_ITEM = PHASES.index("latency")


class Way(ABC):
    """One end of one way of sending."""

    @abstractmethod
    def configure(self, size: int) -> None:
        """Get ready for messages of `size` bytes."""

    @abstractmethod
    def send(self, number: int) -> None:
        """Send a message: the one received last, or without one its own."""

    @abstractmethod
    def receive(self) -> None:
        """Receive a message."""


class Bare(Way):
    """The floor: the bytes, and nothing else."""

    def __init__(self, link: socket.socket) -> None:
        tune(link)
        self.link = link

    def configure(self, size: int) -> None:  # noqa: D102
        self.buffer = memoryview(bytearray(size))

    def send(self, number: int) -> None:  # noqa: D102
        self.link.sendall(self.buffer)

    def receive(self) -> None:  # noqa: D102
        receive(self.link, self.buffer)


class BareRing(Bare):
    """The bytes, forth over one connection and back over another."""

    def __init__(self, outbound: socket.socket, inbound: socket.socket) -> None:
        super().__init__(outbound)
        tune(inbound)
        self.inbound = inbound

    def receive(self) -> None:  # noqa: D102
        receive(self.inbound, self.buffer)


class Pickle(Way):
    """The naive way."""

    def __init__(self, link: socket.socket) -> None:
        self.link = link
        self.file = link.makefile("rb")

    def configure(self, size: int) -> None:  # noqa: D102
        self.tensor = torch.zeros(size, dtype=torch.uint8)

    def send(self, number: int) -> None:  # noqa: D102
        text = pickle.dumps(self.tensor)
        self.link.sendall(_LENGTH.pack(len(text)))
        self.link.sendall(text)

    def receive(self) -> None:  # noqa: D102
        (length,) = _LENGTH.unpack(self.file.read(_LENGTH.size))
        self.tensor = pickle.loads(self.file.read(length))


class ZeroMQ(Way):
    """A header and the tensor's memory as two parts of one message, neither copied by Python."""

    def __init__(self, rank: int, port: int) -> None:
        import zmq  # type: ignore[import-not-found]  # not among the requirements

        self.link = zmq.Context().socket(zmq.PAIR)
        address = f"tcp://127.0.0.1:{port}"
        if rank == 0:
            self.link.bind(address)
        else:
            self.link.connect(address)

    def configure(self, size: int) -> None:  # noqa: D102
        self.message: list[Any] = [_LENGTH.pack(0), torch.zeros(size, dtype=torch.uint8).numpy()]

    def send(self, number: int) -> None:  # noqa: D102
        self.link.send_multipart(self.message, copy=False)

    def receive(self) -> None:  # noqa: D102
        self.message = self.link.recv_multipart(copy=False)


class Backend(Way):
    """A backend as legs of latency use it."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    def configure(self, size: int) -> None:  # noqa: D102
        specs = [TensorSpec((size,), "uint8")]
        self.transport.configure(specs, specs, window=1, deadline_s=60)
        self.transport.begin(overlap=False)
        self.tensors: tuple[torch.Tensor, ...] = (torch.zeros(size, dtype=torch.uint8),)

    def send(self, number: int) -> None:  # noqa: D102
        self.transport.send(Tag(_ITEM, number), self.tensors)

    def receive(self) -> None:  # noqa: D102
        self.tensors = self.transport.recv().tensors

    def finish(self, answering: bool) -> None:
        """End the leg, as the contract of a transport demands."""
        if answering:
            self.transport.recv()
        self.transport.send(MARK, ())
        if not answering:
            self.transport.recv()


def make(way: str, rank: int, ports: Sequence[int]) -> Way:
    """One end of a way."""
    if way in BUILT:
        ring = tuple(("127.0.0.1", port) for port in ports[:2])
        end = Endpoint(rank, ring[rank], ring[1 - rank], "bench", ring=ring)
        return Backend(connect(way, end, deadline_s=60))
    if way == "zeromq":
        return ZeroMQ(rank, ports[0])
    first = link_of(rank, ports[0])
    if way == "bare_ring":
        second = link_of(rank, ports[1])
        return BareRing(first, second) if rank == 0 else BareRing(second, first)
    return Bare(first) if way == "bare" else Pickle(first)


def link_of(rank: int, port: int) -> socket.socket:
    """One end of a connection between the two processes, that of rank `rank`."""
    if rank:
        return reach(port)
    with socket.create_server(("127.0.0.1", port)) as listener:
        return listener.accept()[0]


def reach(port: int) -> socket.socket:
    """Connect to the other process, which may not listen yet."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 60)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise


def side(way: str, rank: int, ports: Sequence[int]) -> None:
    """Be one process of a pair: do what each line says, and print the seconds that it took."""
    torch.set_num_threads(1)
    end = make(way, rank, ports)
    for line in sys.stdin:
        size, count = json.loads(line)
        end.configure(size)
        print("ready", flush=True)
        if rank == 0:
            sys.stdin.readline()  # the other end is ready as well
        start = time.perf_counter()
        for number in range(count):
            if rank == 0:
                end.send(number)
            end.receive()
            if rank == 1:
                end.send(number)
        seconds = time.perf_counter() - start
        if isinstance(end, Backend):
            end.finish(answering=rank == 1)
        print(seconds, flush=True)
    if isinstance(end, Backend):
        end.transport.close()


class Pair:
    """The two processes of a way."""

    def __init__(self, way: str) -> None:
        ports = list(map(str, free_ports(2)))
        self.ends = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.benchmarks.transport"),
                    "--side",
                    way,
                    rank,
                    *ports,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
            for rank in ("0", "1")
        ]

    def run(self, size: int, count: int) -> float:
        """Seconds of one message there and back."""
        for end in self.ends:
            self._tell(end, json.dumps([size, count]))
        for end in self.ends:
            assert self._hear(end) == "ready"
        self._tell(self.ends[0], "go")
        seconds, _ = (float(self._hear(end)) for end in self.ends)
        return seconds / count

    def close(self) -> None:
        """End both processes."""
        for end in self.ends:
            assert end.stdin is not None
            end.stdin.close()
        for end in self.ends:
            try:
                end.wait(timeout=30)
            except subprocess.TimeoutExpired:
                end.kill()
                end.wait()

    def _tell(self, end: subprocess.Popen[str], line: str) -> None:
        assert end.stdin is not None
        end.stdin.write(line + "\n")

    def _hear(self, end: subprocess.Popen[str]) -> str:
        assert end.stdout is not None
        line = end.stdout.readline().strip()
        assert line, f"{end.args} ended"
        return line


@contextlib.contextmanager
def pairs(quick: bool) -> Iterator[dict[str, Pair]]:
    """Every way that this machine has; with `quick` only the floor and the backends."""
    zeromq = ["zeromq"] if importlib.util.find_spec("zmq") else []
    others = [] if quick else ["bare_ring", "pickle", *zeromq]
    with contextlib.ExitStack() as stack:
        made = {}
        for way in ("bare", *BUILT, *others):
            made[way] = Pair(way)
            stack.callback(made[way].close)
        yield made


def measure(quick: bool) -> tuple[Rows, Sequence[Check]]:
    """Measure every size over every way."""
    rounds = 1 if quick else ROUNDS
    sizes = dict(list(SIZES.items())[:2]) if quick else SIZES
    with pairs(quick) as ways:
        rows = [_row(name, size, rounds, ways) for name, size in sizes.items()]
    others = [backend for backend in BUILT if backend != "tcp"]
    checks = [
        *(
            Check(f"tcp over bare echo, {name}", row["tcp_over_bare"], LIMITS[name], "lower")
            for name, row in zip(sizes, rows, strict=True)
        ),
        *(
            Check(f"tcp over {other}, {row['size']}", row[f"tcp_over_{other}"], 1.0, "lower")
            for other in others
            for row in rows
        ),
    ]
    return rows, checks


def _row(name: str, size: int, rounds: int, ways: dict[str, Pair]) -> dict[str, Any]:
    """Measure one size in rounds of every way in turn; ratios are medians over rounds."""
    counts = {}
    for way, pair in ways.items():
        pair.run(size, 3)
        counts[way] = max(3, round(ROUND_S / pair.run(size, 3)))
    taken = [
        {way: pair.run(size, counts[way]) for way, pair in ways.items()} for _ in range(rounds)
    ]

    def median(value: Callable[[dict[str, float]], float]) -> float:
        return statistics.median(map(value, taken))

    over = [(way, "bare") for way in ways if way != "bare"]
    over += [("tcp", way) for way in ("bare_ring", *BUILT) if way in ways and way != "tcp"]
    return {
        "size": name,
        "bytes": size,
        **{f"{way}_ms": median(lambda r, way=way: r[way] * 1e3) for way in ways},
        **{f"{a}_over_{b}": median(lambda r, a=a, b=b: r[a] / r[b]) for a, b in over},
        "rounds": rounds,
        "messages_per_round": counts,
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        side(sys.argv[2], int(sys.argv[3]), [int(port) for port in sys.argv[4:]])
    else:
        main("transport", measure, __doc__ or "")
