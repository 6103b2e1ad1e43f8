"""How tensors cross a link: one small interface, one module per backend.

The stages of a pipeline form a ring: every rank sends to the next and receives from the one
before, the last rank sends its output back to rank 0. A backend is a module with a function
``connect`` that returns a :class:`Transport`, and one entry of
`paretopipe_worker.transport.backends`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import torch

from paretopipe_worker.cuts import TensorSpec
from paretopipe_worker.transport.agreement import Agreement
from paretopipe_worker.transport.backends import BACKENDS


class TransportError(RuntimeError):
    """A link cannot be used any more: the text names the address and what happened there."""


class DeadlineExceeded(TransportError):
    """A message did not come, or could not be sent, within its deadline."""


class PeerGone(TransportError):
    """The other end closed the connection or vanished."""


class ProtocolError(TransportError):
    """The other end sent something else than the plan says comes next."""


class Tag(NamedTuple):
    """What a message is: an item of a phase by number, or the mark that ends a leg.

    `phase` is an index into :data:`PHASES`.
    """

    phase: int
    seq: int


PHASES = ("warmup", "latency", "throughput", "load", "mark")
"""What a tag may say; `mark` messages carry no tensors and travel the ring behind the last item."""

MARK = Tag(PHASES.index("mark"), 0)


class Message(NamedTuple):
    """One received message.

    `received_ns` is when its last byte was there (``perf_counter_ns``); `departed_ns` when the
    sender began to put it on the wire, on the sender's clock, None where the backend cannot tell.
    """

    tag: Tag
    tensors: tuple[torch.Tensor, ...]
    received_ns: int
    departed_ns: int | None = None


@dataclass(frozen=True)
class Counters:
    """Bytes sent so far as the kernel counts them, how many of them again, and whose it counts."""

    sent_bytes: int
    retransmitted_bytes: int | None
    counter: Literal["sockets", "interface"]


@dataclass(frozen=True)
class Endpoint:
    """One rank's place in the ring: its own listening address and the one it sends to.

    `secret` and `agreement` are what neighbours prove to know and must have alike; `ring` has the
    listening addresses of all ranks, rank 0's first, for backends whose ranks all meet.
    """

    rank: int
    own: tuple[str, int]
    next: tuple[str, int]
    session: str
    secret: bytes = field(default=b"", repr=False)
    agreement: Agreement = field(default_factory=Agreement)
    ring: tuple[tuple[str, int], ...] = ()


class Transport(Protocol):
    """One rank's two links: from the rank before, to the next one.

    Not safe for use by several threads. Every method may raise :class:`PeerGone` when the other
    end of a link is gone, also for what an earlier call handed over.
    """

    def configure(
        self,
        inbound: Sequence[TensorSpec],
        outbound: Sequence[TensorSpec],
        *,
        window: int,
        deadline_s: float,
    ) -> None:
        """Say what every message of the coming legs carries; nothing may be in flight.

        At most `window` messages are in flight in the whole ring at a time, which is what makes
        the reuse of ``window + 1`` receive buffers safe. `deadline_s` bounds each wait.
        """

    def begin(self, *, overlap: bool) -> None:
        """Start a leg, which lasts until a mark was received.

        With `overlap`, messages are received and sent while the caller computes; without it, in
        the calls themselves, which has the lower latency.
        """

    def send(self, tag: Tag, tensors: Sequence[torch.Tensor]) -> int:
        """Send one message; its tensors must not be written to until the leg has moved on.

        Returns
        -------
        int
            When the message was serialised, ready for the wire (``perf_counter_ns``).

        Raises
        ------
        DeadlineExceeded
            When the link took no more bytes for the deadline. Where others do the sending, the
            call that waits for the answer raises it.
        """

    def recv(self) -> Message:
        """Wait for the next message; its tensors are overwritten ``window + 1`` messages later.

        A message that comes before :meth:`configure` said what it carries waits for that.

        Raises
        ------
        DeadlineExceeded
            When nothing came for the deadline: no byte, or, where the backend does not see bytes,
            no message.
        ProtocolError
            When the message is not what :meth:`configure` said.
        """

    def counters(self) -> Counters:
        """Bytes sent since the start."""

    def facts(self) -> dict[str, object]:
        """Settings in force that a result depends on, for the records."""

    def close(self) -> None:
        """Close both links; further calls do nothing."""


class Connect(Protocol):
    """What each backend's module offers as ``connect``."""

    def __call__(self, endpoint: Endpoint, *, deadline_s: float) -> Transport:
        """Join the ring, waiting for the neighbours until the deadline."""


def connect(backend: str, endpoint: Endpoint, *, deadline_s: float) -> Transport:
    """Join the ring over `backend`.

    Raises
    ------
    TransportError
        When the backend is unknown or this host's torch lacks it, the own address cannot be used,
        or a neighbour does not come within the deadline.
    """
    if backend not in BACKENDS:
        raise TransportError(f"backend '{backend}' is unknown; there are: {', '.join(BACKENDS)}")
    join: Connect = importlib.import_module(BACKENDS[backend].module).connect
    return join(endpoint, deadline_s=deadline_s)
