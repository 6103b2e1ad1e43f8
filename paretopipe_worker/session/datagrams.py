"""Probe the ring with UDP datagrams, which show how it treats single packets.

Where packets are lost or delayed at random, transfer times over TCP say little about the path. The
datagrams travel between data ports, so that the link treats them like the stages' own packets.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from paretopipe_worker.link.conditions import Condition
from paretopipe_worker.session.control import Channel, ControlError, bounded

COUNT = 600
"""How many a session sends, and the most that are sent."""

Ends = Sequence[tuple[str, int]]
"""Data address and port of every rank."""

_FORMAT = struct.Struct("<4sI")  # magic, number
_MAGIC = b"PPUD"
_WIRE_BITS = 8 * 74
_FASTEST_S, _SLOWEST_S = 0.002, 0.05
_READY_S = 30


class PortInUse(ControlError):
    """A host's data port cannot be had for UDP; the ranks stay in step."""


@dataclass(frozen=True)
class Schedule:
    """How many datagrams are sent, seconds between two, and how long the last may take."""

    count: int
    between_s: float
    longest_s: float


class Came(NamedTuple):
    """What became of them: counts by hop without duplicates, and round trips in ns.

    The round trips are those of the datagrams that came back, in the order in which they came.
    """

    sent: tuple[int, ...]
    received: tuple[int, ...]
    round_trip_ns: tuple[int, ...]


def schedule(path: Sequence[Condition]) -> Schedule:
    """Choose the schedule by what was asked of each hop."""
    longest_s = sum(c.delay_ms + 6 * c.jitter_ms for c in path) / 1e3 + 0.5
    return Schedule(COUNT, interval_s(path), longest_s)


def interval_s(path: Sequence[Condition]) -> float:
    """Seconds between two datagrams: enough that they hardly wait for each other."""
    jitter_s = max(condition.jitter_ms for condition in path) / 1e3
    slowest = min((c.rate_mbit for c in path if c.rate_mbit), default=1e3) * 1e6
    return min(_SLOWEST_S, max(_FASTEST_S, jitter_s / 2, 4 * _WIRE_BITS / slowest))


def send(chosen: Schedule, channels: Sequence[Channel], addresses: Ends) -> Came:
    """Send the datagrams around the ring as rank 0, and ask every rank how many it received.

    Raises
    ------
    PortInUse
        When a data port is taken, here or at another rank.
    ControlError
        When a rank is lost, or reports an impossible count.
    """
    deadline_s = _READY_S + round(chosen.count * chosen.between_s + chosen.longest_s)
    with _socket(addresses[0]) as link:
        for channel in channels:
            channel.send({"do": "datagrams", "deadline_s": deadline_s})
        answers = [(channel, channel.receive(_READY_S)) for channel in channels]
        for channel, answer in answers:
            if "listening" not in answer:
                said = answer.get("failed") or "did not listen for datagrams"
                raise PortInUse(f"{channel.peer}: {said}")
        times = _exchange(link, addresses[1], addresses[-1], chosen)
        counts = [_count(channel, chosen.count) for channel in channels] + [len(times)]
    return Came((chosen.count, *counts[:-1]), tuple(counts), tuple(times))


def pass_on(rank: int, channel: Channel, addresses: Ends, deadline_s: float) -> None:
    """Forward each datagram once, as another rank, until rank 0 asks how many there were.

    Raises
    ------
    PortInUse
        When the port is taken here; rank 0 has been told.
    ControlError
        When rank 0 is lost.
    """
    before, following = addresses[rank - 1], addresses[(rank + 1) % len(addresses)]
    seen: set[int] = set()
    until_s = time.monotonic() + 2 * deadline_s
    try:
        link = _socket(addresses[rank])
    except PortInUse as error:
        channel.send({"failed": str(error)})
        raise
    with link:
        channel.send({"listening": True})
        while True:
            waiting = [link.fileno(), channel.fileno()]
            ready, _, _ = select.select(waiting, [], [], deadline_s)
            if channel.fileno() in ready:
                # Of what came before, so many can be ours. Strangers may send without end.
                for _ in range(COUNT):
                    if not select.select([link], [], [], 0)[0]:
                        break
                    _forward(link, before, following, seen)
                channel.receive(deadline_s)
                channel.send({"received": len(seen)})
                return
            if ready:
                _forward(link, before, following, seen)
            if not ready or time.monotonic() > until_s:
                raise ControlError(f"{channel.peer}: did not ask for datagrams in {deadline_s:g} s")


def _forward(
    link: socket.socket, before: tuple[str, int], following: tuple[str, int], seen: set[int]
) -> None:
    """Receive a datagram, and send it on where it is one of ours that was not seen yet."""
    number = _receive(link, before)
    if number is not None and number not in seen:
        seen.add(number)
        link.sendto(_FORMAT.pack(_MAGIC, number), following)


def _exchange(
    link: socket.socket,
    following: tuple[str, int],
    before: tuple[str, int],
    chosen: Schedule,
) -> list[int]:
    """Send all datagrams on schedule; return the round trips of those that came back, in ns."""
    sent_ns: list[int] = []
    times: dict[int, int] = {}
    start = time.perf_counter()
    count, between_s = chosen.count, chosen.between_s
    end = start + count * between_s + chosen.longest_s
    while (now := time.perf_counter()) < end and len(times) < count:
        due = start + len(sent_ns) * between_s if len(sent_ns) < count else end
        if now >= due:
            sent_ns.append(time.perf_counter_ns())
            link.sendto(_FORMAT.pack(_MAGIC, len(sent_ns) - 1), following)
        elif select.select([link], [], [], due - now)[0]:
            now_ns, number = time.perf_counter_ns(), _receive(link, before)
            if number is not None and number < len(sent_ns):
                times.setdefault(number, now_ns - sent_ns[number])
    return list(times.values())


def _count(channel: Channel, most: int) -> int:
    """Ask a rank how many datagrams it received."""
    channel.send({"do": "counted"})
    return bounded(channel.receive(_READY_S), "received", 0, most, channel.peer)


def _receive(link: socket.socket, sender: tuple[str, int]) -> int | None:
    """Receive a datagram and return its number; None where it is not one of ours."""
    data, address = link.recvfrom(64)
    if address[:2] != sender or len(data) != _FORMAT.size:
        return None
    magic, number = _FORMAT.unpack(data)
    return number if magic == _MAGIC and number < COUNT else None


def _socket(own: tuple[str, int]) -> socket.socket:
    """A UDP socket at a rank's data port."""
    link = socket.socket(socket.AF_INET6 if ":" in own[0] else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        link.bind(own)
    except OSError as error:
        link.close()
        raise PortInUse(
            f"cannot bind UDP port {own[0]}:{own[1]}: {error.strerror}; a host's data port must be "
            "free for UDP as well"
        ) from error
    return link
