"""The control channel: how rank 0 leads the other ranks through a session.

One TCP connection from every other rank to rank 0, at the port after rank 0's data port; it is
never shaped and never used while something is measured. Messages are JSON objects, one a line:
rank 0 commands, the other answers each command with one message.
"""

from __future__ import annotations

import json
import select
import socket
import time
from typing import Any

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


def lead(address: str, port: int, hello: Message, ranks: int, deadline_s: float) -> list[Channel]:
    """Wait, as rank 0, for all other ranks; return their channels in order of rank.

    Both sides send `hello` first. A rank of another session is turned away.

    Raises
    ------
    ControlError
        When the port is in use or a rank did not come in time; the text names the missing ranks.
    """
    deadline = time.monotonic() + deadline_s
    channels: dict[int, Channel] = {}
    refused = ""
    try:
        listener = socket.create_server((address, port), family=_family(address), backlog=ranks)
    except OSError as error:
        raise ControlError(
            f"cannot listen at {address}:{port}: {error.strerror}; "
            "data_port and the port after it must be free"
        ) from error
    with listener:
        while len(channels) < ranks - 1:
            missing = sorted(set(range(1, ranks)) - set(channels))
            try:
                listener.settimeout(max(0.001, deadline - time.monotonic()))
                link, peer = listener.accept()
            except TimeoutError:
                raise ControlError(
                    f"rank {missing} did not come to {address}:{port} within {deadline_s:g} s"
                    f"{refused}"
                ) from None
            channel = Channel(link, f"{peer[0]}:{peer[1]}")
            try:
                theirs = channel.receive(5.0)
                channel.send(hello)
                if theirs.get("session") != hello["session"] or theirs.get("rank") not in missing:
                    raise ControlError(f"{channel.peer}: is of session {theirs.get('session')!r}")
            except ControlError as error:
                refused = f"; turned away: {error}"
                channel.close()
                continue
            channel.peer = f"rank {theirs['rank']} ({theirs.get('host')}, {channel.peer})"
            channels[theirs["rank"]] = channel
            channel.hello = theirs
    return [channels[rank] for rank in sorted(channels)]


def follow(address: str, port: int, source: str, hello: Message, deadline_s: float) -> Channel:
    """Connect, as any other rank, to rank 0, which may not listen yet.

    Raises
    ------
    ControlError
        When rank 0 could not be reached in time, or leads another session.
    """
    deadline = time.monotonic() + deadline_s
    reason = "no answer"
    while (left := deadline - time.monotonic()) > 0:
        try:
            link = socket.create_connection((address, port), left, (source, 0))
        except OSError as error:
            reason = error.strerror or str(error)
            # Refused means that it does not listen yet; there is nothing to be woken by.
            select.select([], [], [], min(0.05, max(0.0, deadline - time.monotonic())))
            continue
        channel = Channel(link, f"rank 0 ({address}:{port})")
        channel.send(hello)
        channel.hello = channel.receive(max(0.001, deadline - time.monotonic()))
        if channel.hello.get("session") != hello["session"]:
            channel.close()
            raise ControlError(
                f"{channel.peer}: leads session {channel.hello.get('session')!r}, "
                f"not {hello['session']!r}"
            )
        return channel
    raise ControlError(f"rank 0 could not be reached at {address}:{port}: {reason}")


def _family(address: str) -> socket.AddressFamily:
    """IPv4 or IPv6."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET
