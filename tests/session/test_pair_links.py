"""Links of known delay and rate, as measuring a pair of hosts finds them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from analysis import links
from paretopipe_worker.link.conditions import Condition
from paretopipe_worker.records.pairs import Place, Table
from tests.helpers.pairs import BRIEF, measured
from tests.helpers.shaped_link import (
    DATA_PORT,
    FRAME,
    PAYLOAD,
    must_take_ms,
    reason_without_relay,
    shaped_link,
)
from tests.helpers.tables_of_links import stored

pytestmark = [
    pytest.mark.alone,
    pytest.mark.must_run,
    pytest.mark.skipif(bool(reason_without_relay()), reason=reason_without_relay()),
]

THERE = Condition(delay_ms=20, rate_mbit=20)
BACK = Condition(delay_ms=10, rate_mbit=50)
ROUND_TRIP_MS = 30


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[links.Links]:
    """The table of a link that is shaped differently in its two directions."""
    folder: Path = tmp_path_factory.mktemp("known")
    with shaped_link(folder) as link:
        for rank, condition in enumerate((THERE, BACK)):
            done = link.apply(condition, rank=rank)
            assert isinstance(done, dict), done
        places = tuple(
            Place(name, host.address, DATA_PORT)
            for name, host in zip("ab", link.hosts, strict=True)
        )
        pairs = measured(places, BRIEF, link.hosts)
    table = Table(places, ((("a", "b"),),), BRIEF, 0)
    yield links.read(stored(folder / "table", table, pairs))


@pytest.fixture
def rows(found: links.Links) -> pd.DataFrame:
    return found.links.set_index(["source", "sink"])


def test_the_round_trip_is_that_of_both_delays(rows: pd.DataFrame) -> None:
    assert rows["reason"].isna().all(), rows["reason"].tolist()
    for way in (("a", "b"), ("b", "a")):
        row = rows.loc[way]
        # No packet is early; on a busy machine the relay may be late.
        assert ROUND_TRIP_MS - 0.5 <= row["round_trip_p5_ms"] <= row["round_trip_median_ms"]
        assert row["round_trip_median_ms"] <= ROUND_TRIP_MS + 6, row
        assert row["loss_percent"] <= 1


def test_the_goodput_is_that_of_each_direction(rows: pd.DataFrame) -> None:
    share = PAYLOAD / FRAME
    for way, condition in ((("a", "b"), THERE), (("b", "a"), BACK)):
        asked = condition.rate_mbit * share
        assert rows.loc[way, "goodput_mbit"] == pytest.approx(asked, rel=0.1), rows.loc[way]


def test_a_transfer_takes_the_round_trip_and_its_time_on_the_wire(found: links.Links) -> None:
    transfers = found.transfers.set_index(["source", "sink", "bytes", "idle"])
    for way, condition in ((("a", "b"), THERE), (("b", "a"), BACK)):
        for size in BRIEF.transfer_bytes:
            must = ROUND_TRIP_MS + must_take_ms(size, condition.rate_mbit)
            warm = transfers.loc[(*way, size, False), "least_ms"]
            assert must - 1 <= warm <= 1.2 * must + 5, (way, size, must, warm)
            # TCP as a sweep sets it does not forget the rate of the path while it is idle.
            idle = transfers.loc[(*way, size, True), "least_ms"]
            assert must - 1 <= idle <= 1.2 * must + 20, (way, size, must, idle)
