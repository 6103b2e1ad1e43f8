"""PyTorch RPC: each message a call of a function at the next rank, over TensorPipe.

What comes is unpickled, by whoever can reach the port that TensorPipe listens on: that has neither
proof of a secret nor bounds. So it listens at the data address only, and a network of strangers is
no place for it. Upstream only maintains it, so nothing but this module knows of it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import distributed

from paretopipe_worker.cuts import payload_bytes
from paretopipe_worker.transport.api import (
    MARK,
    DeadlineExceeded,
    Endpoint,
    Message,
    PeerGone,
    ProtocolError,
    Tag,
    TransportError,
)
from paretopipe_worker.transport.group import (
    GroupTransport,
    Neighbours,
    first_line,
    meeting_place,
)
from paretopipe_worker.transport.sockets import Opened, interface_of

VERSION = 1
TRANSPORTS, CHANNELS = ["uv"], ["basic"]
"""TCP and nothing else: between processes of one machine TensorPipe would go around the link, by
shared memory and ``process_vm_readv``, even between network namespaces."""

_WORKERS = 4
_MOST_UNANSWERED = 64
_INTERFACES = ("TP_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")

_joined: RpcTransport | None = None
"""Whom calls that come are for: RPC's state is the process's."""


def connect(endpoint: Endpoint, *, deadline_s: float) -> RpcTransport:
    """Join the ring, and an RPC group of its ranks; a process is in one such group at a time.

    Raises
    ------
    TransportError
        When torch is built without RPC, or as `Neighbours` and `Opened` say.
    """
    library, interface = _library(), interface_of(endpoint.own[0])
    neighbours = Neighbours(endpoint, "rpc", VERSION, deadline_s)
    transport = RpcTransport(
        neighbours, Opened(endpoint.own[0], endpoint.ring[0][1]), library, endpoint
    )
    try:
        transport.join(endpoint, interface, deadline_s)
    except BaseException:
        transport.close()
        raise
    return transport


class RpcTransport(GroupTransport):
    """Both links of one rank over RPC."""

    def __init__(
        self, neighbours: Neighbours, opened: Opened, library: Any, endpoint: Endpoint
    ) -> None:
        super().__init__(neighbours, opened)
        self._rpc = library
        # RPC numbers some exchanges by the names of all workers, for as long as a process lives.
        self._names = [f"rank{rank}-{port}" for rank, (_, port) in enumerate(endpoint.ring)]
        self._to = self._names[(endpoint.rank + 1) % len(self._names)]
        self._sent = 0
        self._unanswered: deque[Any] = deque()
        self._taken = 0
        self._last_ns = 0
        self._early: dict[int, Message] = {}
        self._taking = threading.Lock()
        self._started = False

    def join(self, endpoint: Endpoint, interface: str, deadline_s: float) -> None:
        """Start RPC, open the connections to both neighbours, and wait for all to have done so."""
        global _joined
        os.environ.update(dict.fromkeys(_INTERFACES, interface))
        store = meeting_place(endpoint, self.neighbours, deadline_s)
        _joined = self
        rank = endpoint.rank
        with self.opened:
            try:
                _start(self._rpc, self._names[rank], rank, len(self._names), store, deadline_s)
                self._started = True
                self._rpc.rpc_sync(self._to, _greet, timeout=deadline_s)
            except RuntimeError as error:
                raise TransportError(f"RPC at {endpoint.own[0]}: {first_line(error)}") from error
            self.neighbours.meet()
        self.neighbours.watch(self.lose)

    def recv(self) -> Message:
        """Return the next message, whose tensors are new ones."""
        message = super().recv()
        planned = () if message.tag == MARK else self.inbound
        came = [(tuple(t.shape), t.dtype) for t in message.tensors]
        if came != [(spec.shape, getattr(torch, spec.dtype)) for spec in planned]:
            size = sum(tensor.nbytes for tensor in message.tensors)
            raise ProtocolError(
                f"{self.neighbours.previous} announced {size} bytes where the plan says "
                f"{payload_bytes(tuple(planned))}, or other tensors"
            )
        return message

    def facts(self) -> dict[str, object]:
        """Settings of the connections, and what TensorPipe may use."""
        return {**super().facts(), "transports": TRANSPORTS, "channels": CHANNELS}

    def take(self, number: int, message: Message) -> None:
        """Take a message in its turn: calls may run in another order than they were made in.

        It was received when those before it were too, as over any connection.
        """
        with self._taking:
            self._early[number] = message
            while (following := self._early.pop(self._taken, None)) is not None:
                self._taken += 1
                self._last_ns = max(following.received_ns, self._last_ns + 1)
                self.arrive(following._replace(received_ns=self._last_ns))

    def _ship(self, tag: Tag, tensors: list[torch.Tensor]) -> None:
        """Call the next rank."""
        while self._unanswered and (
            len(self._unanswered) >= _MOST_UNANSWERED or self._unanswered[0].done()
        ):
            with self._faults():
                self._unanswered.popleft().wait()
        with self._faults():
            call = self._rpc.rpc_async(
                self._to,
                _deliver,
                args=(self._sent, tag.phase, tag.seq, *tensors),
                timeout=self.deadline_s,
            )
        self._sent += 1
        self._unanswered.append(call)

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """Give errors of RPC their names."""
        try:
            yield
        except RuntimeError as error:
            if "set timeout" in str(error):
                raise DeadlineExceeded(
                    f"{self.neighbours.next} took nothing for {self.deadline_s:g} s"
                ) from None
            said = first_line(error)
            raise self.fault or PeerGone(
                f"the connection to {self.neighbours.next} broke: {said}"
            ) from error

    def _leave(self) -> None:
        """End RPC here, whatever the others do."""
        global _joined
        if self._started:
            self._rpc.shutdown(graceful=False)
        if _joined is self:
            _joined = None
        self._unanswered.clear()


def _library() -> Any:
    """The RPC module of torch.

    Raises
    ------
    TransportError
        When this host's torch is built without.
    """
    try:
        library = importlib.import_module("torch.distributed.rpc")
        available = distributed.is_available() and library.is_available()
    except ImportError:
        available = False
    if not available:
        raise TransportError("this host's torch is built without RPC; choose another backend")
    return library


def _start(library: Any, name: str, rank: int, ranks: int, store: Any, deadline_s: float) -> None:
    """Start this process's RPC agent, which meets the others in the store.

    These are the steps of ``init_rpc``, which takes no store, and makes its own at all addresses.
    """
    importlib.import_module("torch.distributed.autograd")._init(rank)
    options = library.TensorPipeRpcBackendOptions(
        num_worker_threads=_WORKERS,
        rpc_timeout=deadline_s,
        _transports=TRANSPORTS,
        _channels=CHANNELS,
    )
    with warnings.catch_warnings(action="ignore"):  # it uses what torch has deprecated
        library._init_rpc_backend(library.BackendType.TENSORPIPE, store, name, rank, ranks, options)


def _greet() -> None:
    """Called by the rank before, so that its connections are open before anything is measured."""


def _deliver(number: int, phase: int, seq: int, *tensors: torch.Tensor) -> None:
    """Called by the rank before for each of its messages, in one of RPC's threads."""
    now = time.perf_counter_ns()
    if _joined is not None:
        _joined.take(number, Message(Tag(phase, seq), tensors, now))
