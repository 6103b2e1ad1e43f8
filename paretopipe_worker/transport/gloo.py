"""Point-to-point messages of torch.distributed's gloo, over one TCP connection a pair of ranks.

A message is a header and the raw bytes of each tensor, each a gloo message of its own. Gloo sends
no data before the other end has said where it is to go, so receives are posted ahead.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from datetime import timedelta
from queue import SimpleQueue
from typing import Any

import torch
from torch import distributed

from paretopipe_worker.cuts import TensorSpec, payload_bytes
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
from paretopipe_worker.transport.sockets import Opened

VERSION = 1
_HEADER_TAG = 0
_FIELDS = 5  # what it carries by number, phase, seq, number of tensors, payload bytes
_HEADERS_AHEAD = 8
_AHEAD, _AHEAD_BYTES = 16, 16 << 20
"""Payloads that may come before they are asked for, as far as so many bytes hold them: a window of
them at least."""
_FOREVER = timedelta(days=30)
"""Gloo's own bound of a wait, after which it closes the connection: deadlines are kept above it."""


def connect(endpoint: Endpoint, *, deadline_s: float) -> GlooTransport:
    """Join the ring, and a process group of its ranks.

    Raises
    ------
    TransportError
        When torch is built without gloo, or as `Neighbours` and `Opened` say.
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
        self._told = {"in": 0, "out": 0}
        self._most_unsent = 1
        self._posted: SimpleQueue[_Slot | None] = SimpleQueue()
        self._filled: SimpleQueue[_Slot] = SimpleQueue()
        self._in_hand: _Slot | None = None
        self._spare: _Slot | None = None
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
        """Post receives for what is to come; what was posted before is never sent."""
        super().configure(inbound, outbound, window=window, deadline_s=deadline_s)
        # Both ends of a link count how often they were told that it carries something, so that
        # no payload is written to where one of other tensors was expected.
        self._told["in"] += bool(inbound)
        self._told["out"] += bool(outbound)
        self._most_unsent = _ahead(payload_bytes(self.outbound), window)
        self._in_hand = self._spare = None
        if inbound:
            self._spare = _Slot(inbound, self._told["in"])
            for _ in range(_ahead(payload_bytes(self.inbound), window)):
                self._post(_Slot(inbound, self._told["in"]))

    def recv(self) -> Message:
        """Return the next message, and let go of the tensors of the one before the last."""
        if self._in_hand and self._spare:
            self._post(self._spare)
            self._spare, self._in_hand = self._in_hand, None
        message = super().recv()
        if message.tensors:
            self._in_hand = self._filled.get_nowait()
        elif self.inbound and message.tag != MARK:
            raise ProtocolError(
                f"{self.neighbours.previous} announced 0 bytes where the plan says "
                f"{payload_bytes(self.inbound)}"
            )
        return message

    def facts(self) -> dict[str, object]:
        """Settings of the connections, and how far receives are posted ahead."""
        return {**super().facts(), "receives_ahead": _AHEAD}

    def _ship(self, tag: Tag, tensors: list[torch.Tensor]) -> None:
        """Send header and tensors, after the oldest of those that may be unsent."""
        while len(self._unsent) >= self._most_unsent:
            self._finish(self._unsent.popleft())
        size = sum(tensor.nbytes for tensor in tensors)
        fields = (self._told["out"], tag.phase, tag.seq, len(tensors), size)
        header = torch.tensor(fields, dtype=torch.int64)
        try:
            works = [self._group.send([header], self._to, _HEADER_TAG)]
            works += [
                self._group.send([_bytes_of(tensor)], self._to, self._told["out"])
                for tensor in tensors
                if tensor.nbytes
            ]
        except RuntimeError as error:
            raise self._lost(self.neighbours.next, error) from error
        self._unsent.append(works)

    def _finish(self, works: list[Any]) -> None:
        """Wait until a message is with the kernel."""
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
        """What to raise for an error of gloo's."""
        return self.fault or PeerGone(f"the connection with {who} broke: {first_line(error)}")

    def _post(self, slot: _Slot) -> None:
        """Say where the next payload is to go."""
        try:
            slot.works = [self._group.recv([view], self._from, slot.told) for view in slot.views]
        except RuntimeError as error:
            raise self._lost(self.neighbours.previous, error) from error
        self._posted.put(slot)

    def _ask_header(self) -> tuple[torch.Tensor, Any]:
        """Say where the next header is to go."""
        header = torch.zeros(_FIELDS, dtype=torch.int64)
        return header, self._group.recv([header], self._from, _HEADER_TAG)

    def _receive(self) -> None:
        """Receiving thread: take messages as they come, until the group is left."""
        try:
            while True:
                header, work = self._headers[0]
                work.wait(_FOREVER)
                if self.closed:
                    return
                self._headers.popleft()
                told, phase, seq, count, size = header.tolist()
                self._headers.append(self._ask_header())
                slot = self._fill(told, size) if count else None
                if count and slot is None:
                    return
                tensors = slot.tensors if slot else ()
                self.arrive(Message(Tag(phase, seq), tensors, time.perf_counter_ns()))
        except TransportError as error:
            self.lose(error)
        except RuntimeError as error:
            self.lose(self._lost(self.neighbours.previous, error))

    def _fill(self, told: int, size: int) -> _Slot | None:
        """Wait for a payload in the slot posted for it; None where the group is left."""
        while (slot := self._posted.get()) is not None and slot.told < told:
            pass
        if slot is None:
            return None
        if slot.told != told or slot.size != size:
            raise ProtocolError(
                f"{self.neighbours.previous} announced {size} bytes where the plan says {slot.size}"
            )
        for work in slot.works:
            work.wait(_FOREVER)
        self._filled.put(slot)
        return slot

    def _leave(self) -> None:
        """Wake the receiving thread and close the connections."""
        self._posted.put(None)
        self.opened.shut_down()
        self._receiver.join(timeout=5)
        self._unsent.clear()


class _Slot:
    """Memory for one inbound message, and the receives that fill it."""

    def __init__(self, specs: Sequence[TensorSpec], told: int) -> None:
        self.told = told
        self.tensors = tuple(
            torch.empty(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in specs
        )
        self.views = [_bytes_of(tensor) for tensor in self.tensors if tensor.nbytes]
        self.size = sum(view.nbytes for view in self.views)
        self.works: list[Any] = []


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """The memory of a contiguous tensor, without copying."""
    return tensor.reshape(-1).view(torch.uint8)


def _ahead(size: int, window: int) -> int:
    """How many messages of so many bytes may be under way."""
    return max(window, min(_AHEAD, _AHEAD_BYTES // max(1, size)))
