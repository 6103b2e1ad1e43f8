"""Join a ring of plain TCP connections: listen, reach the next rank, accept the one before.

Whoever meets shakes hands first (:mod:`paretopipe_worker.transport.handshake`); strangers are
turned away. The control channel meets in the same way.
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
"""Time in which who connects has to say who it is: a silent one keeps the others waiting."""
_REFUSED_S, _STRANGER_S = 0.05, 0.25
"""Pauses before another try: where nobody listens yet, and where a stranger does."""
_BACKLOG = 8
"""Connections that may wait: a stranger's must not keep the neighbour's out."""
_MOST_RANKS = 1 << 16

Joined = tuple[socket.socket, Hello]
"""A connection, and what its other end said of itself."""


def join(endpoint: Endpoint, deadline_s: float) -> tuple[socket.socket, socket.socket]:
    """Return the connection from the previous rank and the one to the next.

    Raises
    ------
    TransportError
        When the own address is in use or not on this host.
    DeadlineExceeded
        When a neighbour did not come in time; the text names it.
    HandshakeError
        When a neighbour does not agree or does not know the secret: a class for each case.
    """
    patience = Patience(deadline_s)
    rank = endpoint.rank
    own = Identity("ring", rank, endpoint.session, endpoint.agreement, endpoint.secret)
    previous = range(rank - 1, rank) if rank else range(1, _MOST_RANKS)  # the last one, whichever
    with listen(endpoint.own) as listener, ThreadPoolExecutor(1, "join") as pool:
        # At once: a neighbour that reaches for this rank does not answer before it is answered.
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
    """Of what ended the two halves of a join, which may have ended each other, what to report."""
    other = reaching.exception()
    if other is None:
        reaching.result()[0].close()
        return error
    tells = isinstance(error, HandshakeError) or not isinstance(error, TransportError)
    return error if tells and not isinstance(other, HandshakeError) else other


def listen(own: tuple[str, int]) -> socket.socket:
    """Listen at the data address, and nowhere else.

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
        When nobody, or a stranger, was there all the time.
    HandshakeError
        As :func:`shake_hands`; RunMismatch when somebody of another run was there to the end.
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
            # Refused means that it does not listen yet; there is nothing to be woken by.
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
    """Take the connection of one of `ranks`, turning strangers away.

    Raises
    ------
    DeadlineExceeded
        When none of them came; the text names who was turned away last.
    HandshakeError
        As :func:`shake_hands`; RunMismatch when nobody came but ranks of another run.
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
    """Of two strangers, the one of another run, else the latest."""
    return before if type(before) is RunMismatch and type(now) is not RunMismatch else now


def _late(text: str, stranger: Stranger | None) -> TransportError:
    """The error of a neighbour that did not come in time."""
    return RunMismatch(text) if type(stranger) is RunMismatch else DeadlineExceeded(text)


def tune(link: socket.socket) -> None:
    """Send at once; congestion control is the host's, which is set for the session."""
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _family(address: str) -> socket.AddressFamily:
    """IPv4 or IPv6."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET
