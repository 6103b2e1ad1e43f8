"""The `rpc` backend: PyTorch RPC over TensorPipe; a message is a function call at the next rank.

RPC unpickles whatever reaches the port on which TensorPipe listens, without proof of a secret and
without bounds. It listens at the data address only; use it only on a network that you trust.
PyTorch no longer develops RPC, so only this module depends on it.
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

from paretopipe_worker.cuts import Varying, message_sizes
from paretopipe_worker.transport.api import (
    MARK,
    NO_BYTES,
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
"""TensorPipe may use TCP only. Between processes of one machine it would otherwise bypass the link
through shared memory and ``process_vm_readv``, even between network namespaces."""

_WORKERS = 4
_MOST_UNANSWERED = 64
_INTERFACES = ("TP_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")

_joined: RpcTransport | None = None
"""The transport that incoming calls are for. RPC's state belongs to the process."""


def connect(endpoint: Endpoint, *, deadline_s: float) -> RpcTransport:
    """Join the ring, and an RPC group of its ranks; a process is in one such group at a time.

    Raises
    ------
    TransportError
        When torch is built without RPC, or the own address is not the first one of its interface;
        also as :class:`Neighbours` and :class:`Opened`.
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
        # RPC numbers some exchanges by the names of all workers for the life of the process, so
        # each group needs names of its own.
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
        """Start RPC, open the connections to both neighbours, and wait until all ranks have."""
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
        """Return the next message; its tensors are newly allocated."""
        message = super().recv()
        planned = () if message.tag == MARK else self.inbound
        size = sum(tensor.nbytes for tensor in message.tensors)
        sizes = message_sizes(planned) if planned else NO_BYTES
        varies = any(isinstance(spec, Varying) for spec in planned)
        shapes = [(size,)] if varies else [spec.shape for spec in planned]
        wanted = [
            (shape, getattr(torch, s.dtype)) for shape, s in zip(shapes, planned, strict=True)
        ]
        came = [(tuple(t.shape), t.dtype) for t in message.tensors]
        if size not in sizes or came != wanted:
            announced = ProtocolError.announced(size, self.neighbours.previous, sizes)
            raise ProtocolError(f"{announced}: {came} for {wanted}")
        return message

    def facts(self) -> dict[str, object]:
        """Settings of the connections, and the transports and channels of TensorPipe."""
        return {**super().facts(), "transports": TRANSPORTS, "channels": CHANNELS}

    def take(self, number: int, message: Message) -> None:
        """Take message number `number` of this link.

        Calls may run in another order than they were made in, so a message waits for those before
        it. It counts as received when they have been received too, as over any connection.
        """
        with self._taking:
            self._early[number] = message
            while (following := self._early.pop(self._taken, None)) is not None:
                self._taken += 1
                self._last_ns = max(following.received_ns, self._last_ns + 1)
                self.arrive(following._replace(received_ns=self._last_ns))

    def _ship(self, tag: Tag, tensors: list[torch.Tensor]) -> None:
        """Call the next rank; wait for the oldest call where too many are unanswered."""
        while self._unanswered and (
            len(self._unanswered) >= _MOST_UNANSWERED or self._unanswered[0].done()
        ):
            with self._faults():
                self._unanswered.popleft().wait()
        # RPC sends all of the memory that a tensor lies in, as of one that varies in size.
        tensors = [t if t.untyped_storage().nbytes() == t.nbytes else t.clone() for t in tensors]
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
        """Turn errors of RPC into those of the interface."""
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
        """End RPC in this process, without waiting for the other ranks."""
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
        When this host's torch is built without it.
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

    These are the steps of ``init_rpc``. That function takes no store, and makes one that listens
    at all addresses.
    """
    importlib.import_module("torch.distributed.autograd")._init(rank)
    options = library.TensorPipeRpcBackendOptions(
        num_worker_threads=_WORKERS,
        rpc_timeout=deadline_s,
        _transports=TRANSPORTS,
        _channels=CHANNELS,
    )
    with warnings.catch_warnings(action="ignore"):  # RPC uses functions that torch has deprecated
        library._init_rpc_backend(library.BackendType.TENSORPIPE, store, name, rank, ranks, options)


def _greet() -> None:
    """Do nothing: the call by the previous rank opens its connections before any measurement."""


def _deliver(number: int, phase: int, seq: int, *tensors: torch.Tensor) -> None:
    """Take a message. The previous rank calls it; it runs in one of RPC's threads."""
    now = time.perf_counter_ns()
    if _joined is not None:
        _joined.take(number, Message(Tag(phase, seq), tensors, now))
