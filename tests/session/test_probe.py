"""Probes of the path over real sockets: complete and bounded, on rings of any length."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from paretopipe_worker.link.conditions import Condition
from paretopipe_worker.records.probes import Probe
from paretopipe_worker.session import datagrams
from paretopipe_worker.session.control import Channel, ControlError
from paretopipe_worker.session.probe import (
    BRIEF_ROUND_TRIPS,
    BRIEF_TRANSFER_BYTES,
    REPEATS,
    ROUND_TRIPS,
    TRANSFER_BYTES,
    answer,
    pace,
    probe,
)
from paretopipe_worker.transport.api import Endpoint, Transport
from tests.helpers.rings import free_ports, joined, ring

pytestmark = pytest.mark.slow

OPEN = Condition()


@contextlib.contextmanager
def led(ranks: int, segment: int | None = None) -> Iterator[Callable[[Sequence[Condition]], Probe]]:
    """Ranks that answer probes, each in a thread of its own; yields rank 0's call."""
    addresses = [("127.0.0.1", port) for port in free_ports(ranks)]
    ends = [
        Endpoint(rank, addresses[rank], addresses[(rank + 1) % ranks], "test")
        for rank in range(ranks)
    ]

    def follow(rank: int, transport: Transport, channel: Channel) -> None:
        while (command := channel.receive(30))["do"] != "end":
            answer(command, rank, transport, channel, addresses)

    with (
        ThreadPoolExecutor(ranks) as pool,
        joined("tcp", ends) as transports,
        contextlib.ExitStack() as stack,
    ):
        channels, done = [], []
        for rank, transport in enumerate(transports[1:], start=1):
            here, there = (Channel(link, f"rank {rank}") for link in socket.socketpair())
            stack.callback(here.close)
            stack.callback(there.close)
            channels.append(here)
            done.append(pool.submit(follow, rank, transport, there))
        yield lambda path: probe("before", path, transports[0], channels, addresses, segment)
        for channel, future in zip(channels, done, strict=True):
            channel.send({"do": "end"})
            future.result(timeout=30)


@pytest.mark.parametrize("ranks", [2, 3])
def test_every_part_is_measured_on_every_hop(ranks: int) -> None:
    with led(ranks) as measure:
        for _ in range(2):
            found = measure([OPEN] * ranks)
            assert len(found.round_trip_ns) == ROUND_TRIPS and min(found.round_trip_ns) > 0
            assert len(found.goodput_mbit) == ranks and min(found.goodput_mbit) > 0
            parts = [(part.bytes, part.hop, len(part.ns)) for part in found.transfers]
            assert parts == [(s, hop, REPEATS) for s in TRANSFER_BYTES for hop in range(ranks)]
            assert found.datagrams is None


def test_datagrams_go_around_where_the_link_is_left_to_chance() -> None:
    with led(3) as measure:
        found = measure([OPEN, Condition(loss_percent=1), OPEN]).datagrams
    assert found is not None
    assert found.sent[0] == datagrams.COUNT
    # The loopback interface loses none, unless its buffers are full.
    assert datagrams.COUNT >= found.received[0] == found.sent[1] >= found.received[1]
    assert len(found.round_trip_ns) == found.received[2] > 0
    assert min(found.round_trip_ns) > 0


def test_a_segment_of_a_trace_is_measured_in_less_detail() -> None:
    with led(2, segment=3) as measure:
        found = measure([Condition(delay_ms=1), OPEN])
        lossy = measure([Condition(loss_percent=1), OPEN])
    assert (found.segment, lossy.segment) == (3, 3)
    assert len(found.round_trip_ns) == BRIEF_ROUND_TRIPS
    assert {part.bytes for part in found.transfers} == set(BRIEF_TRANSFER_BYTES)
    # TCP may get nothing through it.
    assert (lossy.round_trip_ns, lossy.goodput_mbit, lossy.transfers) == ((), (), ())
    assert lossy.datagrams is not None


def test_the_pace_has_messages_under_way_and_bounds() -> None:
    shaped = Condition(delay_ms=200)
    slow = pace([shaped, shaped], 0.4)
    assert slow.round_trips == ROUND_TRIPS
    assert 1 < 0.4 / slow.interval_s <= 20 and slow.round_trips * slow.interval_s < 5
    crawling = pace([Condition(rate_mbit=0.001)] * 2, 2.0)
    assert crawling.round_trips * crawling.interval_s < 200
    assert pace([OPEN, OPEN], 0.0001).ramp_s < 0.5
    # A jitter as large as the gap would have datagrams wait for each other.
    assert datagrams.interval_s([Condition(delay_ms=50, jitter_ms=20), OPEN]) == 0.01
    assert datagrams.interval_s([OPEN, Condition(rate_mbit=0.001)]) == 0.05


@pytest.mark.parametrize(
    "command",
    [
        {"do": "pass", "inbound": 1 << 30},
        {"do": "send", "outbound": -1},
        {"do": "pass", "count": 10**9},
        {"do": "receive", "inbound": "many"},
        {"do": "pass", "deadline_s": 10**9},
        {"do": "datagrams", "deadline_s": None},
    ],
    ids=range(6),
)
def test_a_command_out_of_bounds_is_refused(command: dict[str, Any]) -> None:
    full = {"inbound": 64, "outbound": 64, "count": 1, "deadline_s": 5} | command
    link, other = socket.socketpair()
    with (
        link,
        other,
        ring("tcp") as (_, transport),
        pytest.raises(ControlError, match=r"^rank 0: sent \w+ .*; allowed: 0 to \d+$"),
    ):
        answer(full, 1, transport, Channel(link, "rank 0"), [("127.0.0.1", 1)] * 2)


def test_a_udp_port_in_use_is_named() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        addresses = [taken.getsockname(), ("127.0.0.1", 1)]
        with pytest.raises(
            ControlError, match=rf"cannot bind UDP port 127.0.0.1:{addresses[0][1]}"
        ):
            datagrams.send(datagrams.schedule([OPEN, OPEN]), [], addresses)


@pytest.mark.parametrize("count", [-1, 601, "all", None])
def test_a_count_that_makes_no_sense_is_refused(count: object) -> None:
    here, there = socket.socketpair()
    addresses = [("127.0.0.1", port) for port in free_ports(2)]
    with there, ThreadPoolExecutor(1) as pool:
        channel, other = Channel(here, "rank 1"), Channel(there, "rank 0")

        def lie() -> None:
            other.receive(30)
            other.send({"listening": True})
            other.receive(60)
            other.send({"received": count})

        lying = pool.submit(lie)
        with pytest.raises(ControlError, match=r"rank 1: sent received .*; allowed: 0 to 600"):
            datagrams.send(datagrams.schedule([OPEN, OPEN]), [channel], addresses)
        lying.result(timeout=30)
        channel.close()


def test_datagrams_of_strangers_without_end_do_not_keep_rank_0_waiting() -> None:
    addresses = [("127.0.0.1", port) for port in free_ports(2)]
    here, there = socket.socketpair()
    over = threading.Event()

    def flood() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            while not over.is_set():
                stranger.sendto(b"PPUD\0\0\0\0", addresses[1])

    with here, there, ThreadPoolExecutor(2) as pool:
        channel, other = Channel(here, "rank 0"), Channel(there, "rank 1")
        passing = pool.submit(datagrams.pass_on, 1, channel, addresses, 30)
        assert other.receive(30) == {"listening": True}
        flooding = pool.submit(flood)
        try:
            other.send({"do": "counted"})
            assert other.receive(20) == {"received": 0}
            passing.result(timeout=30)
        finally:
            over.set()
            flooding.result(timeout=30)
