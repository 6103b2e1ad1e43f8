"""Measure the path between the stages with their own connections: a session's certificates.

Rank 0 leads the others through the steps over the control channel, which is never shaped. Every
wait has a deadline, and every repetition a bound. The analysis judges the numbers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from paretopipe_worker.cuts import TensorSpec
from paretopipe_worker.link.conditions import Condition
from paretopipe_worker.records.probes import Datagrams, Probe, Transfer
from paretopipe_worker.session import datagrams
from paretopipe_worker.session.control import Channel, ControlError, bounded
from paretopipe_worker.transport.api import MARK, PHASES, ProtocolError, Tag, Transport

ROUND_TRIPS, BRIEF_ROUND_TRIPS = 130, 40
TRANSFER_BYTES = (8 << 10, 32 << 10, 128 << 10, 512 << 10)
BRIEF_TRANSFER_BYTES = (8 << 10, 128 << 10)
REPEATS = 3
"""How often each size is sent over each hop."""

_SMALL_BYTES = 64
_SMALL_WIRE_BITS = 8 * 250  # as frames, with their acknowledgement and a margin
_UNDER_WAY = 20
_CHUNKS = 8
_CHUNK_BYTES = (8 << 10, 1 << 20)
_AGREE = 0.03
_LONGEST_S = 2.5
_PATIENCE_S = 30
_MAX_PATIENCE_S = 3600
_TAG = PHASES.index("warmup")


@dataclass(frozen=True)
class Pace:
    """How long the steps of a probe take.

    Parameters
    ----------
    round_trips, interval_s
        Number of small messages, and seconds between two.
    ramp_s
        Seconds after which a bulk transfer stops even if its rate still changes.
    rest_s
        Seconds before each single transfer. Hops take turns, so that each is idle for longer.
    transfer_bytes
        Sizes of single transfers.
    """

    round_trips: int
    interval_s: float
    ramp_s: float
    rest_s: float
    transfer_bytes: tuple[int, ...] = TRANSFER_BYTES


def pace(path: Sequence[Condition], round_trip_s: float, *, brief: bool = False) -> Pace:
    """Choose the pace by what was asked of a path and by one round trip.

    Where nothing was asked of the link a glance is enough. A `brief` pace is for the segments of a
    trace, of which there are many.
    """
    if not any(condition.shaped for condition in path):
        return Pace(ROUND_TRIPS, interval_s=0.001, ramp_s=0.1, rest_s=0.002)
    slowest = min((c.rate_mbit for c in path if c.rate_mbit), default=1e3) * 1e6
    interval_s = max(0.005, round_trip_s / _UNDER_WAY, 4 * _SMALL_WIRE_BITS / slowest)
    # Where chance plays a part TCP finds no steady rate, so there is none to wait for.
    erratic = any(condition.erratic for condition in path)
    most = BRIEF_ROUND_TRIPS if brief else ROUND_TRIPS
    return Pace(
        round_trips=max(_UNDER_WAY, min(most, int(20 / interval_s))),
        interval_s=interval_s,
        ramp_s=1.0 if erratic else max(2.0 if brief else 4.0, 12 * round_trip_s),
        rest_s=max(0.05, round_trip_s / 2),
        transfer_bytes=BRIEF_TRANSFER_BYTES if brief else TRANSFER_BYTES,
    )


def probe(
    after_points: int,
    path: Sequence[Condition],
    transport: Transport,
    channels: Sequence[Channel],
    addresses: Sequence[tuple[str, int]],
    segment: int | None = None,
) -> Probe:
    """Measure a ring as rank 0: bulk transfers first, which let TCP find the path's rate.

    A segment of a trace is measured in less detail. Where it leaves packets to chance it is
    measured with datagrams only, since TCP may get nothing through it.

    Parameters
    ----------
    after_points
        How many of the session's points have been measured.
    path
        What was asked of each hop: from rank 0 to 1 first, the way back last.
    channels
        Control channels to the other ranks, in order of rank.
    addresses
        Data address and port of every rank, for datagrams where a condition leaves packets to
        chance.
    segment
        The segment of the link's trace that is being held; None where it follows none.

    Raises
    ------
    TransportError, ControlError
        When a link or a rank is lost, or a rank sends something invalid.
    """
    ring = _Ring(path, transport, channels)
    hops = range(len(path))
    brief, erratic = segment is not None, any(condition.erratic for condition in path)
    if brief and erratic:
        alone = _datagrams(path, channels, addresses)
        return Probe(after_points, (), (), (), datagrams=alone, segment=segment)
    greetings, _ = ring.exchange([_SMALL_BYTES] * len(path), 2)
    chosen = pace(path, min(greetings) / 1e9, brief=brief)
    goodput = tuple(ring.goodput_mbit(hop, chosen.ramp_s) for hop in hops)
    round_trips = ring.round_trips(chosen)
    transfers = ring.transfers(goodput, min(round_trips) / 1e9, chosen)
    return Probe(
        after_points=after_points,
        round_trip_ns=round_trips,
        goodput_mbit=goodput,
        transfers=transfers,
        datagrams=_datagrams(path, channels, addresses) if erratic else None,
        segment=segment,
    )


class _Ring:
    """The ring as rank 0 drives it through a probe."""

    def __init__(
        self, path: Sequence[Condition], transport: Transport, channels: Sequence[Channel]
    ) -> None:
        self.path = path
        self.transport = transport
        self.channels = channels
        delays_s = sum(condition.delay_ms for condition in path) / 1e3
        self.deadline_s = min(_MAX_PATIENCE_S, _PATIENCE_S + round(20 * delays_s))

    def exchange(self, sizes: Sequence[int], count: int) -> tuple[tuple[int, ...], int]:
        """Send messages around the ring one at a time, with `sizes` bytes on each hop.

        Returns
        -------
        Nanoseconds of each round trip, and when the last one ended (``perf_counter_ns``).
        """
        self._pass_on(sizes, count)
        times, end_ns = [], 0
        tensor = _zeros(sizes[0])
        for number in range(count):
            start_ns = time.perf_counter_ns()
            self.transport.send(Tag(_TAG, number), [tensor])
            end_ns = self._receive(number)
            times.append(end_ns - start_ns)
        return tuple(times), end_ns

    def round_trips(self, chosen: Pace) -> tuple[int, ...]:
        """Send small messages at a steady pace, without waiting; return their round trips in ns."""
        sizes = [_SMALL_BYTES] * len(self.path)
        # The mark that ends an overlapped leg is passed on as well.
        self._pass_on(sizes, chosen.round_trips, marks=1)
        self.transport.begin(overlap=True)
        sent_ns, tensor = [], _zeros(_SMALL_BYTES)
        start = time.perf_counter()
        for number in range(chosen.round_trips):
            time.sleep(max(0.0, start + number * chosen.interval_s - time.perf_counter()))
            sent_ns.append(time.perf_counter_ns())
            self.transport.send(Tag(_TAG, number), [tensor])
        self.transport.send(MARK, ())
        times = tuple(self._receive(number) - start for number, start in enumerate(sent_ns))
        if self.transport.recv().tag != MARK:
            raise ProtocolError("a message came back where the mark was expected")
        return times

    def goodput_mbit(self, hop: int, limit_s: float) -> float:
        """Send rounds of chunks over one hop, larger ones as it turns out to be faster.

        Returns
        -------
        The rate of the last round, which was as fast as the one before unless `limit_s` was over.
        """
        asked = self.path[hop].rate_mbit
        size = least = min(_CHUNK_BYTES[0], max(256, round((asked or 1e3) * 1e6 / 8 * 0.1)))
        delays_s = sum(condition.delay_ms for condition in self.path) / 1e3
        # A round lasts 0.2 s or two round trips, so that waiting is bounded.
        round_s = max(0.2, 2 * delays_s)
        deadline, before = time.monotonic() + limit_s, 0.0
        while True:
            rate = self._round(hop, size)
            agree = abs(rate - before) <= _AGREE * rate if asked else rate <= (1 + _AGREE) * before
            wanted = min(_CHUNK_BYTES[1], round(rate * 1e6 / 8 * round_s / _CHUNKS))
            grown = wanted <= 1.1 * size
            if before and ((grown and agree) or time.monotonic() >= deadline):
                return rate
            # Doubled at most, since TCP's window grows with what was sent.
            size, before = max(least, min(2 * size, wanted)), rate

    def transfers(
        self, goodput_mbit: Sequence[float], round_trip_s: float, chosen: Pace
    ) -> tuple[Transfer, ...]:
        """Send single messages of growing size, the hops taking turns."""
        found = []
        for size in chosen.transfer_bytes:
            hops = [
                hop
                for hop, rate in enumerate(goodput_mbit)
                if round_trip_s + size * 8 / (rate * 1e6) <= _LONGEST_S
            ]
            times: dict[int, list[int]] = {hop: [] for hop in hops}
            for _ in range(REPEATS):
                for hop in hops:
                    sizes = [_SMALL_BYTES] * len(self.path)
                    sizes[hop] = size
                    # A real pause: a shaper lets a burst pass only after its path was idle.
                    time.sleep(chosen.rest_s)
                    times[hop] += self.exchange(sizes, 1)[0]
            found += [Transfer(hop, size, tuple(values)) for hop, values in times.items()]
        return tuple(found)

    def _pass_on(self, sizes: Sequence[int], count: int, marks: int = 0) -> None:
        """Have every other rank pass on `count` messages, which return here."""
        for rank, channel in enumerate(self.channels, start=1):
            self._tell(channel, "pass", sizes[rank - 1], sizes[rank], count=count + marks)
        _configure(self.transport, sizes[-1], sizes[0], self.deadline_s, count)

    def _receive(self, number: int) -> int:
        """Receive message `number` and return when it was here."""
        message = self.transport.recv()
        if message.tag != Tag(_TAG, number):
            raise ProtocolError(f"{message.tag} came back where probe {number} was expected")
        return message.received_ns

    def _round(self, hop: int, size: int) -> float:
        """Send one round of chunks over one hop; return its Mbit/s by the receiver's clock."""
        sender, receiver = hop, (hop + 1) % len(self.path)
        if receiver:
            self._tell(self.channels[receiver - 1], "receive", size, 0)
        if sender:
            self._tell(self.channels[sender - 1], "send", 0, size)
        else:
            _configure(self.transport, 0, size, self.deadline_s)
            _send_chunks(self.transport, size)
        if receiver:
            channel = self.channels[receiver - 1]
            span_ns = channel.receive(_CHUNKS * self.deadline_s).get("span_ns")
            if type(span_ns) is not int or span_ns <= 0:
                raise ControlError(f"{channel.peer}: sent {span_ns!r} as the time of a probe")
        else:
            _configure(self.transport, size, 0, self.deadline_s)
            span_ns = _receive_chunks(self.transport)
        return (_CHUNKS - 1) * size * 8e3 / span_ns

    def _tell(self, channel: Channel, do: str, inbound: int, outbound: int, count: int = 1) -> None:
        """Tell another rank to take part in one step."""
        channel.send(
            {
                "do": do,
                "inbound": inbound,
                "outbound": outbound,
                "count": count,
                "deadline_s": self.deadline_s,
            }
        )


COMMANDS = ("pass", "send", "receive", "datagrams")
"""What rank 0 may ask of another rank while it probes."""


def answer(
    command: dict[str, Any],
    rank: int,
    transport: Transport,
    channel: Channel,
    addresses: Sequence[tuple[str, int]],
) -> None:
    """Take part in one step of a probe, as another rank.

    Raises
    ------
    TransportError, ControlError
        When a link or rank 0 is lost, or a number of its command is out of bounds.
    """
    peer = channel.peer
    deadline_s = bounded(command, "deadline_s", 0, _MAX_PATIENCE_S, peer)
    if command["do"] == "datagrams":
        datagrams.pass_on(rank, channel, addresses, deadline_s)
        return
    inbound, outbound = (
        bounded(command, key, 0, _CHUNK_BYTES[1], peer) for key in ("inbound", "outbound")
    )
    count = bounded(command, "count", 0, ROUND_TRIPS + 1, peer)
    _configure(transport, inbound, outbound, deadline_s, count)
    match command["do"]:
        case "pass":
            tensor = _zeros(outbound)
            for _ in range(count):
                tag = transport.recv().tag
                transport.send(tag, () if tag == MARK else [tensor])
        case "send":
            _send_chunks(transport, outbound)
        case "receive":
            channel.send({"span_ns": _receive_chunks(transport)})


def _datagrams(
    path: Sequence[Condition], channels: Sequence[Channel], addresses: datagrams.Ends
) -> Datagrams:
    """Send datagrams around the ring, as rank 0."""
    chosen = datagrams.schedule(path)
    came = datagrams.send(chosen, channels, addresses)
    return Datagrams(round(chosen.between_s * 1e9), *came)


def _configure(
    transport: Transport, inbound: int, outbound: int, deadline_s: int, count: int = 1
) -> None:
    """Say how many bytes the messages of one step carry; 0 in a direction that is not used."""
    there, back = ([TensorSpec((size,), "uint8")] if size else [] for size in (inbound, outbound))
    transport.configure(there, back, window=max(1, count), deadline_s=deadline_s)
    transport.begin(overlap=False)


def _send_chunks(transport: Transport, size: int) -> None:
    """Send the chunks back to back."""
    tensor = _zeros(size)
    for number in range(_CHUNKS):
        transport.send(Tag(_TAG, number), [tensor])


def _receive_chunks(transport: Transport) -> int:
    """Receive the chunks; return the ns from the end of the first to the end of the last."""
    times = [transport.recv().received_ns for _ in range(_CHUNKS)]
    return times[-1] - times[0]


def _zeros(size: int) -> torch.Tensor:
    """A tensor of so many bytes."""
    return torch.zeros(size, dtype=torch.uint8)
