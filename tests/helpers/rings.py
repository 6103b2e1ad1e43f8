"""Rings on the loopback address, for tests of what crosses a link."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from paretopipe_worker.cuts import TensorSpec, Varying
from paretopipe_worker.transport.api import MARK, Endpoint, Tag, Transport, connect
from paretopipe_worker.transport.backends import BACKENDS
from tests import ROOT
from tests.helpers.ring_peer import ITEM, tensors_of

every_backend = pytest.mark.parametrize("backend", BACKENDS)
both_legs = pytest.mark.parametrize("overlap", [False, True], ids=["inline", "overlapped"])

BYTES8 = [TensorSpec((8,), "uint8")]

_PATIENCE_S = 60

_FIRST_PORT, _PORTS = 10_000, 22_000
"""Ports below those that the kernel chooses from."""


def free_ports(count: int) -> list[int]:
    """TCP ports that nothing listens on now, and that no other process of this test run is given.

    They are taken only later, by a process that first has to start.
    """
    ours = _PORTS // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    first = _FIRST_PORT + ours * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(found) < count:
            listener = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                listener.bind(("127.0.0.1", random.randrange(first, first + ours)))
                found.append(listener.getsockname()[1])
    return found


def endpoints(session: str = "test") -> tuple[Endpoint, Endpoint]:
    """Two ranks that are each other's neighbours."""
    ring = first, second = tuple(("127.0.0.1", port) for port in free_ports(2))
    return (
        Endpoint(0, first, second, session, ring=ring),
        Endpoint(1, second, first, session, ring=ring),
    )


def same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equality of shape, dtype and bytes (values may be NaN)."""
    return (
        a.shape == b.shape
        and a.dtype == b.dtype
        and torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
    )


class Peer:
    """Another rank in a process of its own, see `tests.helpers.ring_peer`.

    After :meth:`kill` it is no more, until :meth:`revive` gives it a new process.
    """

    def __init__(self, *inside: str) -> None:
        """Start it, behind the words of a command that runs it elsewhere where there are any."""
        self._process = subprocess.Popen(
            [*inside, sys.executable, "-m", "tests.helpers.ring_peer"],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self._unread = b""
        self._rank: int | None = None
        self.revive()

    @property
    def alive(self) -> bool:
        """Whether it was not killed."""
        return self._rank is not None

    def revive(self) -> None:
        """Wait for the process that takes the place of a killed one."""
        while self._rank is None:
            # What comes before is what the killed one had still said.
            self._rank = self._read().get("ready")

    def start(self, do: str, **arguments: Any) -> Callable[[], Any]:
        """Have a command begun; returns what waits for its end."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        assert self._read() == {"started": do}
        return self._result

    def call(self, do: str, **arguments: Any) -> Any:
        """Have a command done."""
        return self.start(do, **arguments)()

    def configure(
        self,
        inbound: Sequence[TensorSpec],
        outbound: Sequence[TensorSpec],
        *,
        window: int = 1,
        deadline_s: float = 60,
    ) -> None:
        """Have it configure its transport."""
        there, back = (
            [
                [list(spec.shape), "varying" if isinstance(spec, Varying) else spec.dtype]
                for spec in side
            ]
            for side in (inbound, outbound)
        )
        self.call("configure", inbound=there, outbound=back, window=window, deadline_s=deadline_s)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal."""
        if self._rank is not None:
            os.kill(self._rank, number)
        if number == signal.SIGKILL:
            self._rank = None

    def end(self) -> None:
        """Kill it for good, and wait until it is gone."""
        self._process.kill()
        self.kill()
        self._process.communicate()

    def _result(self) -> Any:
        """What became of the command."""
        answer = self._read()
        assert "failed" not in answer, answer["failed"]
        return answer["value"]

    def _read(self) -> Any:
        """Its next line."""
        assert self._process.stdout
        while b"\n" not in self._unread:
            assert select.select([self._process.stdout], [], [], _PATIENCE_S)[0], "the peer hangs"
            chunk = self._process.stdout.read(1 << 16)
            assert chunk, "the peer has ended"
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)


@dataclass
class Pair:
    """Rank 0 in this process and rank 1 in a peer."""

    transport: Transport
    peer: Peer

    def configure(
        self, specs: Sequence[TensorSpec], *, window: int = 1, deadline_s: float = 60
    ) -> None:
        """Have both expect these tensors, there and back."""
        self.transport.configure(specs, specs, window=window, deadline_s=deadline_s)
        self.peer.configure(specs, specs, window=window, deadline_s=deadline_s)


@contextlib.contextmanager
def paired(backend: str, peer: Peer, version: int | None = None) -> Iterator[Pair]:
    """Join a ring of this process and a peer."""
    first, _ = endpoints()
    connected = peer.start("connect", backend=backend, rank=1, ring=first.ring, version=version)
    transport = connect(backend, first, deadline_s=20)
    try:
        connected()
        yield Pair(transport, peer)
    finally:
        transport.close()
        if peer.alive:
            # Its command may have failed, or it is just being killed.
            with contextlib.suppress(AssertionError, OSError):
                peer.call("close")


@contextlib.contextmanager
def ring(backend: str) -> Iterator[tuple[Transport, Transport]]:
    """Two connected ranks of one process."""
    with joined(backend, endpoints()) as (first, second):
        yield first, second


@contextlib.contextmanager
def joined(backend: str, ends: Sequence[Endpoint]) -> Iterator[list[Transport]]:
    """Ranks of one process, each connected to its neighbours."""
    with ThreadPoolExecutor(len(ends)) as pool:
        made = list(pool.map(lambda end: connect(backend, end, deadline_s=20), ends, timeout=30))
    try:
        yield made
    finally:
        for transport in made:
            transport.close()


def threads() -> list[threading.Thread]:
    """Threads of this process that a transport may have left."""
    names = ("receive", "send", "watch")
    return [thread for thread in threading.enumerate() if thread.name.startswith(names)]


def run_leg(pair: Pair, specs: list[TensorSpec], *, count: int, window: int, overlap: bool) -> None:
    """Send messages around, a window of them in flight, and compare what comes with what went."""
    pair.configure(specs, window=window)
    exchange(pair, [tensors_of(specs, seed) for seed in range(count)], window, overlap=overlap)


def exchange(pair: Pair, sent: Sequence[list[torch.Tensor]], window: int, *, overlap: bool) -> None:
    """Send these messages around; both ranks are configured for them."""
    source, count = pair.transport, len(sent)
    echoed = pair.peer.start("echo", overlap=overlap)
    source.begin(overlap=overlap)
    for number in range(count + window):
        if number >= window:
            message = source.recv()
            assert message.tag == Tag(ITEM, number - window)
            want = sent[number - window]
            assert len(message.tensors) == len(want)
            assert all(map(same_bytes, message.tensors, want))
        if number < count:
            packed_ns = source.send(Tag(ITEM, number), sent[number])
            assert packed_ns <= time.perf_counter_ns()
    source.send(MARK, ())
    assert source.recv().tag == MARK
    echoed()
