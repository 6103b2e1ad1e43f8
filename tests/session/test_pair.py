"""Measuring a pair of hosts: real processes on the loopback address, and what goes wrong there."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from paretopipe_worker.records.pairs import Pair, Settings
from paretopipe_worker.session import pair_steps
from paretopipe_worker.session.control import Channel, ControlError
from paretopipe_worker.session.pair import Task
from tests.helpers.pairs import BRIEF, found, local, longer, measured, start, task
from tests.helpers.rings import free_ports

pytestmark = pytest.mark.slow


def complete(pair: Pair, settings: Settings = BRIEF) -> None:
    """Hold that every part of a way was measured."""
    assert pair.reasons == {}, pair
    assert pair.facts is not None and pair.goodput is not None and pair.datagrams is not None
    assert len(pair.ping_ns) == pair_steps.PINGS
    assert pair.facts.kernel and "ipv4.tcp_slow_start_after_idle" in pair.facts.tcp
    sent = pair.goodput.sent_bytes
    assert pair.goodput.arrivals[0][0] == 0 and pair.goodput.arrivals[-1][1] == sent
    assert sent <= settings.goodput_mb * 1e6 + (16 << 10) + 1
    kinds = [(each.bytes, each.idle) for each in pair.transfers]
    sizes = settings.transfer_bytes
    assert kinds == [(size, idle) for idle in (False, True) for size in sizes]
    for each in pair.transfers:
        repeats = settings.idle_repeats if each.idle else settings.warm_repeats
        assert 1 <= len(each.ns) == len(each.window_packets) <= repeats
        assert min(each.ns) > 0 and min(each.window_packets) > 0
    assert pair.datagrams.sent == settings.datagrams >= pair.datagrams.arrived
    assert pair.datagrams.arrived >= len(pair.datagrams.round_trip_ns) > 0


def test_both_ways_are_measured_by_the_standard_library_alone() -> None:
    first, second = measured(local(free_ports(2)))
    assert [(pair.source, pair.sink) for pair in (first, second)] == [("a", "b"), ("b", "a")]
    complete(first)
    complete(second)


def test_a_host_that_does_not_come_is_the_reason_that_nothing_was_measured() -> None:
    places = local(free_ports(2))
    brief = longer(patience_s=0.5)
    for rank, said in ((0, "rank [1] did not come"), (1, "could not reach 127.0.0.1:")):
        pair = found(start(task(places, rank, brief)))
        assert (pair.goodput, pair.transfers, pair.datagrams) == (None, (), None)
        assert list(pair.reasons) == ["all"] and said in pair.reasons["all"], pair


def test_a_host_without_the_secret_is_turned_away() -> None:
    pairs = measured(local(free_ports(2)), secret="another secret, which is as long as that")
    for pair in pairs:
        assert "does not know the run's secret" in pair.reasons["all"], pair


def test_a_process_ends_at_its_deadline_and_keeps_what_was_measured() -> None:
    long = longer(goodput_s=30, goodput_mb=1e5, patience_s=20)
    first, second = measured(local(free_ports(2)), long, deadline_s=3)
    assert first.ping_ns
    assert set(first.reasons) == {"goodput", "transfers", "datagrams"}
    assert first.reasons["goodput"] == "measuring the pair was ended after 3 s"
    # The other one loses its connections, and ends by that.
    assert set(second.reasons) == {"goodput", "transfers", "datagrams"}, second


def test_a_udp_port_in_use_costs_the_datagrams_alone() -> None:
    places = local(free_ports(2))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", places[1].data_port))
        pairs = measured(places)
    for pair in pairs:
        assert pair.goodput is not None and len(pair.transfers) == 4
        assert pair.datagrams is None and list(pair.reasons) == ["datagrams"]
        assert f"cannot bind UDP port 127.0.0.1:{places[1].data_port}" in pair.reasons["datagrams"]


def test_sizes_that_would_take_too_long_are_left_out() -> None:
    first, _ = measured(local(free_ports(2)), longer(transfer_s=1e-6))
    assert [each.ns for each in first.transfers] == [()] * 4
    assert all("would take about" in (each.reason or "") for each in first.transfers)
    assert first.datagrams is not None


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ({"do": "messages", "bytes": 10**9, "count": 1}, "allowed: 1 to 100000000"),
        ({"do": "messages", "bytes": 8, "count": 10**6}, "allowed: 1 to 1000"),
        ({"do": "messages", "bytes": "many", "count": 1}, "allowed: 1 to"),
        ({"do": "datagrams", "deadline_s": None}, "allowed: 0 to 3600"),
        ({"do": "format the disk"}, "which is no step of measuring"),
        ({}, "which is no step of measuring"),
    ],
    ids=range(6),
)
def test_a_command_out_of_bounds_is_refused(command: dict[str, Any], said: str) -> None:
    link, other = socket.socketpair()
    with link, other, pytest.raises(ControlError, match=f"^the peer: .*{said}"):
        ends = [("127.0.0.1", 1), ("127.0.0.1", 2)]
        pair_steps.answer(command, pair_steps.Path(link, Channel(link, "the peer"), ends, BRIEF))


@pytest.mark.parametrize(
    "arrivals",
    [[], [[0, 5], [3, 4]], [[5, 1], [6, 9]], [[0, 1], [2, 8]], [["0", 9]], "soon", [[0, 9.0]]],
    ids=range(7),
)
def test_arrivals_that_make_no_sense_are_refused(arrivals: object) -> None:
    assert pair_steps.checked({"arrivals": [[0, 1], [2, 9]]}, 9, "the peer") == ((0, 1), (2, 9))
    with pytest.raises(ControlError, match=r"^the peer: sent .* as its arrivals; allowed: rising"):
        pair_steps.checked({"arrivals": arrivals}, 9, "the peer")


@pytest.mark.parametrize("text", ["{}", "[]", '{"hosts": [{"name": "a"}, {}]}'])
def test_what_is_no_task_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^standard input holds no task"):
        Task.parse(text)
