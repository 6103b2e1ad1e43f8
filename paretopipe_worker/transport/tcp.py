"""The light backend: a fixed header and the raw tensor bytes over plain TCP, no pickle.

One connection per hop, used in one direction. Without overlap the calling thread does all of the
work. With overlap a thread receives ahead into ``window + 1`` buffers, and large messages, with
what the kernel does not take of a small one at once, are left to a second thread: a hand-over
costs more than a small message does.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import threading
import time
from collections.abc import Sequence

import torch

from paretopipe_worker.cuts import TensorSpec, payload_bytes
from paretopipe_worker.transport import (
    MARK,
    PHASES,
    Counters,
    DeadlineExceeded,
    Endpoint,
    Message,
    PeerGone,
    ProtocolError,
    Tag,
    TransportError,
)
from paretopipe_worker.transport.ring import join, peer
from paretopipe_worker.transport.sockets import sent_bytes

VERSION = 2
_MAGIC = b"PPTP"
_HEADER = struct.Struct("<4sHHQQQ")  # magic, version, phase, seq, payload bytes, departed_ns
_DEPARTED = struct.Struct("<Q")
_DEPARTED_AT = _HEADER.size - _DEPARTED.size
_TIMEVAL = struct.Struct("@ll")
_INLINE_BYTES = 64 << 10
"""Largest payload that an overlapped send tries to hand to the kernel itself: the copy of a larger
one would hold up the next batch for longer than waking a thread does."""


def connect(endpoint: Endpoint, *, deadline_s: float) -> TcpTransport:
    """Join the ring with one connection per direction.

    Raises
    ------
    TransportError
        When the own address is in use or not on this host.
    DeadlineExceeded
        When a neighbour did not come in time; the text names it.
    """
    return TcpTransport(*join(endpoint, deadline_s))


class TcpTransport:
    """Both links of one rank over TCP; see :class:`paretopipe_worker.transport.Transport`."""

    def __init__(self, inbound: socket.socket, outbound: socket.socket) -> None:
        self._in, self._out = inbound, outbound
        self._overlap = False
        self._deadline_s = 0.0
        self._closed = False
        self._slots: list[_Slot] = []
        self._next_slot = 0
        self._inbound_bytes = self._outbound_bytes = 0
        self._header = bytearray(_HEADER.size)
        self._header_view = memoryview(self._header)
        self._arrived: queue.SimpleQueue[Message | TransportError] = queue.SimpleQueue()
        self._legs: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._unsent: queue.SimpleQueue[_Unsent | None] = queue.SimpleQueue()
        self._pending = 0
        self._sending = threading.Lock()
        self._fault: TransportError | None = None
        self._threads = (
            threading.Thread(target=self._receive_ahead, name="receive", daemon=True),
            threading.Thread(target=self._send_rest, name="send", daemon=True),
        )
        for thread in self._threads:
            thread.start()

    def configure(
        self,
        inbound: Sequence[TensorSpec],
        outbound: Sequence[TensorSpec],
        *,
        window: int,
        deadline_s: float,
    ) -> None:
        """Take buffers for the inbound messages and bound every wait by `deadline_s`."""
        self._slots = [_Slot(inbound) for _ in range(window + 1)]
        self._next_slot = 0
        self._inbound_bytes = payload_bytes(tuple(inbound))
        self._outbound_bytes = payload_bytes(tuple(outbound))
        self._deadline_s = deadline_s
        timeout = _TIMEVAL.pack(int(deadline_s), int(deadline_s % 1 * 1e6))
        self._in.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
        self._out.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)

    def begin(self, *, overlap: bool) -> None:
        """Start a leg; with `overlap` the receiving thread runs ahead until the mark."""
        self._overlap = overlap
        if overlap:
            self._legs.put(True)

    def send(self, tag: Tag, tensors: Sequence[torch.Tensor]) -> int:
        """Send header and tensors in one call, straight from the tensors' memory."""
        views = [_bytes_of(tensor.contiguous()) for tensor in tensors]
        size = sum(len(view) for view in views)
        if size != (0 if tag == MARK else self._outbound_bytes):
            raise ProtocolError(
                f"a message of {size} bytes to {peer(self._out)} is not what the plan says: "
                f"{self._outbound_bytes}"
            )
        header = bytearray(_HEADER.pack(_MAGIC, VERSION, tag.phase, tag.seq, size, 0))
        message = [memoryview(header), *views]
        packed_ns = _depart(header)
        if not self._overlap:
            self._send_all(message)
            return packed_ns
        with self._sending:
            if self._fault:
                raise self._fault
            sent = 0
            if self._pending == 0 and size <= _INLINE_BYTES:
                sent = self._send_some(message, socket.MSG_DONTWAIT)
                message = _after(message, sent)
            if message:
                self._pending += 1
                self._unsent.put((message, None if sent else header))
        return packed_ns

    def recv(self) -> Message:
        """Return the next message, from the receiving thread where it runs ahead."""
        if not self._overlap:
            return self._receive()
        try:
            # The thread's own deadline comes first and says more.
            arrived = self._arrived.get(timeout=self._deadline_s + 5)
        except queue.Empty:
            raise DeadlineExceeded(f"nothing from {peer(self._in)}") from None
        if isinstance(arrived, TransportError):
            raise self._fault or arrived
        return arrived

    def counters(self) -> Counters:
        """Bytes TCP has sent to the next rank, retransmissions included (``tcp_info``)."""
        return Counters(*sent_bytes(self._out), "sockets")

    def facts(self) -> dict[str, object]:
        """Congestion control and buffer sizes as the kernel gave them."""
        name = self._out.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
        return {
            "congestion_control": name.rstrip(b"\0").decode(),
            "send_buffer_bytes": self._out.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF),
            "receive_buffer_bytes": self._in.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF),
        }

    def close(self) -> None:
        """Close both connections and end the threads."""
        if self._closed:
            return
        self._closed = True
        for link in (self._in, self._out):
            # Wakes a thread that waits in a call on it; the peer may have closed it already.
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
        self._legs.put(False)
        self._unsent.put(None)
        for thread in self._threads:
            thread.join(timeout=5)
        self._in.close()
        self._out.close()

    def _receive(self) -> Message:
        """Receive one message into the next slot, header and payload in one call if it can be."""
        slot = self._slots[self._next_slot]
        self._next_slot = (self._next_slot + 1) % len(self._slots)
        buffers = [self._header_view, *slot.views]
        got = self._receive_some(buffers)
        while got < _HEADER.size:
            got += self._receive_some(_after(buffers, got))
        tag, size, departed_ns = self._parse()
        wanted = _HEADER.size + size
        if got > wanted:
            raise ProtocolError(f"{peer(self._in)} sent data behind a mark")
        while got < wanted:
            # Now that something came, sleep until all is there, not at every segment.
            got += self._receive_some(_after(buffers, got), socket.MSG_WAITALL)
        now = time.perf_counter_ns()
        return Message(tag, () if tag == MARK else slot.tensors, now, departed_ns)

    def _parse(self) -> tuple[Tag, int, int]:
        """The header's tag, payload size and time, the size held against what the plan says."""
        magic, version, phase, seq, size, departed_ns = _HEADER.unpack(self._header)
        if magic != _MAGIC or version != VERSION or phase >= len(PHASES):
            raise ProtocolError(
                f"{peer(self._in)} does not speak version {VERSION} of this protocol"
            )
        tag = Tag(phase, seq)
        expected = 0 if tag == MARK else self._inbound_bytes
        if size != expected:
            raise ProtocolError(
                f"{peer(self._in)} announced {size} bytes where the plan says {expected}"
            )
        return tag, size, departed_ns

    def _receive_some(self, views: list[memoryview], flags: int = 0) -> int:
        """Receive at least one byte."""
        try:
            count = self._in.recvmsg_into(views, 0, flags)[0]
        except BlockingIOError:
            raise DeadlineExceeded(
                f"nothing came from {peer(self._in)} for {self._deadline_s:g} s"
            ) from None
        except OSError as error:
            raise PeerGone(f"the connection from {peer(self._in)} broke: {error}") from error
        if count == 0:
            raise PeerGone(f"{peer(self._in)} closed its connection to this stage")
        return count

    def _send_some(self, message: list[memoryview], flags: int = 0) -> int:
        """Send what the kernel takes; with ``MSG_DONTWAIT`` that may be nothing."""
        try:
            return self._out.sendmsg(message, [], flags)
        except BlockingIOError:
            if flags & socket.MSG_DONTWAIT:
                return 0
            raise DeadlineExceeded(
                f"{peer(self._out)} took nothing for {self._deadline_s:g} s"
            ) from None
        except OSError as error:
            raise PeerGone(f"the connection to {peer(self._out)} broke: {error}") from error

    def _send_all(self, message: list[memoryview]) -> None:
        """Send a whole message in the calling thread."""
        while message:
            message = _after(message, self._send_some(message))

    def _receive_ahead(self) -> None:
        """Receiving thread: run each overlapped leg until its mark."""
        while self._legs.get():
            try:
                while True:
                    message = self._receive()
                    self._arrived.put(message)
                    if message.tag == MARK:
                        break
            except TransportError as error:
                self._arrived.put(error)
                return

    def _send_rest(self) -> None:
        """Sending thread: finish what a send could not do at once."""
        while (unsent := self._unsent.get()) is not None:
            message, header = unsent
            if header is not None:
                _depart(header)
            try:
                self._send_all(message)
            except TransportError as error:
                self._fault = error
                # Wakes whoever waits for an answer to what was never sent.
                with contextlib.suppress(OSError):
                    self._in.shutdown(socket.SHUT_RD)
                return
            with self._sending:
                self._pending -= 1


_Unsent = tuple[list[memoryview], bytearray | None]
"""What is left of a message, and its header where nothing of it was sent yet."""


def _depart(header: bytearray) -> int:
    """Write into a header that its message goes on the wire now, and return when that is."""
    now = time.perf_counter_ns()
    _DEPARTED.pack_into(header, _DEPARTED_AT, now)
    return now


class _Slot:
    """Memory for one inbound message: the tensors and their bytes."""

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        self.tensors = tuple(
            torch.empty(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in specs
        )
        self.views = [_bytes_of(tensor) for tensor in self.tensors]


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor, without copying; keeps the tensor alive."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _after(views: list[memoryview], count: int) -> list[memoryview]:
    """What is left of `views` behind their first `count` bytes."""
    for index, view in enumerate(views):
        if count < len(view):
            return [view[count:], *views[index + 1 :]]
        count -= len(view)
    return []
