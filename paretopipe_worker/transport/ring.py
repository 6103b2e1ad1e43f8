"""Join a ring of plain TCP connections: listen, reach the next rank, accept the one before.

Whoever connects says first which session it is of; strangers are turned away.
"""

from __future__ import annotations

import hashlib
import select
import socket
import struct
import time

from paretopipe_worker.transport import DeadlineExceeded, Endpoint, TransportError

_MAGIC = b"PPRH"
_VERSION = 1
_HELLO = struct.Struct("<4sHH32s")  # magic, version, sender's rank, digest of the session
_TIMEVAL = struct.Struct("@ll")
_HELLO_S = 5
_BACKLOG = 8
"""Connections that may wait: a stranger's must not keep the neighbour's out."""


def join(endpoint: Endpoint, deadline_s: float) -> tuple[socket.socket, socket.socket]:
    """Return the connection from the previous rank and the one to the next.

    Raises
    ------
    TransportError
        When the own address is in use or not on this host.
    DeadlineExceeded
        When a neighbour did not come in time; the text names it.
    """
    deadline = time.monotonic() + deadline_s
    with _listen(endpoint.own) as listener:
        outbound = _reach(endpoint, deadline)
        try:
            inbound = _accept(listener, endpoint, deadline)
        except BaseException:
            outbound.close()
            raise
    return inbound, outbound


def peer(link: socket.socket) -> str:
    """Address of the other end, as errors name it."""
    try:
        address = link.getpeername()
    except OSError:
        return "a peer that is gone"
    return f"{address[0]}:{address[1]}"


def _session_digest(session: str) -> bytes:
    """What both ends of a link must agree on before they are joined."""
    return hashlib.sha256(session.encode()).digest()


def _listen(own: tuple[str, int]) -> socket.socket:
    """Listen at the data address, and nowhere else."""
    family = socket.AF_INET6 if ":" in own[0] else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
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


def _reach(endpoint: Endpoint, deadline: float) -> socket.socket:
    """Connect to the next rank, which may not listen yet, and say who calls."""
    host, port = endpoint.next
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    reason = "no answer"
    while (left := deadline - time.monotonic()) > 0:
        link = socket.socket(family, socket.SOCK_STREAM)
        link.settimeout(left)
        try:
            link.bind((endpoint.own[0], 0))
            link.connect((host, port))
            tune(link)
            digest = _session_digest(endpoint.session)
            link.sendall(_HELLO.pack(_MAGIC, _VERSION, endpoint.rank, digest))
            link.settimeout(None)
            return link
        except OSError as error:
            reason = error.strerror or str(error)
            link.close()
            # Refused means that it does not listen yet; there is nothing to be woken by.
            select.select([], [], [], min(0.05, max(0.0, deadline - time.monotonic())))
    raise DeadlineExceeded(f"rank {endpoint.rank} could not reach {host}:{port}: {reason}")


def _accept(listener: socket.socket, endpoint: Endpoint, deadline: float) -> socket.socket:
    """Take the connection of this session's previous rank, turning strangers away."""
    wanted = (_MAGIC, _VERSION, _session_digest(endpoint.session))
    turned_away = ""
    while (left := deadline - time.monotonic()) > 0:
        listener.settimeout(left)
        try:
            link, address = listener.accept()
        except TimeoutError:
            break
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(_HELLO_S, 0))
        try:
            hello = link.recv(_HELLO.size, socket.MSG_WAITALL)
            magic, version, _, digest = _HELLO.unpack(hello)
        except (OSError, struct.error):
            magic, version, digest = b"", 0, b""
        if (magic, version, digest) == wanted:
            tune(link)
            return link
        turned_away = f"; turned away {address[0]}:{address[1]}, which is of another session"
        link.close()
    raise DeadlineExceeded(
        f"the previous rank did not connect to {endpoint.own[0]}:{endpoint.own[1]}{turned_away}"
    )


def tune(link: socket.socket) -> None:
    """Send at once; congestion control is the host's, which is set for the session."""
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
