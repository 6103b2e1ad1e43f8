"""What is done with every plain TCP connection, whoever made it."""

from __future__ import annotations

import socket

from paretopipe_worker.transport.handshake import Hello

Joined = tuple[socket.socket, Hello]
"""A connection, and the hello of its other end."""


def peer(link: socket.socket) -> str:
    """Address and port of the peer, as errors name it."""
    try:
        name = link.getpeername()
    except OSError:
        return "a peer that is gone"
    return f"{name[0]}:{name[1]}" if name else "a peer without an address"


def tune(link: socket.socket) -> None:
    """Have the kernel send small messages at once; other settings are the host's."""
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def family(address: str) -> socket.AddressFamily:
    """IPv4 or IPv6."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET
