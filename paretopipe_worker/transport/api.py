"""How tensors cross a link: the interface that every backend implements.

The stages of a pipeline form a ring: each rank sends to the next rank and receives from the
previous one, and the last rank sends its output back to rank 0.

A backend is a module with a function ``connect``, which follows :class:`Connect` and returns a
:class:`Transport`, and a number ``VERSION``, the version of what it puts on the wire. An entry in
`paretopipe_worker.transport.backends` gives it the name that specs use.

A session uses a transport in this order, and every rank does the same::

    transport = connect(backend, endpoint, deadline_s=...)
    for each point:
        transport.configure(...)         what a message carries there
        for each leg of the point:
            transport.begin(...)
            transport.send(...) and transport.recv(), as items move
            a message tagged MARK, which travels once around the ring and ends the leg
    transport.close()

For examples see `paretopipe_worker.transport.tcp`, which uses sockets of its own, and
`paretopipe_worker.transport.gloo`, which uses a library that opens its own connections.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, Self

from paretopipe_worker.cuts import TensorSpec
from paretopipe_worker.transport.agreement import Agreement
from paretopipe_worker.transport.backends import BACKENDS

if TYPE_CHECKING:  # whoever only measures a path, as `session.pair` does, needs no torch
    import torch


class TransportError(RuntimeError):
    """A link cannot be used any more; the text names the address and what happened there."""


class DeadlineExceeded(TransportError):
    """A message did not arrive, or could not be sent, within its deadline."""


class PeerGone(TransportError):
    """The peer closed the connection or vanished."""


class ProtocolError(TransportError):
    """A message is not the one that the plan says comes next."""

    @classmethod
    def unplanned(cls, size: int, peer: str, planned: range) -> Self:
        """The error of a message that this rank was to send to `peer`; sizes in bytes."""
        return cls(
            f"a message of {size} bytes to {peer} is not what the plan says: {_told(planned)}"
        )

    @classmethod
    def announced(cls, size: int, peer: str, planned: range) -> Self:
        """The error of a message that came from `peer`; sizes in bytes."""
        return cls(f"{peer} announced {size} bytes where the plan says {_told(planned)}")


def _told(sizes: range) -> str:
    return f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else f"{sizes[0]}"


NO_BYTES = range(1)
"""The sizes that the tensors of a mark may have together."""


class Tag(NamedTuple):
    """What a message is: an item of a phase, or the mark that ends a leg.

    Attributes
    ----------
    phase
        Index into :data:`PHASES`.
    seq
        Number of the item; 0 for a mark.
    """

    phase: int
    seq: int


PHASES = ("warmup", "latency", "throughput", "load", "mark")
"""What the phase of a tag may be. A message tagged ``mark`` carries no tensors and follows the last
item of a leg around the ring."""

MARK = Tag(PHASES.index("mark"), 0)
"""The tag of every mark."""


class Message(NamedTuple):
    """One received message.

    Attributes
    ----------
    tag, tensors
        What the sender gave to :meth:`Transport.send`; the tensors are contiguous and on the CPU.
    received_ns
        When the message's last byte had arrived (``perf_counter_ns`` of this host). In an
        overlapped leg that may be long before :meth:`Transport.recv` returns the message.
    departed_ns
        When the sender began to put the message on the wire (``perf_counter_ns`` of the sender's
        host); None where the backend does not know.
    """

    tag: Tag
    tensors: tuple[torch.Tensor, ...]
    received_ns: int
    departed_ns: int | None = None


@dataclass(frozen=True)
class Counters:
    """What this rank has sent since it connected, as the kernel counted it.

    Attributes
    ----------
    sent_bytes
        Bytes of TCP payload, retransmissions included. It must grow by the tensors' bytes and the
        framing that the backend's entry in `paretopipe_worker.transport.backends` allows.
    retransmitted_bytes
        How many of them were retransmissions; None where that is not known.
    counter
        Whether the kernel counted the transport's own sockets or all traffic of the interface.
    """

    sent_bytes: int
    retransmitted_bytes: int | None
    counter: Literal["sockets", "interface"]


@dataclass(frozen=True)
class Endpoint:
    """One rank's place in the ring.

    Attributes
    ----------
    rank
        This rank; 0 is the source.
    own
        Address and port at which this rank listens, and nowhere else.
    next
        Address and port of the next rank.
    session
        Name of run, session and attempt, which all ranks must have alike.
    secret
        The run's secret, which neighbours prove to know.
    agreement
        What neighbours must have alike, see :class:`Agreement`.
    ring
        Addresses and ports of all ranks, rank 0's first.
    """

    rank: int
    own: tuple[str, int]
    next: tuple[str, int]
    session: str
    secret: bytes = field(default=b"", repr=False)
    agreement: Agreement = field(default_factory=Agreement)
    ring: tuple[tuple[str, int], ...] = ()


class Transport(Protocol):
    """One rank's two links: the inbound one from the previous rank, the outbound one to the next.

    One thread at a time uses a transport. Every method may raise :class:`PeerGone` as soon as a
    neighbour is gone, also where only the message of an earlier call is affected. After a
    :class:`TransportError` the transport can only be closed.

    While no message is on its way, a transport sends nothing: legs are timed, and their bytes are
    held against the plan.
    """

    def configure(
        self,
        inbound: Sequence[TensorSpec],
        outbound: Sequence[TensorSpec],
        *,
        window: int,
        deadline_s: float,
    ) -> None:
        """Set what every message of the coming legs carries, marks apart.

        The caller makes sure that nothing is in flight. Each rank configures by itself, so a
        neighbour's first message may arrive earlier; it waits until this call says what it carries.

        Parameters
        ----------
        inbound, outbound
            Shapes and dtypes of a message's tensors, in order, on each of the two links. Empty
            where items carry no tensors. One :class:`~paretopipe_worker.cuts.Varying` alone stands
            for a tensor of bytes whose number differs from message to message. Memory is taken for
            the most, before the first message; a peer that announces more is refused.
        window
            The largest number of messages that are in flight in the whole ring at any time.
        deadline_s
            Bound of each wait, in seconds. Where a backend sees bytes it also bounds a message: one
            that is not whole so long after its first byte may be given up.
        """

    def begin(self, *, overlap: bool) -> None:
        """Start a leg, which lasts until this rank has received the mark.

        Parameters
        ----------
        overlap
            True for throughput: messages are also received and sent while the caller computes.
            False for latency: all I/O happens inside :meth:`send` and :meth:`recv`, where the
            backend can do that, since handing a message to another thread costs time.
        """

    def send(self, tag: Tag, tensors: Sequence[torch.Tensor]) -> int:
        """Send one message to the next rank.

        Parameters
        ----------
        tag
            What the message is.
        tensors
            The tensors that :meth:`configure` named as outbound, contiguous or not; none with
            :data:`MARK`. The transport may read their memory until the message has come around the
            ring, so the caller must not write to it before.

        Returns
        -------
        int
            When the message was serialised and ready for the wire (``perf_counter_ns``).

        Raises
        ------
        ProtocolError
            When the message is not what :meth:`configure` said. Nothing is sent then.
        DeadlineExceeded
            When the link took no more bytes for the deadline. Where another thread sends, the next
            :meth:`send` or :meth:`recv` raises it.
        """

    def recv(self) -> Message:
        """Wait for the next message from the previous rank; messages keep their order.

        Returns
        -------
        Message
            Its tensors stay valid while the next `window` messages arrive; the message after those
            may overwrite them. `paretopipe_worker.transport.slots` has such memory.

        Raises
        ------
        DeadlineExceeded
            When nothing arrived for the deadline (no byte, or no message where the backend does not
            see bytes), or a message that began to come did not end in time.
        ProtocolError
            When the message is not what :meth:`configure` said. A backend over sockets of its own
            raises it before it allocates memory for a size that the peer announced.
        """

    def counters(self) -> Counters:
        """What this rank has sent since it connected."""

    def facts(self) -> dict[str, object]:
        """Settings in force that a result depends on, for the records: names to JSON values.

        `congestion_control` and `send_buffer_bytes` must be among them.
        """

    def close(self) -> None:
        """Close both links and end all threads; further calls do nothing."""


class Connect(Protocol):
    """The function ``connect`` of a backend's module."""

    def __call__(self, endpoint: Endpoint, *, deadline_s: float) -> Transport:
        """Join the ring.

        It listens at `endpoint.own` alone, and returns when both links stand and both neighbours
        have shown that they belong here: :func:`paretopipe_worker.transport.ring.join` does that
        for plain sockets, `paretopipe_worker.transport.group.Neighbours` beside a library's.

        Parameters
        ----------
        endpoint
            This rank's place in the ring.
        deadline_s
            Longest time to wait for the neighbours, in seconds.

        Raises
        ------
        TransportError
            As :func:`connect` of this module.
        """


def connect(backend: str, endpoint: Endpoint, *, deadline_s: float) -> Transport:
    """Join the ring over `backend`; the parameters are those of :class:`Connect`.

    Raises
    ------
    TransportError
        When the backend is unknown, or this host's torch lacks it; when the own address is in use
        or not on this host; when a neighbour does not come within the deadline, or must not be
        worked with. The text names the address.
    """
    if backend not in BACKENDS:
        raise TransportError(f"backend '{backend}' is unknown; allowed are: {', '.join(BACKENDS)}")
    join: Connect = importlib.import_module(BACKENDS[backend].module).connect
    return join(endpoint, deadline_s=deadline_s)
