"""The other rank of a ring in tests: a process that does what it is told, a JSON line at a time.

RPC's state belongs to its process, so two ranks need two processes:
``python -m tests.helpers.ring_peer``. That process forks the one that is the rank, and forks it
again whenever it was killed, since importing torch takes two seconds.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from paretopipe_worker.cuts import TensorSpec, Varying
from paretopipe_worker.transport.api import MARK, Endpoint, Tag, Transport, connect
from paretopipe_worker.transport.backends import BACKENDS

ITEM = 2


def tensors_of(specs: list[TensorSpec], seed: int) -> list[torch.Tensor]:
    """Tensors of these specs whose bytes are random."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for spec in specs:
        raw = torch.randint(0, 256, (spec.nbytes,), dtype=torch.uint8, generator=generator)
        if spec.dtype == "bool":
            raw %= 2
        made.append(raw.view(getattr(torch, spec.dtype)).reshape(spec.shape))
    return made


def resident_kb() -> int:
    """Memory that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4


class Rank:
    """One rank as commands drive it; their names are its methods'."""

    def __init__(self) -> None:
        self.transport: Transport | None = None
        self.specs: tuple[list[TensorSpec], list[TensorSpec]] = ([], [])

    @property
    def joined(self) -> Transport:
        """The transport, which a command has connected."""
        assert self.transport is not None
        return self.transport

    def connect(self, backend: str, rank: int, ring: list[Any], version: int | None) -> Any:
        """Join a ring, speaking another version of the backend's protocol where one is given."""
        module: Any = importlib.import_module(BACKENDS[backend].module)
        module.VERSION = version or module.VERSION
        addresses = tuple((address, port) for address, port in ring)
        following = addresses[(rank + 1) % len(addresses)]
        end = Endpoint(rank, addresses[rank], following, "test", ring=addresses)
        self.transport = connect(backend, end, deadline_s=20)
        return self.transport.facts()

    def configure(
        self, inbound: list[Any], outbound: list[Any], window: int, deadline_s: float
    ) -> None:
        """Configure for specs written as [shape, dtype], where "varying" is a dtype, too."""
        self.specs = tuple(
            [
                Varying(tuple(shape), "uint8")
                if dtype == "varying"
                else TensorSpec(tuple(shape), dtype)
                for shape, dtype in side
            ]
            for side in (inbound, outbound)
        )  # type: ignore[assignment]
        self.joined.configure(*self.specs, window=window, deadline_s=deadline_s)

    def begin(self, overlap: bool) -> None:
        """Begin a leg."""
        self.joined.begin(overlap=overlap)

    def echo(self, overlap: bool) -> None:
        """Send back every message of a leg."""
        self.joined.begin(overlap=overlap)
        while (message := self.joined.recv()).tag != MARK:
            self.joined.send(message.tag, message.tensors)
        self.joined.send(MARK, ())

    def send(self, seeds: list[int]) -> None:
        """Send messages numbered by their seeds."""
        for seed in seeds:
            self.joined.send(Tag(ITEM, seed), tensors_of(self.specs[1], seed))

    def receive(self, count: int) -> None:
        """Receive so many messages."""
        for _ in range(count):
            self.joined.recv()

    def bounce(self, count: int) -> list[float]:
        """Send messages around one at a time; the milliseconds that each took."""
        self.joined.begin(overlap=False)
        times = []
        for seed in range(count):
            tensors = tensors_of(self.specs[1], seed)
            start = time.perf_counter()
            self.joined.send(Tag(ITEM, seed), tensors)
            self.joined.recv()
            times.append((time.perf_counter() - start) * 1e3)
        self.joined.send(MARK, ())
        assert self.joined.recv().tag == MARK
        return times

    def resident_kb(self) -> int:
        """Memory that this process has now."""
        return resident_kb()

    def close(self) -> None:
        """Leave the ring."""
        if self.transport:
            self.transport.close()
        self.transport = None


def serve() -> None:
    """Do what standard input says until it ends; say how that went on standard output."""
    rank = Rank()
    print(json.dumps({"ready": os.getpid()}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        # So that a test may act while the command runs.
        print(json.dumps({"started": command["do"]}), flush=True)
        try:
            answer = {"value": getattr(rank, command.pop("do"))(**command)}
        except Exception as error:
            answer = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
    rank.close()


def main() -> None:
    """Fork ranks one after the other, until one ends by itself."""
    torch.set_num_threads(1)
    for module in (*(backend.module for backend in BACKENDS.values()), "torch.distributed.rpc"):
        importlib.import_module(module)
    while child := os.fork():
        if os.WIFEXITED(os.waitpid(child, 0)[1]):
            return
    serve()


if __name__ == "__main__":
    main()
