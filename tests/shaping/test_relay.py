"""The userspace relay: its rules alone, and a link shaped by it between two namespaces."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from paretopipe_worker.link.conditions import Condition, Distribution, TcpSettings
from paretopipe_worker.link.counters import CountersFile, RelayCounters
from paretopipe_worker.shaping.relay import TUN, Egress
from tests import ROOT
from tests.helpers.namespaces import INTERFACE
from tests.helpers.shaped_link import (
    DATA_PORT,
    FRAME,
    TAKES_A_RELAY,
    Link,
    Relayed,
    connect,
    datagrams,
    profile,
    rate20_is_kept,
    reason_without_relay,
    serve,
    shaped_link,
    transfer_ms,
    without_netem,
)

REASON = reason_without_relay()
relayed = pytest.mark.skipif(bool(REASON), reason=REASON)

pytestmark = pytest.mark.alone

MS = 1_000_000
UNSHAPED = ["interface link0", "gso_max_segs 65535", "root noqueue"]


# Its rules, without a link


@pytest.fixture
def counting(tmp_path: Path) -> CountersFile:
    """RelayCounters of a relay."""
    return CountersFile(tmp_path / "relay.bin")


def admitted(
    condition: Condition, counting: CountersFile, count: int, every_ns: int = MS
) -> list[tuple[int, int]]:
    """Numbered full frames, one each `every_ns`, never queueing up: number, due in nanoseconds."""
    egress = Egress(condition, FRAME - 14, counting, seed=1)
    queued = []
    for number in range(count):
        egress.admit(number.to_bytes(4, "big").ljust(FRAME, b"."), number * every_ns)
        queued += egress.queue
        egress.queue.clear()
    return [(int.from_bytes(frame[:4], "big"), due) for due, frame in queued]


def test_a_rate_spaces_packets_by_their_time_on_the_wire_after_the_delay(
    counting: CountersFile,
) -> None:
    wire_ns = FRAME * 8 * 1000 // 20
    due = [when for _, when in admitted(Condition(delay_ms=10, rate_mbit=20), counting, 50, 1000)]
    assert due[0] == 10 * MS + wire_ns
    assert {later - when for when, later in itertools.pairwise(due)} == {wire_ns}


def departures(egress: Egress) -> list[tuple[int, int]]:
    """Wake up when it says, and send all that is due: when each packet was due, and went."""
    gone = []
    while (now := egress.next_ns()) is not None:
        while egress.queue and egress.queue[0][0] <= now:
            gone.append((egress.queue.popleft()[0], now))
    return gone


def test_a_train_goes_in_groups_whose_last_packet_is_on_time(counting: CountersFile) -> None:
    egress = Egress(Condition(delay_ms=10, rate_mbit=100), FRAME - 14, counting)
    for _ in range(100):
        egress.admit(bytes(FRAME), 0)
    gone = departures(egress)
    assert len(gone) == 100
    assert min(went - due for due, went in gone) >= 0
    assert MS / 2 < max(went - due for due, went in gone) <= MS
    assert gone[-1][0] == gone[-1][1]
    took_ms = (gone[-1][0] - gone[0][0]) / MS
    assert len({went for _, went in gone}) == pytest.approx(took_ms, rel=0.2)


@pytest.mark.parametrize("rate_mbit", [None, 20, 100])
def test_packets_with_a_gap_between_them_go_when_they_are_due(
    counting: CountersFile, rate_mbit: float | None
) -> None:
    egress = Egress(Condition(delay_ms=10, rate_mbit=rate_mbit), FRAME - 14, counting)
    apart_ns = 700_000  # a full frame takes 606 us at 20 Mbit/s
    for number in range(50):
        egress.admit(bytes(FRAME), number * apart_ns)
    gone = departures(egress)
    assert len(gone) == 50
    assert all(due == went for due, went in gone)


def test_a_reordered_packet_waits_for_no_train(counting: CountersFile) -> None:
    condition = Condition(delay_ms=1, rate_mbit=20, reorder_percent=20)
    egress = Egress(condition, FRAME - 14, counting, seed=1)
    ahead = []
    for number in range(100):
        egress.admit(bytes(FRAME), number)
        if egress.queue[0][0] == number:
            assert egress.next_ns() == number
            ahead.append(egress.queue.popleft())
    assert 10 < len(ahead) < 30
    gone = departures(egress)
    assert len(gone) == 100 - len(ahead)
    assert max(went - due for due, went in gone) <= MS


@pytest.mark.parametrize("jitter_ms", [0, 2])
def test_what_can_wait_to_be_read_goes_when_it_would_have_gone(
    counting: CountersFile, jitter_ms: float
) -> None:
    condition = Condition(delay_ms=5, jitter_ms=jitter_ms, rate_mbit=100)

    def due_ns(read_ns: int) -> tuple[int, bool]:
        egress = Egress(condition, FRAME - 14, counting, seed=1)
        for _ in range(200):  # 24 ms on the wire
            egress.admit(bytes(FRAME), 0)
        waits = egress.can_wait(read_ns)
        egress.admit(bytes(FRAME), read_ns)
        return egress.queue[-1][0], waits

    at_once, _ = due_ns(0)
    read = [due_ns(number * MS) for number in range(40)]
    count = sum(waits for _, waits in read)
    assert [due for due, waits in read if waits] == [at_once] * count
    assert count == pytest.approx(24 - 4 * jitter_ms, abs=2 + 2 * jitter_ms)
    assert read[-1][0] > at_once


@pytest.mark.parametrize(
    ("distribution", "per_jitter"),
    # Of the long tails, netem's tables hold four times the jitter at most.
    [("uniform", 1 / math.sqrt(3)), ("normal", 1), ("pareto", 0.83), ("paretonormal", 0.84)],
)
def test_jitter_spreads_delays_as_netem_does_and_keeps_packets_in_order(
    counting: CountersFile, distribution: Distribution, per_jitter: float
) -> None:
    condition = Condition(delay_ms=50, jitter_ms=5, distribution=distribution)
    # Far enough apart that none waits for the one before.
    delays_ms = [
        (due - number * 200 * MS) / MS
        for number, due in admitted(condition, counting, 20_000, 200 * MS)
    ]
    assert statistics.mean(delays_ms) == pytest.approx(50, abs=0.3)
    assert statistics.pstdev(delays_ms) == pytest.approx(5 * per_jitter, rel=0.05)
    close = admitted(condition, counting, 500, MS)
    assert close == sorted(close)
    assert [due for _, due in close] == sorted(due for _, due in close)


def test_losses_are_as_many_as_asked_and_come_in_bursts_where_asked(
    counting: CountersFile,
) -> None:
    count = 50_000

    def lost_and_runs(condition: Condition) -> tuple[int, float]:
        came = {number for number, _ in admitted(condition, counting, count)}
        lost = [number for number in range(count) if number not in came]
        runs = sum(number - 1 in came or number == 0 for number in lost)
        return len(lost), len(lost) / runs

    lost, run = lost_and_runs(Condition(loss_percent=5))
    assert lost == pytest.approx(0.05 * count, abs=3 * math.sqrt(0.05 * 0.95 * count))
    assert run == pytest.approx(1 / 0.95, rel=0.05)
    bursts = Condition(burst_loss_percent=1, burst_recovery_percent=25)
    lost, run = lost_and_runs(bursts)
    assert lost == pytest.approx(bursts.mean_loss * count, rel=0.15)
    assert run == pytest.approx(4, rel=0.1)


def test_a_reordered_packet_goes_ahead_at_once_and_a_duplicated_one_twice(
    counting: CountersFile,
) -> None:
    count = 10_000
    reordered = admitted(Condition(delay_ms=1000, reorder_percent=10), counting, count, 1)
    ahead = [number for number, due in reordered if due == number]
    assert len(ahead) == pytest.approx(0.1 * count, abs=3 * math.sqrt(0.09 * count))
    doubled = admitted(Condition(duplicate_percent=10), counting, count)
    assert len(doubled) - count == pytest.approx(0.1 * count, abs=3 * math.sqrt(0.09 * count))
    assert len({number for number, _ in doubled}) == count


def test_a_full_queue_drops_what_comes(tmp_path: Path, counting: CountersFile) -> None:
    egress = Egress(Condition(rate_mbit=5), FRAME - 14, counting)
    for _ in range(12_000):
        egress.admit(bytes(FRAME), 0)
    counted = RelayCounters.read(tmp_path / "relay.bin")
    assert counted is not None
    assert len(egress.queue) == 11_000
    assert (counted.overflowed, counted.lost) == (1000, 0)


def test_counters_tell_lateness_by_quantile_and_over_a_part_of_the_time(tmp_path: Path) -> None:
    path = tmp_path / "relay.bin"
    assert RelayCounters.read(path) is None
    counting = CountersFile(path)
    start = RelayCounters.read(path)
    assert start is not None
    assert start.late_ns(0.99) is None
    for late_ns in [0, 500] + 97 * [20_000] + [3 * MS]:
        counting.forwarded(late_ns)
    middle = RelayCounters.read(path)
    assert middle is not None
    assert middle.forwarded == 100
    assert 20_000 <= (middle.late_ns(0.99) or 0) < 20_000 * 1.15
    assert 3 * MS <= (middle.late_ns(1) or 0) < 3 * MS * 1.15
    assert middle.late_ns(0.01) == 1000
    counting.forwarded(5_000_000_000)
    counting.lost()
    end = RelayCounters.read(path)
    assert end is not None
    assert ((end - middle).forwarded, (end - middle).lost) == (1, 1)
    assert ((end - middle).late_ns(0.5) or 0) > 1_000_000_000


# A link


@pytest.fixture
def link(tmp_path: Path) -> Iterator[Relayed]:
    """Two joined hosts, unshaped again afterwards, with no process left inside."""
    with shaped_link(tmp_path) as made:
        yield Relayed(made.hosts, made.folder)


def median_ms(link: Link, port: int, version: int = 4) -> float:
    """Median round trip of a small message over a connection to a port."""
    source, sink = link.hosts
    serve(sink, port, version)
    with connect(source, sink, port, version) as data:
        return statistics.median(transfer_ms(data, 8) for _ in range(15))


@relayed
@pytest.mark.must_run
@pytest.mark.parametrize("version", [4, 6])
def test_delay_is_added_to_the_data_port_and_to_nothing_else(link: Relayed, version: int) -> None:
    for rank in (0, 1):
        link.apply(Condition(delay_ms=20), rank=rank)
    assert 40 <= median_ms(link, DATA_PORT, version) <= 43
    assert median_ms(link, DATA_PORT + 1, version) < 5
    assert link.counters().forwarded > 15
    assert (link.counters().late_ns(0.5) or 0) < 2 * MS


@relayed
@pytest.mark.must_run
def test_each_host_shapes_only_what_it_sends(link: Relayed) -> None:
    link.apply(Condition(delay_ms=30))
    there = datagrams(*link.hosts, 30, 0.005)
    back = datagrams(*link.hosts[::-1], 30, 0.005)
    assert 30 <= statistics.median(took * 1e3 for _, took in there) <= 31.5
    assert statistics.median(took * 1e3 for _, took in back) < 1.5


@relayed
@pytest.mark.must_run
def test_a_rate_is_kept_and_leaves_no_room_for_bursts(link: Relayed) -> None:
    for rank in (0, 1):
        link.apply(TAKES_A_RELAY, tcp=TcpSettings("reno"), rank=rank)
    rate20_is_kept(link)


@relayed
@pytest.mark.must_run
def test_losses_jitter_reordering_and_duplicates_happen_to_datagrams(link: Relayed) -> None:
    count = 1000
    link.apply(Condition(loss_percent=10))
    came = datagrams(*link.hosts, count, 0.0005)
    assert count - len(came) == pytest.approx(0.1 * count, abs=3 * math.sqrt(0.09 * count))
    assert link.counters().lost == count - len(came)

    link.apply(Condition(delay_ms=20, jitter_ms=5))
    came = datagrams(*link.hosts, count, 0.001)
    assert [number for number, _ in came] == list(range(count))
    assert statistics.pstdev(took * 1e3 for _, took in came) > 1

    link.apply(Condition(delay_ms=5, reorder_percent=5, duplicate_percent=5))
    numbers = [number for number, _ in datagrams(*link.hosts, count, 0.0005)]
    assert len(set(numbers)) == count
    assert len(numbers) - count == pytest.approx(0.05 * count, abs=3 * math.sqrt(0.0475 * count))
    assert numbers != sorted(numbers)


@relayed
@pytest.mark.must_run
def test_while_everything_is_lost_the_host_is_still_reached(link: Relayed) -> None:
    for rank in (0, 1):
        link.apply(Condition(loss_percent=100), rank=rank)
    assert datagrams(*link.hosts, 20, 0.001) == []
    assert median_ms(link, DATA_PORT + 1) < 5


@relayed
@pytest.mark.must_run
def test_a_killed_keeper_cuts_the_data_until_the_link_is_shaped_again_or_restored(
    link: Relayed,
) -> None:
    asked = Condition(delay_ms=10)
    link.apply(asked)
    assert not link.apply(asked)["changed"]
    for repair in (lambda: link.apply(asked), link.restore):
        [keeper] = link.keepers()
        os.kill(keeper, signal.SIGKILL)
        while "pprelay0" in link.devices():
            assert Path(f"/proc/{keeper}").exists() or link.keepers() == []
        assert datagrams(*link.hosts, 10, 0.001) == []
        assert repair()["changed"]
        assert len(datagrams(*link.hosts, 10, 0.001)) == 10
    assert link.show() == UNSHAPED
    assert link.devices() == [INTERFACE, "lo"]


@relayed
@pytest.mark.must_run
def test_a_relay_that_fails_restores_the_link(link: Relayed) -> None:
    link.apply(Condition(delay_ms=10))
    link.hosts[0].run("ip", "link", "delete", "pprelay0")
    deadline = time.monotonic() + 10
    while link.keepers():
        assert time.monotonic() < deadline
    assert link.show() == UNSHAPED
    assert "the relay failed: " in (link.state() / "keeper.log").read_text()
    assert len(datagrams(*link.hosts, 10, 0.001)) == 10


@relayed
@pytest.mark.must_run
def test_a_host_without_tap_devices_is_told_what_the_relay_needs(link: Relayed) -> None:
    hidden = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /dev/net && exec "$@"', "sh")
    words = link.asking(Condition(delay_ms=10))
    refused = link.call("apply", *words, before=hidden)
    assert f"{TUN}: No such file or directory; the userspace relay needs TAP devices" in refused
    assert link.show() == UNSHAPED


@relayed
def test_a_relay_runs_inside_an_unprivileged_namespace(tmp_path: Path) -> None:
    unshare = ["unshare", "--user", "--map-root-user", "--net"]
    trial = subprocess.run([*unshare, "true"], capture_output=True, text=True)
    if trial.returncode != 0:
        pytest.skip(f"no unprivileged namespaces here: {trial.stderr.strip()}")
    common = f"{sys.executable} -m paretopipe_worker link"
    asked = profile("asked", Condition(delay_ms=10), "10.77.0.2")
    script = f"""set -e
        ip link add link0 type veth peer name link1
        ip address add 10.77.0.1/24 dev link0 && ip link set link0 up
        touch lease
        {common} apply --profile '{asked}' --address 10.77.0.1 --ports {DATA_PORT} --emulate \\
            --tcp '{{"congestion_control": "cubic"}}' \\
            --state-dir state --lease lease --lease-s 60
        {common} restore --state-dir state"""
    environment = {**os.environ, **without_netem(tmp_path / "bin")}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [*unshare, "sh", "-c", script],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    applied, restored = (json.loads(line) for line in done.stdout.splitlines())
    assert applied["engine"] == "relay"
    assert restored["after"].splitlines()[:3] == UNSHAPED
