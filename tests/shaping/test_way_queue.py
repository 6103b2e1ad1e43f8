"""The rules by which the relay treats packets, without a link: they are netem's."""

from __future__ import annotations

import itertools
import math
import statistics
from pathlib import Path

import pytest

from paretopipe_worker.link.conditions import Condition, Distribution
from paretopipe_worker.link.counters import CountersFile, RelayCounters
from paretopipe_worker.shaping.way_queue import WayQueue

MTU, FRAME = 1500, 1514
MS = 1_000_000


@pytest.fixture
def counting(tmp_path: Path) -> CountersFile:
    """Counters of a relay."""
    return CountersFile(tmp_path / "relay.bin")


def admitted(
    condition: Condition, counting: CountersFile, count: int, every_ns: int = MS
) -> list[tuple[int, int]]:
    """Numbered full frames, one each `every_ns`, never queueing up: number, due in nanoseconds."""
    packets = WayQueue(condition, MTU, counting, seed=1)
    queued = []
    for number in range(count):
        packets.admit(number.to_bytes(4, "big").ljust(FRAME, b"."), number * every_ns)
        queued += packets.queue
        packets.queue.clear()
    return [(int.from_bytes(frame[:4], "big"), due) for due, frame in queued]


def test_a_rate_spaces_packets_by_their_time_on_the_wire_after_the_delay(
    counting: CountersFile,
) -> None:
    wire_ns = FRAME * 8 * 1000 // 20
    due = [when for _, when in admitted(Condition(delay_ms=10, rate_mbit=20), counting, 50, 1000)]
    assert due[0] == 10 * MS + wire_ns
    assert {later - when for when, later in itertools.pairwise(due)} == {wire_ns}


def departures(packets: WayQueue) -> list[tuple[int, int]]:
    """Wake up when it says, and send all that is due: when each packet was due, and went."""
    gone = []
    while (now := packets.next_ns()) is not None:
        while packets.queue and packets.queue[0][0] <= now:
            gone.append((packets.queue.popleft()[0], now))
    return gone


def test_a_train_goes_in_groups_whose_last_packet_is_on_time(counting: CountersFile) -> None:
    packets = WayQueue(Condition(delay_ms=10, rate_mbit=100), MTU, counting)
    for _ in range(100):
        packets.admit(bytes(FRAME), 0)
    gone = departures(packets)
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
    packets = WayQueue(Condition(delay_ms=10, rate_mbit=rate_mbit), MTU, counting)
    apart_ns = 700_000  # a full frame takes 606 us at 20 Mbit/s
    for number in range(50):
        packets.admit(bytes(FRAME), number * apart_ns)
    gone = departures(packets)
    assert len(gone) == 50
    assert all(due == went for due, went in gone)


def test_a_reordered_packet_waits_for_no_train(counting: CountersFile) -> None:
    condition = Condition(delay_ms=1, rate_mbit=20, reorder_percent=20)
    packets = WayQueue(condition, MTU, counting, seed=1)
    ahead = []
    for number in range(100):
        packets.admit(bytes(FRAME), number)
        if packets.queue[0][0] == number:
            assert packets.next_ns() == number
            ahead.append(packets.queue.popleft())
    assert 10 < len(ahead) < 30
    gone = departures(packets)
    assert len(gone) == 100 - len(ahead)
    assert max(went - due for due, went in gone) <= MS


@pytest.mark.parametrize("jitter_ms", [0, 2])
def test_what_can_wait_to_be_read_goes_when_it_would_have_gone(
    counting: CountersFile, jitter_ms: float
) -> None:
    condition = Condition(delay_ms=5, jitter_ms=jitter_ms, rate_mbit=100)

    def due_ns(read_ns: int) -> tuple[int, bool]:
        packets = WayQueue(condition, MTU, counting, seed=1)
        for _ in range(200):  # 24 ms on the wire
            packets.admit(bytes(FRAME), 0)
        waits = packets.can_wait(read_ns)
        packets.admit(bytes(FRAME), read_ns)
        return packets.queue[-1][0], waits

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
    packets = WayQueue(Condition(rate_mbit=5), MTU, counting)
    for _ in range(12_000):
        packets.admit(bytes(FRAME), 0)
    counted = RelayCounters.read(tmp_path / "relay.bin")
    assert counted is not None
    assert len(packets.queue) == 11_000
    assert (counted.overflowed, counted.lost) == (1000, 0)
