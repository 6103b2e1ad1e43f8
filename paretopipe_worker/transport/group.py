"""What the backends over ``torch.distributed`` share.

Its libraries let ranks meet through a store, keep no deadline while nothing moves, and accept any
peer. So a rank first joins a ring of plain connections, as `tcp` does, and keeps it idle: both ends
of each connection have proved who they are, and it closes when a neighbour is gone.
"""

from __future__ import annotations

import contextlib
import queue
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from paretopipe_worker.cuts import TensorSpec, message_sizes
from paretopipe_worker.transport.api import (
    MARK,
    NO_BYTES,
    Counters,
    DeadlineExceeded,
    Endpoint,
    Message,
    PeerGone,
    ProtocolError,
    Tag,
    TransportError,
)
from paretopipe_worker.transport.connections import peer
from paretopipe_worker.transport.ring import join
from paretopipe_worker.transport.sockets import Opened

_HELLO = struct.Struct("<4s16sHH")  # magic, backend, version, zero
_MAGIC = b"PPGR"
_GO = b"go"


class Neighbours:
    """The idle connections from the previous rank and to the next one.

    Raises
    ------
    TransportError
        As :func:`paretopipe_worker.transport.ring.join`.
    ProtocolError
        When the previous rank has another backend, or another version of its protocol.
    """

    def __init__(self, endpoint: Endpoint, backend: str, version: int, deadline_s: float) -> None:
        self._rank = endpoint.rank
        self._in, self._out = join(endpoint, deadline_s)
        self._watching: threading.Thread | None = None
        self.previous, self.next = peer(self._in), peer(self._out)
        for link in (self._in, self._out):
            link.settimeout(deadline_s)
        hello = _HELLO.pack(_MAGIC, backend.encode(), version, 0)
        try:
            self._put(hello)
            if self._get(len(hello)) != hello:
                raise ProtocolError(
                    f"{self.previous} does not speak version {version} of {backend}'s protocol"
                )
        except BaseException:
            self.close()
            raise

    def meet(self) -> None:
        """Wait until every rank has called this.

        A token goes around the ring twice: once to learn that all are here, once to tell them.
        """
        for _ in range(2):
            if self._rank == 0:
                self._put(_GO)
            self._get(len(_GO))
            if self._rank != 0:
                self._put(_GO)

    def watch(self, lost: Callable[[TransportError], None]) -> None:
        """Have a thread call `lost`, once, when a neighbour is gone."""
        self._watching = threading.Thread(
            target=self._wait_for_loss, args=(lost,), name="watch", daemon=True
        )
        self._watching.start()

    def close(self) -> None:
        """Close both connections."""
        for link in (self._in, self._out):
            # Wakes the watching thread; the peer may have closed the connection already.
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
        if self._watching:
            self._watching.join(timeout=5)
        self._in.close()
        self._out.close()

    def _put(self, data: bytes) -> None:
        """Send to the next rank."""
        try:
            self._out.sendall(data)
        except OSError as error:
            raise PeerGone(f"the connection to {self.next} broke: {error}") from error

    def _get(self, size: int) -> bytes:
        """Receive `size` bytes from the previous rank."""
        try:
            data = self._in.recv(size, socket.MSG_WAITALL)
        except TimeoutError:
            raise DeadlineExceeded(f"{self.previous} joined and then sent nothing") from None
        except OSError as error:
            raise PeerGone(f"the connection from {self.previous} broke: {error}") from error
        if len(data) < size:
            raise PeerGone(f"{self.previous} closed its connection to this stage")
        return data

    def _wait_for_loss(self, lost: Callable[[TransportError], None]) -> None:
        """Sleep until a connection is readable; since nothing is sent on it, it has ended then."""
        waiting = select.poll()
        names = {self._in.fileno(): self.previous, self._out.fileno(): self.next}
        for descriptor in names:
            waiting.register(descriptor, select.POLLIN | select.POLLRDHUP)
        [(descriptor, _), *_] = waiting.poll()
        lost(PeerGone(f"{names[descriptor]} closed its connection to this stage"))


def meeting_place(endpoint: Endpoint, neighbours: Neighbours, deadline_s: float) -> Any:
    """The store in which a library's ranks meet; rank 0 has it, at its data address and port only.

    Raises
    ------
    TransportError
        When it cannot be reached, or a neighbour is gone.
    """
    lead, listening = endpoint.rank == 0, None
    if lead:
        family = socket.AF_INET6 if ":" in endpoint.own[0] else socket.AF_INET
        listening = socket.create_server(endpoint.own, family=family).detach()
    neighbours.meet()
    address, port = endpoint.ring[0]
    try:
        return distributed.TCPStore(  # type: ignore[attr-defined]
            address,
            port,
            is_master=lead,
            timeout=timedelta(seconds=deadline_s),
            wait_for_workers=False,
            master_listen_fd=listening,
        )
    except RuntimeError as error:
        raise TransportError(f"no store at {address}:{port}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """The first line of a library's error, without its stack."""
    return (str(error).splitlines() or [type(error).__name__])[0]


class GroupTransport:
    """One rank of a group, see :class:`paretopipe_worker.transport.api.Transport`.

    A backend implements :meth:`_ship` and :meth:`_leave`. Its threads call :meth:`arrive` for each
    message, and :meth:`lose` when a link is lost.
    """

    def __init__(self, neighbours: Neighbours, opened: Opened) -> None:
        self.neighbours = neighbours
        self.deadline_s = 0.0
        self.inbound: tuple[TensorSpec, ...] = ()
        self.outbound: tuple[TensorSpec, ...] = ()
        self.closed = False
        self.opened = opened
        self._arrived: queue.SimpleQueue[Message | TransportError] = queue.SimpleQueue()
        self.fault: TransportError | None = None

    def configure(
        self,
        inbound: Sequence[TensorSpec],
        outbound: Sequence[TensorSpec],
        *,
        window: int,
        deadline_s: float,
    ) -> None:
        """Set what the messages carry; messages that came earlier wait for the call of `recv`."""
        self.inbound, self.outbound = tuple(inbound), tuple(outbound)
        self.deadline_s = deadline_s

    def begin(self, *, overlap: bool) -> None:
        """Do nothing: the library's threads move the bytes in both kinds of leg."""

    def send(self, tag: Tag, tensors: Sequence[torch.Tensor]) -> int:
        """Hand a message to the library; it counts as serialised when that call returns."""
        flat = [tensor.contiguous() for tensor in tensors]
        size = sum(tensor.nbytes for tensor in flat)
        planned = NO_BYTES if tag == MARK else message_sizes(self.outbound)
        if size not in planned:
            raise ProtocolError.unplanned(size, self.neighbours.next, planned)
        if self.fault:
            raise self.fault
        self._ship(tag, flat)
        return time.perf_counter_ns()

    def recv(self) -> Message:
        """Return the next message."""
        try:
            arrived = self._arrived.get(timeout=self.deadline_s)
        except queue.Empty:
            raise DeadlineExceeded(
                f"nothing came from {self.neighbours.previous} for {self.deadline_s:g} s"
            ) from None
        if isinstance(arrived, TransportError):
            self._arrived.put(arrived)  # the next call raises it again
            raise arrived
        return arrived

    def counters(self) -> Counters:
        """Bytes that TCP has sent on the library's connections.

        They include what this rank sends to the previous one: gloo's and RPC's answers to messages.
        """
        return self.opened.counters()

    def facts(self) -> dict[str, object]:
        """Settings of the library's connections."""
        return self.opened.facts()

    def close(self) -> None:
        """Leave the group and close all connections."""
        if self.closed:
            return
        self.closed = True
        self._leave()
        self.opened.close()
        self.neighbours.close()

    def arrive(self, message: Message) -> None:
        """Take a message that has arrived."""
        self._arrived.put(message)

    def lose(self, fault: TransportError) -> None:
        """Record that a link cannot be used any more; the first reason is kept."""
        if not self.closed:
            self.fault = self.fault or fault
            self._arrived.put(self.fault)

    def _ship(self, tag: Tag, tensors: list[torch.Tensor]) -> None:
        """Send contiguous tensors to the next rank."""
        raise NotImplementedError

    def _leave(self) -> None:
        """End the library's connections and threads."""
        raise NotImplementedError
