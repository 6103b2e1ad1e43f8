"""The steps by which one host measures its way to another, and the other host's part in them.

One end conducts: it tells the other over a control channel what comes, sends, and takes the time of
what comes back. Both use one TCP connection between their data ports, as two stages of a session
do, and UDP datagrams between these ports. Every wait has a deadline.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from paretopipe_worker.link.conditions import Condition
from paretopipe_worker.records.pairs import (
    LEAST_IDLE_S,
    LONGEST_GOODPUT,
    MOST_IDLE_S,
    PATIENCE_S,
    WARM_S,
    Datagrams,
    Goodput,
    Settings,
    Transfer,
)
from paretopipe_worker.session import datagrams
from paretopipe_worker.session.control import Channel, ControlError, bounded
from paretopipe_worker.transport.api import DeadlineExceeded, PeerGone
from paretopipe_worker.transport.connections import peer
from paretopipe_worker.transport.sockets import sent_bytes

PINGS, PING_BYTES = 10, 64
MOST_BYTES, MOST_REPEATS = 100_000_000, 1000
"""Bounds of what one end may ask of the other."""

_ROUND_TRIPS = 20
_CHUNK_BYTES, _BUFFER_BYTES = 16 << 10, 256 << 10
_UNSENT_BYTES = 128 << 10
_MOST_ARRIVALS = 128
_TIMEVAL = struct.Struct("@ll")
_RTO_AT, _WINDOW_AT, _INFO_BYTES = 8, 80, 104  # in struct tcp_info
_MORE, _LAST = b"\0", b"\1"


@dataclass(frozen=True)
class Path:
    """One end of a path: the data connection, and the channel to the other end.

    `addresses` are data address and port of this host and of the other one.
    """

    data: socket.socket
    channel: Channel
    addresses: Sequence[tuple[str, int]]
    settings: Settings


def prepare(data: socket.socket) -> None:
    """Bound every wait on the data connection."""
    timeout = _TIMEVAL.pack(PATIENCE_S, 0)
    data.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
    data.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)


def ping(path: Path) -> tuple[int, ...]:
    """Send small messages one at a time; return the round trips in ns."""
    return _messages(path, PING_BYTES, PINGS).ns


def goodput(path: Path, round_trip_s: float) -> Goodput:
    """Send bulk data for as long as the settings say; the other end says when it came."""
    asked = path.settings
    lasts_s = min(
        LONGEST_GOODPUT * asked.goodput_s, max(asked.goodput_s, _ROUND_TRIPS * round_trip_s)
    )
    most_bytes = round(asked.goodput_mb * 1e6)
    path.channel.send({"do": "goodput"})
    before = sent_bytes(path.data)
    # So that little is still unsent when the time is over, however slow the path is.
    path.data.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
    chunk, sent, until = _MORE * _CHUNK_BYTES, 0, time.monotonic() + lasts_s
    while sent < most_bytes and time.monotonic() < until:
        _send(path.data, chunk)
        sent += len(chunk)
    _send(path.data, _LAST)
    path.data.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 0)
    answer = path.channel.receive(PATIENCE_S + lasts_s)
    arrivals = checked(answer, sent + 1, path.channel.peer)
    return Goodput(arrivals, sent + 1, sent_bytes(path.data)[1] - before[1])


def transfers(path: Path, rate_mbit: float, round_trip_s: float) -> tuple[Transfer, ...]:
    """Send single messages of each size: on the warm connection, then each after a pause."""
    found = []
    fitting = {}
    for size in path.settings.transfer_bytes:
        takes_s = round_trip_s + size * 8 / (rate_mbit * 1e6)
        if takes_s <= path.settings.transfer_s:
            fitting[size] = takes_s
            continue
        reason = (
            f"would take about {takes_s:.1f} s; at most {path.settings.transfer_s:g} s are allowed"
        )
        found += [Transfer(size, idle, reason=reason) for idle in (False, True)]
    for size, takes_s in fitting.items():
        repeats = max(1, min(path.settings.warm_repeats, round(WARM_S / takes_s)))
        _messages(path, size, 1)
        found.append(_messages(path, size, repeats))
    found += [_messages(path, size, path.settings.idle_repeats, idle=True) for size in fitting]
    return tuple(found)


def single_packets(path: Path, rate_mbit: float, round_trip_s: float) -> Datagrams:
    """Send datagrams that the other end sends back.

    Raises
    ------
    datagrams.PortInUse
        When a data port is taken for UDP; the two ends stay in step.
    """
    slowest = Condition(rate_mbit=min(1e5, max(1e-3, rate_mbit)))
    between_s = max(path.settings.datagram_interval_s, datagrams.interval_s([slowest]))
    chosen = datagrams.Schedule(path.settings.datagrams, between_s, 0.5 + 4 * round_trip_s)
    came = datagrams.send(chosen, [path.channel], path.addresses)
    return Datagrams(round(between_s * 1e9), came.sent[0], came.received[0], came.round_trip_ns)


def answer(command: dict[str, Any], path: Path) -> None:
    """Take part in one step, as the end that does not conduct.

    Raises
    ------
    ControlError, TransportError
        When the other end is lost, or a number of its command is out of bounds.
    """
    other = path.channel.peer
    match command.get("do"):
        case "messages":
            size = bounded(command, "bytes", 1, MOST_BYTES, other)
            buffer = memoryview(bytearray(size))
            for _ in range(bounded(command, "count", 1, MOST_REPEATS, other)):
                got = 0
                while got < size:
                    got += _receive(path.data, buffer[got:], socket.MSG_WAITALL)
                _send(path.data, _LAST)
        case "goodput":
            path.channel.send({"arrivals": _arriving(path.data)})
        case "datagrams":
            deadline_s = bounded(command, "deadline_s", 0, 3600, other)
            try:
                # Seen from the other end, this one is rank 1.
                datagrams.pass_on(1, path.channel, path.addresses[::-1], deadline_s)
            except datagrams.PortInUse:
                return  # the other end knows, and goes on
        case unknown:
            raise ControlError(
                f"{other}: asked for {str(unknown)[:60]!r}, which is no step of measuring a pair"
            )


def _messages(path: Path, size: int, count: int, *, idle: bool = False) -> Transfer:
    """Send messages of one size, each when the one before was answered."""
    # All are announced at once: before each the path shall have been idle, too.
    path.channel.send({"do": "messages", "bytes": size, "count": count})
    message, times, windows = bytes(size), [], []
    answered = memoryview(bytearray(1))
    for _ in range(count):
        if idle:
            time.sleep(_idle_s(path.data))
        start_ns = time.perf_counter_ns()
        _send(path.data, message)
        windows.append(_info(path.data, _WINDOW_AT))
        _receive(path.data, answered)
        times.append(time.perf_counter_ns() - start_ns)
    return Transfer(size, idle, tuple(times), tuple(windows))


def _idle_s(data: socket.socket) -> float:
    """Seconds after which TCP takes a connection for idle, with a margin."""
    return min(MOST_IDLE_S, max(LEAST_IDLE_S, 1.25 * _info(data, _RTO_AT) / 1e6))


def _info(data: socket.socket, offset: int) -> int:
    """A number that TCP tells of a connection."""
    info = data.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
    value: int = struct.unpack_from("=I", info, offset)[0]
    return value


def _arriving(data: socket.socket) -> list[tuple[int, int]]:
    """Receive bulk data to its end; return when how much had come, at evenly thinned times."""
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    arrivals: list[tuple[int, int]] = []
    total, start_ns, due_ns, gap_ns, now_ns = 0, 0, 0, 1_000_000, 0
    while True:
        count = _receive(data, buffer)
        now_ns = time.perf_counter_ns()
        start_ns = start_ns or now_ns
        total += count
        last = buffer[count - 1] == _LAST[0]
        if last or now_ns >= due_ns:
            arrivals.append((now_ns - start_ns, total))
            due_ns = now_ns + gap_ns
        if last:
            return arrivals
        if len(arrivals) == _MOST_ARRIVALS:
            arrivals, gap_ns = arrivals[::2], 2 * gap_ns


def checked(message: dict[str, Any], sent: int, other: str) -> tuple[tuple[int, int], ...]:
    """Check what the other end says of its arrivals, because it comes from another host."""
    try:
        found = tuple((ns, count) for ns, count in message["arrivals"])
    except (KeyError, TypeError, ValueError):
        found = ()
    if any(type(number) is not int for entry in found for number in entry):
        found = ()
    rising = all(
        before[0] <= after[0] and before[1] <= after[1] for before, after in pairwise(found)
    )
    if not 1 <= len(found) <= _MOST_ARRIVALS or not rising or found[0][0] or found[-1][1] != sent:
        raise ControlError(
            f"{other}: sent {str(message)[:60]} as its arrivals; allowed: rising pairs of ns from "
            f"0 on and bytes up to {sent}"
        )
    return found


def _send(data: socket.socket, message: bytes) -> None:
    """Send all of a message."""
    try:
        data.sendall(message)
    except BlockingIOError:
        raise DeadlineExceeded(f"{peer(data)} took nothing for {PATIENCE_S} s") from None
    except OSError as error:
        raise PeerGone(f"the connection to {peer(data)} broke: {error}") from error


def _receive(data: socket.socket, buffer: memoryview, flags: int = 0) -> int:
    """Receive at least one byte."""
    try:
        count = data.recv_into(buffer, 0, flags)
    except BlockingIOError:
        raise DeadlineExceeded(f"nothing came from {peer(data)} for {PATIENCE_S} s") from None
    except OSError as error:
        raise PeerGone(f"the connection from {peer(data)} broke: {error}") from error
    if count == 0:
        raise PeerGone(f"{peer(data)} closed its connection")
    return count
