"""The `tcp` backend: a fixed header and the raw tensor bytes over plain TCP, no pickle.

Each hop has one connection, used in one direction; two ranks share a single connection, used in
both directions, so that acknowledgements travel with answers. Nothing is copied between tensor
memory and socket.

Without overlap the calling thread does all the work. With overlap one thread receives ahead into
the slots, so that a message that comes while the stage computes is stamped with the time at which
it came. A second thread sends large messages, and whatever the kernel does not take of a small
message at once; small messages are sent by the caller, since a hand-over costs more than sending
them.
"""

from __future__ import annotations

import contextlib
import queue
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from paretopipe_worker.cuts import TensorSpec, message_sizes
from paretopipe_worker.transport.api import (
    MARK,
    NO_BYTES,
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
from paretopipe_worker.transport.connections import peer
from paretopipe_worker.transport.ring import join
from paretopipe_worker.transport.slots import Parts, Slot, bytes_of, slots
from paretopipe_worker.transport.sockets import sent_bytes, settings

VERSION = 2
_MAGIC = b"PPTP"
_HEADER = struct.Struct("<4sHHQQQ")  # magic, version, phase, seq, payload bytes, departed_ns
_DEPARTED = struct.Struct("<Q")
_DEPARTED_AT = _HEADER.size - _DEPARTED.size
_TIMEVAL = struct.Struct("@ll")
_WAKE_BYTES = 32 << 10
"""Once a message comes, its receiver sleeps until so much is there, or all that is left. By itself
the kernel wakes it at every packet, and each time that takes the core from a stage that computes:
over 50 Mbit/s a stage of MobileNetV2 then took up to 1.8 times as much CPU time as undisturbed. It
must be well below the smallest receive buffer, or the window would close before."""

_INLINE_BYTES = 64 << 10
"""Largest payload that the calling thread itself hands to the kernel in an overlapped leg. Copying
a larger one would delay the next batch for longer than waking the sending thread does."""


def connect(endpoint: Endpoint, *, deadline_s: float) -> TcpTransport:
    """Join the ring.

    Raises
    ------
    TransportError
        As :func:`paretopipe_worker.transport.ring.join`.
    """
    inbound, outbound = join(endpoint, deadline_s)
    if len(endpoint.ring) == 2:
        first, second = (outbound, inbound) if endpoint.rank == 0 else (inbound, outbound)
        second.close()
        return TcpTransport(first, first)
    return TcpTransport(inbound, outbound)


class TcpTransport:
    """Both links of one rank over TCP; see :class:`paretopipe_worker.transport.api.Transport`."""

    def __init__(self, inbound: socket.socket, outbound: socket.socket) -> None:
        self._in, self._out = inbound, outbound
        self._coming = select.poll()
        self._coming.register(inbound, select.POLLIN)
        # Asked for now: once a peer is gone, its connection no longer has its address.
        self._before, self._after = peer(inbound), peer(outbound)
        self._overlap = False
        self._deadline_s = 0.0
        self._closed = False
        self._slots: Iterator[Slot] = iter(())
        self._inbound_sizes = self._outbound_sizes = NO_BYTES
        self._header = bytearray(_HEADER.size)
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
        """Allocate slots for the inbound messages and bound every wait by `deadline_s`."""
        self._slots = slots(inbound, window, _HEADER.size)
        self._inbound_sizes = message_sizes(inbound)
        self._outbound_sizes = message_sizes(outbound)
        self._deadline_s = deadline_s
        timeout = _TIMEVAL.pack(int(deadline_s), int(deadline_s % 1 * 1e6))
        self._in.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
        self._out.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)

    def begin(self, *, overlap: bool) -> None:
        """Start a leg; with `overlap` the receiving thread receives ahead until the mark."""
        self._overlap = overlap
        if overlap:
            self._legs.put(True)

    def send(self, tag: Tag, tensors: Sequence[torch.Tensor]) -> int:
        """Send header and tensors in one call, straight from the tensors' memory."""
        message: Parts = [self._header]
        size = 0
        for tensor in tensors:
            if not (tensor.is_contiguous() and tensor.is_cpu):
                return self.send(tag, [each.cpu().contiguous() for each in tensors])
            message.append(bytes_of(tensor))
            size += tensor.nbytes
        planned = self._outbound_sizes if tag != MARK else NO_BYTES
        if size not in planned:
            raise ProtocolError.unplanned(size, self._after, planned)
        packed_ns = time.perf_counter_ns()
        _HEADER.pack_into(self._header, 0, _MAGIC, VERSION, tag[0], tag[1], size, packed_ns)
        if not self._overlap:
            sent = self._send_some(message)
            if sent < _HEADER.size + size:
                self._send_all(message, _HEADER.size + size, sent, packed_ns)
            return packed_ns
        with self._sending:
            if self._fault:
                raise self._fault
            sent = 0
            if self._pending == 0 and size <= _INLINE_BYTES:
                sent = self._send_some(message, socket.MSG_DONTWAIT)
            if sent < _HEADER.size + size:
                # The next message's header is packed into the same memory.
                message[0] = bytearray(self._header)
                self._pending += 1
                self._unsent.put(_Unsent(message, sent, tensors))
        return packed_ns

    def recv(self) -> Message:
        """Return the next message; in an overlapped leg the receiving thread has received it."""
        if not self._overlap:
            return self._receive()
        try:
            # The receiving thread's own deadline passes earlier, and its error says more.
            arrived = self._arrived.get(timeout=self._deadline_s + 5)
        except queue.Empty:
            raise DeadlineExceeded(f"nothing from {self._before}") from None
        if isinstance(arrived, TransportError):
            raise self._fault or arrived
        return arrived

    def counters(self) -> Counters:
        """Bytes TCP has sent to the next rank, retransmissions included (``tcp_info``)."""
        return Counters(*sent_bytes(self._out), "sockets")

    def facts(self) -> dict[str, object]:
        """Congestion control and buffer sizes, as the kernel reports them."""
        return settings(self._out, self._in)

    def close(self) -> None:
        """Close both connections and end the threads."""
        if self._closed:
            return
        self._closed = True
        for link in (self._in, self._out):
            # Wakes a thread that waits on the socket; the peer may have closed it already.
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
        self._legs.put(False)
        self._unsent.put(None)
        for thread in self._threads:
            thread.join(timeout=5)
        self._in.close()
        self._out.close()

    def _receive(self) -> Message:
        """Receive one message into the next slot, header and payload in one call if possible."""
        slot = next(self._slots)
        parts, varies = slot.parts, len(self._inbound_sizes) > 1
        # What lies behind the end of a message that varies is the next one's.
        ahead = _until(parts, _HEADER.size) if varies else parts
        got = self._receive_some(ahead)
        began_ns = time.perf_counter_ns()
        while got < _HEADER.size:
            self._check_late(began_ns, "from", self._before)
            got += self._receive_some(_after(ahead, got))
        magic, version, phase, seq, size, departed_ns = _HEADER.unpack_from(parts[0])
        if (magic, version) != (_MAGIC, VERSION) or phase >= len(PHASES):
            raise ProtocolError(f"{self._before} does not speak version {VERSION} of this protocol")
        tag = Tag(phase, seq)
        planned = self._inbound_sizes if tag != MARK else NO_BYTES
        if size not in planned:
            raise ProtocolError.announced(size, self._before, planned)
        if varies:
            parts = _until(parts, _HEADER.size + size)
        if got < _HEADER.size + size:
            while (left := _HEADER.size + size - got) > 0:
                self._await(min(left, _WAKE_BYTES), began_ns)
                got += self._receive_some(_after(parts, got), socket.MSG_DONTWAIT)
            self._wake_at(1)
        now = time.perf_counter_ns()
        if got > _HEADER.size + size:
            raise ProtocolError(f"{self._before} sent data after a mark")
        tensors = slot.filled(size) if varies else slot.tensors
        return Message(tag, tensors if tag != MARK else (), now, departed_ns)

    def _wake_at(self, count: int) -> None:
        """Have the kernel wake a receiver once so many bytes are there."""
        self._in.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)

    def _await(self, count: int, began_ns: int) -> None:
        """Sleep until so many bytes of a message are there, or fewer where memory is short.

        A call that receives must not do it: it takes what is there, and then the kernel would wake
        it only once as many bytes again have come. Nor does it sleep past the message's deadline.
        """
        self._check_late(began_ns, "from", self._before)
        self._wake_at(count)
        late_ms = (time.perf_counter_ns() - began_ns) / 1e6
        self._coming.poll(max(0.0, self._deadline_s * 1e3 - late_ms))

    def _receive_some(self, parts: Parts, flags: int = 0) -> int:
        """Receive at least one byte; with ``MSG_DONTWAIT`` that may be nothing."""
        try:
            if len(parts) == 1:
                count = self._in.recv_into(parts[0], 0, flags)
            else:
                count = self._in.recvmsg_into(parts, 0, flags)[0]
        except BlockingIOError:
            if flags & socket.MSG_DONTWAIT:
                return 0
            raise DeadlineExceeded(
                f"nothing came from {self._before} for {self._deadline_s:g} s"
            ) from None
        except OSError as error:
            raise PeerGone(f"the connection from {self._before} broke: {error}") from error
        if count == 0:
            raise PeerGone(f"{self._before} closed its connection to this stage")
        return count

    def _send_some(self, message: Parts, flags: int = 0) -> int:
        """Send as much as the kernel takes; with ``MSG_DONTWAIT`` that may be nothing."""
        try:
            return self._out.sendmsg(message, [], flags)
        except BlockingIOError:
            if flags & socket.MSG_DONTWAIT:
                return 0
            raise DeadlineExceeded(
                f"{self._after} took nothing for {self._deadline_s:g} s"
            ) from None
        except OSError as error:
            raise PeerGone(f"the connection to {self._after} broke: {error}") from error

    def _send_all(self, message: Parts, size: int, sent: int, began_ns: int) -> None:
        """Send the rest of a message of `size` bytes, of which `sent` bytes are gone, and wait."""
        while sent < size:
            self._check_late(began_ns, "to", self._after)
            sent += self._send_some(_after(message, sent))

    def _check_late(self, began_ns: int, way: str, peer: str) -> None:
        """Refuse to go on with a message that began too long ago.

        A call of the kernel ends after the deadline at the latest, so a message takes at most twice
        as long, however few bytes come or go at a time.
        """
        if time.perf_counter_ns() - began_ns > self._deadline_s * 1e9:
            raise DeadlineExceeded(
                f"a message {way} {peer} was not whole {self._deadline_s:g} s after it had begun"
            )

    def _receive_ahead(self) -> None:
        """Body of the receiving thread: receive each overlapped leg up to its mark."""
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
        """Body of the sending thread: send what the calling thread left unsent."""
        while (unsent := self._unsent.get()) is not None:
            message, sent, _ = unsent
            began_ns = time.perf_counter_ns()
            if not sent:
                _DEPARTED.pack_into(message[0], _DEPARTED_AT, began_ns)
            try:
                self._send_all(message, sum(map(len, message)), sent, began_ns)
            except TransportError as error:
                self._fault = error
                # Wakes the caller that waits for an answer to what was never sent.
                with contextlib.suppress(OSError):
                    self._in.shutdown(socket.SHUT_RD)
                return
            with self._sending:
                self._pending -= 1


class _Unsent(NamedTuple):
    """A message, how many bytes of it were sent, and the tensors that must live until all are."""

    message: Parts
    sent: int
    tensors: Sequence[torch.Tensor]


def _until(parts: Parts, count: int) -> Parts:
    """The first `count` bytes of a message that is in one part."""
    return [memoryview(parts[0])[:count]]


def _after(parts: Parts, count: int) -> Parts:
    """The rest of `parts` after their first `count` bytes."""
    for index, part in enumerate(parts):
        if count < len(part):
            return [memoryview(part)[count:], *parts[index + 1 :]]
        count -= len(part)
    return []
