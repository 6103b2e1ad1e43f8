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

from paretopipe_worker.link.conditions import Condition
from paretopipe_worker.records.probes import Datagrams
from paretopipe_worker.session.control import Channel, ControlError, bounded

COUNT = 600

_FORMAT = struct.Struct("<4sI")  # magic, number
_MAGIC = b"PPUD"
_WIRE_BITS = 8 * 74
_FASTEST_S, _SLOWEST_S = 0.002, 0.05
_READY_S = 30


def interval_s(path: Sequence[Condition]) -> float:
    """Seconds between two datagrams: enough that they hardly wait for each other."""
    jitter_s = max(condition.jitter_ms for condition in path) / 1e3
    slowest = min((c.rate_mbit for c in path if c.rate_mbit), default=1e3) * 1e6
    return min(_SLOWEST_S, max(_FASTEST_S, jitter_s / 2, 4 * _WIRE_BITS / slowest))


def send(
    path: Sequence[Condition],
    channels: Sequence[Channel],
    addresses: Sequence[tuple[str, int]],
) -> Datagrams:
    """Send the datagrams around the ring as rank 0, and ask every rank how many it received.

    Raises
    ------
    ControlError
        When a rank is lost, a port is in use, or a rank reports an impossible count.
    """
    between_s = interval_s(path)
    longest_s = sum(c.delay_ms + 6 * c.jitter_ms for c in path) / 1e3 + 0.5
    deadline_s = _READY_S + round(COUNT * between_s + longest_s)
    with _socket(addresses[0]) as link:
        for channel in channels:
            channel.send({"do": "datagrams", "deadline_s": deadline_s})
        for channel in channels:
            if "listening" not in channel.receive(_READY_S):
                raise ControlError(f"{channel.peer}: did not listen for datagrams")
        times = _exchange(link, addresses[1], addresses[-1], between_s, longest_s)
        counts = [_count(channel) for channel in channels] + [len(times)]
    return Datagrams(
        interval_ns=round(between_s * 1e9),
        sent=(COUNT, *counts[:-1]),
        received=tuple(counts),
        round_trip_ns=tuple(times),
    )


def pass_on(
    rank: int, channel: Channel, addresses: Sequence[tuple[str, int]], deadline_s: float
) -> None:
    """Forward each datagram once, as another rank, until rank 0 asks how many there were.

    Raises
    ------
    ControlError
        When rank 0 is lost, or the port is in use.
    """
    before, following = addresses[rank - 1], addresses[(rank + 1) % len(addresses)]
    seen: set[int] = set()
    with _socket(addresses[rank]) as link:
        channel.send({"listening": True})
        while True:
            waiting = [link.fileno(), channel.fileno()]
            ready, _, _ = select.select(waiting, [], [], deadline_s)
            if link.fileno() in ready:
                number = _receive(link, before)
                if number is not None and number not in seen:
                    seen.add(number)
                    link.sendto(_FORMAT.pack(_MAGIC, number), following)
            elif ready:
                channel.receive(deadline_s)
                channel.send({"received": len(seen)})
                return
            else:
                raise ControlError(f"{channel.peer}: did not ask for datagrams in {deadline_s:g} s")


def _exchange(
    link: socket.socket,
    following: tuple[str, int],
    before: tuple[str, int],
    between_s: float,
    longest_s: float,
) -> list[int]:
    """Send all datagrams on schedule; return the round trips of those that came back, in ns."""
    sent_ns: list[int] = []
    times: dict[int, int] = {}
    start = time.perf_counter()
    end = start + COUNT * between_s + longest_s
    while (now := time.perf_counter()) < end and len(times) < COUNT:
        due = start + len(sent_ns) * between_s if len(sent_ns) < COUNT else end
        if now >= due:
            sent_ns.append(time.perf_counter_ns())
            link.sendto(_FORMAT.pack(_MAGIC, len(sent_ns) - 1), following)
        elif select.select([link], [], [], due - now)[0]:
            now_ns, number = time.perf_counter_ns(), _receive(link, before)
            if number is not None and number < len(sent_ns):
                times.setdefault(number, now_ns - sent_ns[number])
    return list(times.values())


def _count(channel: Channel) -> int:
    """Ask a rank how many datagrams it received."""
    channel.send({"do": "counted"})
    return bounded(channel.receive(_READY_S), "received", 0, COUNT, channel.peer)


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
        raise ControlError(
            f"cannot bind UDP port {own[0]}:{own[1]}: {error.strerror}; a host's data port must be "
            "free for UDP as well"
        ) from error
    return link
