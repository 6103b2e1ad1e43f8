"""What a relay counts, as stages read it."""

from __future__ import annotations

from pathlib import Path

from paretopipe_worker.link.counters import CountersFile, RelayCounters

MS = 1_000_000


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
