"""Join a ring of plain TCP connections: listen, reach the next rank, accept the previous one.

The ends of each connection shake hands first (:mod:`paretopipe_worker.transport.handshake`), and
strangers are turned away. The control channel is connected in the same way.
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor

from paretopipe_worker.transport.api import DeadlineExceeded, Endpoint, TransportError
from paretopipe_worker.transport.handshake import (
    HandshakeError,
    Hello,
    Identity,
    Patience,
    RunMismatch,
    Stranger,
    shake_hands,
)

_HELLO_S = 5.0
"""Time in which a peer that connects must complete the handshake; meanwhile the others wait."""
_REFUSED_S, _STRANGER_S = 0.05, 0.25
"""Pauses before the next try: where nobody listens yet, and where a stranger listens."""
_BACKLOG = 8
"""Connections that may wait to be accepted: a stranger's must not keep the neighbour's out."""
_MOST_RANKS = 1 << 16

Joined = tuple[socket.socket, Hello]
"""A connection, and the hello of its other end."""


def join(endpoint: Endpoint, deadline_s: float) -> tuple[socket.socket, socket.socket]:
    """Return the connection from the previous rank and the one to the next.

    Raises
    ------
    TransportError
        When the own address is in use or not on this host.
    DeadlineExceeded
        When a neighbour did not come in time; the text names it.
    HandshakeError
        When a neighbour disagrees or does not know the secret; each case has a class of its own.
    """
    patience = Patience(deadline_s)
    rank = endpoint.rank
    own = Identity("ring", rank, endpoint.session, endpoint.agreement, endpoint.secret)
    previous = range(rank - 1, rank) if rank else range(1, _MOST_RANKS)  # rank 0: the last rank
    with listen(endpoint.own) as listener, ThreadPoolExecutor(1, "join") as pool:
        # Both at the same time: a neighbour may accept only after it was accepted itself.
        reaching = pool.submit(reach, endpoint.next, endpoint.own[0], own, {rank + 1, 0}, patience)
        reaching.add_done_callback(lambda done: patience.give_up() if done.exception() else None)
        try:
            inbound, _ = accept(listener, own, previous, patience)
        except BaseException as error:
            patience.give_up()
            raise _cause(reaching, error) from None
        try:
            return inbound, reaching.result()[0]
        except BaseException:
            inbound.close()
            raise


def _cause(reaching: Future[Joined], error: BaseException) -> BaseException:
    """Which error of the two halves of a join to report: each half may have ended the other."""
    other = reaching.exception()
    if other is None:
        reaching.result()[0].close()
        return error
    tells = isinstance(error, HandshakeError) or not isinstance(error, TransportError)
    return error if tells and not isinstance(other, HandshakeError) else other


def listen(own: tuple[str, int]) -> socket.socket:
    """Listen at the rank's own address, and nowhere else.

    Raises
    ------
    TransportError
        When it is in use or not on this host.
    """
    listener = socket.socket(_family(own[0]), socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(own)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise TransportError(
            f"cannot listen at {own[0]}:{own[1]}: {error.strerror}; data_address must be an "
            "address of this host, and data_port and the port after it must be free"
        ) from error
    return listener


def reach(
    there: tuple[str, int], source: str, own: Identity, ranks: Collection[int], patience: Patience
) -> Joined:
    """Connect from `source` to one of `ranks`, which may not listen yet, and shake hands.

    Raises
    ------
    DeadlineExceeded
        When nobody listened until the deadline, or only strangers did.
    HandshakeError
        As :func:`shake_hands`; RunMismatch when a rank of another run listened until the deadline.
    """
    reason, stranger = "no answer", None
    while (left := patience.left_s) > 0:
        link = socket.socket(_family(there[0]), socket.SOCK_STREAM)
        try:
            link.settimeout(left)
            link.bind((source, 0))
            link.connect(there)
            tune(link)
            return link, shake_hands(link, "caller", own, ranks, patience, left)
        except OSError as error:
            link.close()
            reason = error.strerror or str(error)
            # A refusal means that it does not listen yet, and no event tells when it will.
            patience.wait(_REFUSED_S)
        except Stranger as error:
            link.close()
            reason, stranger = str(error), _telling(stranger, error)
            patience.wait(_STRANGER_S)
        except BaseException:
            link.close()
            raise
    raise _late(f"rank {own.rank} could not reach {there[0]}:{there[1]}: {reason}", stranger)


def accept(
    listener: socket.socket, own: Identity, ranks: Collection[int], patience: Patience
) -> Joined:
    """Accept the connection of one of `ranks`, and turn strangers away.

    Raises
    ------
    DeadlineExceeded
        When none of them came; the text names the last stranger that was turned away.
    HandshakeError
        As :func:`shake_hands`; RunMismatch when only ranks of another run came.
    """
    stranger = None
    while patience.left_s > 0:
        listener.settimeout(patience.slice())
        try:
            link, _ = listener.accept()
        except TimeoutError:
            continue
        try:
            tune(link)
            return link, shake_hands(link, "listener", own, ranks, patience, _HELLO_S)
        except Stranger as error:
            link.close()
            stranger = _telling(stranger, error)
        except BaseException:
            link.close()
            raise
    address = listener.getsockname()
    who = "the previous rank" if own.purpose == "ring" else f"rank {sorted(ranks)}"
    came = f"{who} did not come to {address[0]}:{address[1]}"
    raise _late(f"{came}; turned away: {stranger}" if stranger else came, stranger)


def _telling(before: Stranger | None, now: Stranger) -> Stranger:
    """The stranger to report of two: the one of another run, else the later one."""
    return before if type(before) is RunMismatch and type(now) is not RunMismatch else now


def _late(text: str, stranger: Stranger | None) -> TransportError:
    """The error for a neighbour that did not come in time."""
    return RunMismatch(text) if type(stranger) is RunMismatch else DeadlineExceeded(text)


def tune(link: socket.socket) -> None:
    """Have the kernel send small messages at once; other settings are the host's."""
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _family(address: str) -> socket.AddressFamily:
    """IPv4 or IPv6."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET
