"""The control channel: how rank 0 leads the other ranks through a session.

Every other rank has one TCP connection to rank 0, at the port after rank 0's data port. It is never
shaped, and never used while something is measured. Messages are JSON objects, one per line: rank 0
sends commands, and the other rank answers those that ask for an answer with one message.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from typing import Any

from paretopipe_worker.transport.connections import peer
from paretopipe_worker.transport.doorway import Doorway
from paretopipe_worker.transport.handshake import Identity
from paretopipe_worker.transport.patience import Patience
from paretopipe_worker.transport.reaching import reach

_HELLO_S = 10.0
"""Longest wait for the hello of a rank that has just shaken hands."""

MAX_LINE_BYTES = 1 << 20
"""Longest message accepted, so that a peer cannot fill this host's memory."""

_CHUNK_BYTES = 1 << 16

Message = dict[str, Any]


class ControlError(RuntimeError):
    """The ranks of a session cannot work together; the text says which rank, and why."""


def bounded(message: Message, key: str, least: int, most: int, peer: str) -> int:
    """A number in a message, checked because it comes from another host.

    Raises
    ------
    ControlError
        When it is missing, no whole number, or out of bounds; the text names `peer`.
    """
    value = message.get(key)
    if type(value) is not int or not least <= value <= most:
        raise ControlError(f"{peer}: sent {key} {value!r}; allowed: {least} to {most}")
    return value


class Channel:
    """One end of a control connection."""

    def __init__(self, link: socket.socket, peer: str) -> None:
        self.peer = peer
        self.hello: Message = {}
        self._link = link
        self._unread = bytearray()

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
            When the other end is gone, sent nothing within `deadline_s`, or sent no JSON object.
        """
        try:
            line = self._line(deadline_s)
        except TimeoutError:
            raise ControlError(f"{self.peer}: no answer within {deadline_s:g} s") from None
        except OSError as error:
            raise ControlError(f"{self.peer}: control connection broke: {error}") from error
        if not line:
            raise ControlError(f"{self.peer}: ended while the session was running")
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict) or not line.endswith(b"\n"):
            raise ControlError(
                f"{self.peer}: sent {line[:60]!r}; allowed: a JSON object on one line"
            )
        return message

    def _line(self, deadline_s: float | None) -> bytes:
        """Read one line, or what there is where it is too long or the other end is gone.

        The deadline is that of the whole line: a peer that sends a byte now and then is late too.
        """
        until = None if deadline_s is None else time.monotonic() + deadline_s
        while b"\n" not in self._unread and len(self._unread) < MAX_LINE_BYTES:
            left_s = None if until is None else until - time.monotonic()
            if left_s is not None and left_s <= 0:
                raise TimeoutError
            self._link.settimeout(left_s)
            part = self._link.recv(_CHUNK_BYTES)
            if not part:
                break
            self._unread += part
        end = self._unread.find(b"\n") + 1 or len(self._unread)
        line = bytes(self._unread[:end])
        del self._unread[:end]
        return line

    def fileno(self) -> int:
        """Descriptor that is readable when a message is there, while none is being received."""
        return self._link.fileno()

    def finish(self) -> None:
        """Say that this end sends nothing any more.

        Raises
        ------
        ControlError
            When the other end is gone.
        """
        try:
            self._link.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise ControlError(f"{self.peer}: control connection broke: {error}") from error

    def close(self) -> None:
        """Close the connection."""
        self._link.close()


def lead(
    address: tuple[str, int], own: Identity, hello: Message, ranks: int, deadline_s: float
) -> list[Channel]:
    """Wait, as rank 0, for all other ranks; return their channels in order of rank.

    Both sides shake hands (:mod:`paretopipe_worker.transport.handshake`), then send `hello`.

    Raises
    ------
    ControlError
        When a rank shook hands but did not send its hello.
    TransportError
        When the port is in use, or a rank did not come in time, disagreed or did not know the
        secret; the text names the rank.
    """
    patience = Patience(deadline_s)
    channels: dict[int, Channel] = {}
    with contextlib.ExitStack() as stack, Doorway(address, own) as doorway:
        while missing := set(range(1, ranks)) - set(channels):
            link, said = doorway.admit(missing, patience)
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
        When rank 0 shook hands but did not send its hello.
    TransportError
        When rank 0 could not be reached in time, disagrees or does not know the secret.
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
