"""The control channel: how rank 0 leads the other ranks through a session.

One TCP connection from every other rank to rank 0, at the port after rank 0's data port; it is
never shaped and never used while something is measured. Messages are JSON objects, one a line:
rank 0 commands, the other answers each command with one message.
"""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Any

from paretopipe_worker.transport.handshake import Identity, Patience, peer
from paretopipe_worker.transport.ring import accept, listen, reach

_HELLO_S = 10.0
"""Longest wait for the hello of a rank that has just proved who it is."""

MAX_LINE_BYTES = 1 << 20
"""Longest message taken: what a peer sends is bounded before memory is."""

Message = dict[str, Any]


class ControlError(RuntimeError):
    """The ranks of a session cannot work together: which one, and why."""


class Channel:
    """One end of a control connection."""

    def __init__(self, link: socket.socket, peer: str) -> None:
        self.peer = peer
        self.hello: Message = {}
        self._link = link
        self._lines = link.makefile("rb")

    def send(self, message: Message) -> None:
        """Send one message.

        Raises
        ------
        ControlError
            When the other end is gone.
        """
        try:
            self._link.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise ControlError(f"{self.peer}: control connection broke: {error}") from error

    def receive(self, deadline_s: float | None) -> Message:
        """Wait for the next message.

        Raises
        ------
        ControlError
            When the other end is gone, sent no message within `deadline_s`, or no JSON object.
        """
        try:
            self._link.settimeout(deadline_s)
            line = self._lines.readline(MAX_LINE_BYTES)
        except TimeoutError:
            raise ControlError(f"{self.peer}: no answer within {deadline_s:g} s") from None
        except OSError as error:
            raise ControlError(f"{self.peer}: control connection broke: {error}") from error
        if not line:
            raise ControlError(f"{self.peer}: ended while the session was running")
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict) or not line.endswith(b"\n"):
            raise ControlError(f"{self.peer}: sent something that is no message: {line[:60]!r}")
        return message

    def fileno(self) -> int:
        """Descriptor to wait for the next message with, while none is being received."""
        return self._link.fileno()

    def close(self) -> None:
        """Close the connection."""
        self._lines.close()
        self._link.close()


def lead(
    address: tuple[str, int], own: Identity, hello: Message, ranks: int, deadline_s: float
) -> list[Channel]:
    """Wait, as rank 0, for all other ranks; return their channels in order of rank.

    Both sides shake hands (:mod:`paretopipe_worker.transport.handshake`), then send `hello`.

    Raises
    ------
    ControlError
        When a rank, once there, did not say its hello.
    TransportError
        When the port is in use, a rank did not come in time, did not agree or did not know the
        secret; the text names the rank.
    """
    patience = Patience(deadline_s)
    channels: dict[int, Channel] = {}
    with contextlib.ExitStack() as stack, listen(address) as listener:
        while missing := set(range(1, ranks)) - set(channels):
            link, said = accept(listener, own, missing, patience)
            channel = stack.enter_context(contextlib.closing(Channel(link, f"rank {said.rank}")))
            channel.send(hello)
            channel.hello = channel.receive(_HELLO_S)
            channel.peer = f"rank {said.rank} ({channel.hello.get('host')}, {peer(link)})"
            channels[said.rank] = channel
        stack.pop_all()
    return [channels[rank] for rank in sorted(channels)]


def follow(
    address: tuple[str, int], source: str, own: Identity, hello: Message, deadline_s: float
) -> Channel:
    """Connect, as any other rank, to rank 0, which may not listen yet.

    Raises
    ------
    ControlError
        When rank 0, once reached, did not say its hello.
    TransportError
        When rank 0 could not be reached in time, does not agree or does not know the secret.
    """
    link, _ = reach(address, source, own, {0}, Patience(deadline_s))
    channel = Channel(link, f"rank 0 ({address[0]}:{address[1]})")
    try:
        channel.send(hello)
        channel.hello = channel.receive(_HELLO_S)
    except ControlError:
        channel.close()
        raise
    return channel
