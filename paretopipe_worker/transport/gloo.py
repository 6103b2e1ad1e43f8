"""The `gloo` backend: point-to-point messages of ``torch.distributed``, over TCP.

Gloo keeps one connection for each pair of ranks. A message is a header and the raw bytes of each
tensor, each of which is a gloo message of its own. Gloo sends no data before the receiver has
posted the memory for it, so receives are posted ahead.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import timedelta
from queue import SimpleQueue
from typing import Any, NamedTuple

import torch
from torch import distributed

from paretopipe_worker.cuts import TensorSpec, message_sizes, payload_bytes
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
from paretopipe_worker.transport.slots import Slot, slots
from paretopipe_worker.transport.sockets import Opened

VERSION = 2
_HEADER_TAG = 0
_FIELDS = 5  # epoch, phase, seq, number of tensors, payload bytes
_HEADERS_AHEAD = 8
_AHEAD, _AHEAD_BYTES = 16, 16 << 20
"""Receives are posted for so many payloads ahead, or for as many as fit into so many bytes, and at
least for a window of them."""
_FOREVER = timedelta(days=30)
"""Gloo's own bound of a wait, after which it closes the connection. It must never pass: deadlines
are kept by this module."""


def connect(endpoint: Endpoint, *, deadline_s: float) -> GlooTransport:
    """Join the ring, and a process group of its ranks.

    Raises
    ------
    TransportError
        When torch is built without gloo; also as :class:`Neighbours` and :class:`Opened`.
    """
    if not (distributed.is_available() and distributed.is_gloo_available()):
        raise TransportError("this host's torch is built without gloo; choose another backend")
    neighbours = Neighbours(endpoint, "gloo", VERSION, deadline_s)
    try:
        store = meeting_place(endpoint, neighbours, deadline_s)
        options = distributed.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._devices = [
            distributed.ProcessGroupGloo.create_device(hostname=endpoint.own[0], lazy_init=False)
        ]
        options._timeout = timedelta(seconds=deadline_s)
        with Opened(endpoint.own[0], endpoint.ring[0][1]) as opened:
            group = _group(store, endpoint, options)
            neighbours.meet()
    except BaseException:
        neighbours.close()
        raise
    transport = GlooTransport(neighbours, opened, group, endpoint)
    neighbours.watch(transport.lose)
    return transport


def _group(store: Any, endpoint: Endpoint, options: Any) -> Any:
    """Connect to all other ranks."""
    try:
        return distributed.ProcessGroupGloo(store, endpoint.rank, len(endpoint.ring), options)
    except RuntimeError as error:
        raise TransportError(f"gloo at {endpoint.own[0]}: {first_line(error)}") from error


class GlooTransport(GroupTransport):
    """Both links of one rank over gloo."""

    def __init__(
        self, neighbours: Neighbours, opened: Opened, group: Any, endpoint: Endpoint
    ) -> None:
        super().__init__(neighbours, opened)
        ranks = len(endpoint.ring)
        self._group = group
        self._from, self._to = (endpoint.rank - 1) % ranks, (endpoint.rank + 1) % ranks
        self._epoch = {"in": 0, "out": 0}
        self._most_unsent = 1
        self._slots: Iterator[Slot] = iter(())
        self._posted: SimpleQueue[_Posted | None] = SimpleQueue()
        self._read_one = False
        self._unsent: deque[list[Any]] = deque()
        self._headers = deque(self._ask_header() for _ in range(_HEADERS_AHEAD))
        self._receiver = threading.Thread(target=self._receive, name="receive", daemon=True)
        self._receiver.start()

    def configure(
        self,
        inbound: Sequence[TensorSpec],
        outbound: Sequence[TensorSpec],
        *,
        window: int,
        deadline_s: float,
    ) -> None:
        """Post receives for the coming messages, and fill those left at the next rank."""
        self._use_up()
        super().configure(inbound, outbound, window=window, deadline_s=deadline_s)
        # Both ends of a link count how often they were configured for tensors on it. This epoch is
        # gloo's tag, so that no payload is written to memory posted for other tensors.
        self._epoch["in"] += bool(inbound)
        self._epoch["out"] += bool(outbound)
        self._most_unsent = _ahead(payload_bytes(self.outbound), window)
        self._read_one = False
        if inbound:
            ahead = _ahead(payload_bytes(self.inbound), window)
            self._slots = slots(inbound, ahead)
            for _ in range(ahead):
                self._post()

    def recv(self) -> Message:
        """Return the next message, and post the slot of the one before the last again."""
        if self._read_one:
            self._post()
            self._read_one = False
        message = super().recv()
        self._read_one = bool(message.tensors)
        if self.inbound and not message.tensors and message.tag != MARK:
            sizes = message_sizes(self.inbound)
            raise ProtocolError.announced(0, self.neighbours.previous, sizes)
        return message

    def facts(self) -> dict[str, object]:
        """Settings of the connections, and how far receives are posted ahead."""
        return {**super().facts(), "receives_ahead": _AHEAD}

    def _ship(self, tag: Tag, tensors: list[torch.Tensor]) -> None:
        """Send header and tensors; wait for the oldest message where too many are unsent."""
        while len(self._unsent) >= self._most_unsent:
            self._finish(self._unsent.popleft())
        size = sum(tensor.nbytes for tensor in tensors)
        fields = (self._epoch["out"], tag.phase, tag.seq, len(tensors), size)
        header = torch.tensor(fields, dtype=torch.int64)
        try:
            works = [self._group.send([header], self._to, _HEADER_TAG)]
            works += [
                self._group.send([_bytes_of(tensor)], self._to, self._epoch["out"])
                for tensor in tensors
                if tensor.nbytes
            ]
        except RuntimeError as error:
            raise self._lost(self.neighbours.next, error) from error
        self._unsent.append(works)

    def _use_up(self) -> None:
        """Fill the receives that the next rank has left of the last leg, with a byte each.

        After a mark there are as many as it posts ahead. Gloo never forgets a receive that is not
        filled: both ranks would keep a few kilobytes of every leg.
        """
        pieces = sum(spec.nbytes > 0 for spec in self.outbound) * self._most_unsent
        filler = torch.zeros(1, dtype=torch.uint8)
        try:
            works = [
                self._group.send([filler], self._to, self._epoch["out"]) for _ in range(pieces)
            ]
        except RuntimeError as error:
            raise self._lost(self.neighbours.next, error) from error
        self._unsent.append(works)

    def _finish(self, works: list[Any]) -> None:
        """Wait until the kernel has taken a message."""
        try:
            for work in works:
                work.wait(timedelta(seconds=self.deadline_s))
        except RuntimeError as error:
            if "Timed out" in str(error):
                raise DeadlineExceeded(
                    f"{self.neighbours.next} took nothing for {self.deadline_s:g} s"
                ) from None
            raise self._lost(self.neighbours.next, error) from error

    def _lost(self, who: str, error: RuntimeError) -> TransportError:
        """The error to raise for one of gloo's."""
        return self.fault or PeerGone(f"the connection with {who} broke: {first_line(error)}")

    def _post(self) -> None:
        """Post the next slot for one more payload."""
        slot, epoch = next(self._slots), self._epoch["in"]
        pieces = [piece for piece in slot.pieces if piece.nbytes]
        try:
            works = [self._group.recv([piece], self._from, epoch) for piece in pieces]
        except RuntimeError as error:
            raise self._lost(self.neighbours.previous, error) from error
        self._posted.put(_Posted(epoch, message_sizes(self.inbound), slot, works))

    def _ask_header(self) -> tuple[torch.Tensor, Any]:
        """Post memory for one more header."""
        header = torch.zeros(_FIELDS, dtype=torch.int64)
        return header, self._group.recv([header], self._from, _HEADER_TAG)

    def _receive(self) -> None:
        """Body of the receiving thread: take messages as they come, until the group is left."""
        try:
            while True:
                header, work = self._headers[0]
                work.wait(_FOREVER)
                if self.closed:
                    return
                self._headers.popleft()
                epoch, phase, seq, count, size = header.tolist()
                self._headers.append(self._ask_header())
                tensors = self._fill(epoch, size) if count else ()
                if tensors is None:
                    return
                self.arrive(Message(Tag(phase, seq), tensors, time.perf_counter_ns()))
        except TransportError as error:
            self.lose(error)
        except RuntimeError as error:
            self.lose(self._lost(self.neighbours.previous, error))

    def _fill(self, epoch: int, size: int) -> tuple[torch.Tensor, ...] | None:
        """Wait for a payload in the slot posted for it; None where the group was left meanwhile."""
        while (posted := self._posted.get()) is not None and posted.epoch < epoch:
            # Filled for no message. Gloo reads nothing more where it finds such memory given back.
            for work in posted.works:
                work.wait(_FOREVER)
        if posted is None:
            return None
        if posted.epoch != epoch or size not in posted.sizes:
            raise ProtocolError.announced(size, self.neighbours.previous, posted.sizes)
        for work in posted.works:
            work.wait(_FOREVER)
        return posted.slot.filled(size) if len(posted.sizes) > 1 else posted.slot.tensors

    def _leave(self) -> None:
        """Wake the receiving thread and close the connections."""
        self._posted.put(None)
        self.opened.shut_down()
        self._receiver.join(timeout=5)
        self._unsent.clear()


class _Posted(NamedTuple):
    """A slot, the receives that fill it, the epoch that they were posted in, and allowed sizes.

    Gloo takes a message that is shorter than the memory posted for it. At a longer one, which no
    rank of the same plan sends, it ends the process and writes nothing.
    """

    epoch: int
    sizes: range
    slot: Slot
    works: list[Any]


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """The memory of a contiguous tensor as bytes, without a copy."""
    return tensor.reshape(-1).view(torch.uint8)


def _ahead(size: int, window: int) -> int:
    """How many messages of `size` bytes may be on their way over one link."""
    return max(window, min(_AHEAD, _AHEAD_BYTES // max(1, size)))
