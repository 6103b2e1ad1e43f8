"""The schedule of a table of links, its settings, and how long it takes."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import asdict
from typing import Any

import pytest

from paretopipe_worker.plan import fleet, rounds
from paretopipe_worker.records.pairs import Settings


def hosts(count: int) -> tuple[fleet.Host, ...]:
    """So many hosts, h0 and so on."""
    described = [
        {"name": f"h{n}", "data_address": f"10.0.{n // 250}.{1 + n % 250}"} for n in range(count)
    ]
    return fleet.parse(json.dumps(described))


@pytest.mark.parametrize("count", [2, 3, 4, 7, 10, 31])
def test_every_two_hosts_meet_once_and_no_host_twice_in_a_round(count: int) -> None:
    names = [host.name for host in hosts(count)]
    found = rounds.tournament(names)
    met = [pair for pairs in found for pair in pairs]
    assert sorted(map(sorted, met)) == sorted(map(sorted, itertools.combinations(names, 2)))
    assert len(met) == len(set(map(frozenset, met)))
    assert len(found) == (count - 1 if count % 2 == 0 else count)
    for pairs in found:
        assert max(Counter(itertools.chain(*pairs)).values()) == 1
    # The first of a pair is the one that comes first in the inventory.
    assert all(names.index(one) < names.index(two) for one, two in met)


def test_pairs_are_measured_one_after_the_other_unless_it_is_asked_for() -> None:
    alone = rounds.table(hosts(6), Settings(), side_by_side=False)
    assert [len(pairs) for pairs in alone.rounds] == [1] * 15
    assert not alone.side_by_side
    together = rounds.table(hosts(6), Settings(), side_by_side=True)
    assert [len(pairs) for pairs in together.rounds] == [3] * 5
    assert together.side_by_side
    usual_s = rounds.usual_s(Settings())
    assert f"about {15 * usual_s / 60:.0f} min" in rounds.told(alone)
    assert "15 pairs, in 5 rounds, the pairs of a round side by side" in rounds.told(together)


def test_settings_bound_time_and_bytes() -> None:
    least = Settings()
    for name, more in (
        *(("goodput_s", 10.0), ("transfer_bytes", (1, 10**7)), ("transfer_s", 5.0)),
        *(("idle_repeats", 9), ("datagrams", 600)),
    ):
        changed = Settings(**{**asdict(least), name: more})
        assert rounds.longest_s(changed) >= rounds.usual_s(changed)
        assert rounds.longest_s(changed) > rounds.longest_s(least) or name == "transfer_bytes"
    assert rounds.most_mb(Settings(goodput_mb=1, transfer_bytes=(10**6,))) == 2 * (1 + 14)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"goodput_s": 0}, "links_goodput_s: input should be greater than 0; got 0"),
        ({"transfer_bytes": []}, "links_transfer_bytes: list should have at least 1 item"),
        ({"transfer_bytes": [0]}, r"links_transfer_bytes\[0\]: input should be greater than"),
        ({"transfer_bytes": [10**9]}, r"links_transfer_bytes\[0\]: input should be less than"),
        ({"datagrams": 601}, "links_datagrams: input should be less than or equal to 600"),
        ({"idle_repeats": "often"}, "links_idle_repeats: .*integer"),
        ({"speed": 1}, "links_speed: unknown variable; allowed: goodput_s"),
    ],
    ids=range(7),
)
def test_settings_that_cannot_be_measured_are_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(rounds.SettingsError, match=f"^{said}"):
        rounds.parse(asdict(Settings()) | changed)


def test_settings_may_be_written_as_text() -> None:
    written = {name: str(value) for name, value in asdict(Settings()).items()}
    assert rounds.parse(written | {"transfer_bytes": ["2000", 1000]}) == Settings(
        transfer_bytes=(1000, 2000)
    )
