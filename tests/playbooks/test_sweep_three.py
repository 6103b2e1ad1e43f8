"""A sweep over the three hosts of inventory/three, with another rate on each hop."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import pytest

from tests.helpers.labs import nothing_left, throwaway
from tests.helpers.namespaces import reason_without_namespaces
from tests.helpers.shaped_link import FRAME, PAYLOAD
from tests.helpers.sweeps import Results

pytestmark = [
    pytest.mark.alone,
    pytest.mark.long,  # test_rehearsal.py holds the same on three hosts over SSH
    pytest.mark.skipif(bool(reason_without_namespaces()), reason=reason_without_namespaces()),
]

RUN = "three"
EXPERIMENT = """\
models: [paretopipe_worker.model.tiny:network]
links: [{name: uneven, hops: [{rate_mbit: 100}, {rate_mbit: 40}], return: {rate_mbit: 60}}]
window: 6
splits: {granularity: block, cuts: [["1", "3"]]}
phases: {min_items: 8, min_s: 0.1, max_s: 20, retries: 0}
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Results]:
    """What a sweep of one split and the three endpoints left."""
    with throwaway(tmp_path_factory.mktemp("three") / "checkout") as copy:
        experiment = copy.write("experiments/small.yml", EXPERIMENT)
        copy.sweep(experiment, RUN, inventory="inventory/three").succeeded()
        nothing_left(copy)
        yield copy.results(RUN)


@pytest.fixture
def points(swept: Results) -> pd.DataFrame:
    return swept.points.set_index("split")


def test_a_split_over_all_hosts_and_all_on_each_of_them_are_measured(points: pd.DataFrame) -> None:
    assert list(points.index) == ["@last+@last", "@last+@first", "1+3", "@first+@first"]
    assert set(points["status"]) == {"ok"} and set(points["output"]) == {"exact"}
    assert set(points["placement"]) == {"edge>hub>server"}
    assert points["attribution_ok"].all() and points["on_front"].any()


def test_every_hop_has_the_rate_that_was_asked_of_it(points: pd.DataFrame) -> None:
    share = PAYLOAD / FRAME
    for split, forward_mbit in {"1+3": 40, "@last+@last": 40, "@last+@first": 100}.items():
        row = points.loc[split]
        for when in ("before", "after"):
            forward, back = (f"link_{way}goodput_{when}_mbit" for way in ("", "return_"))
            assert row[forward] == pytest.approx(forward_mbit * share, rel=0.1), split
            assert row[back] == pytest.approx(60 * share, rel=0.1), split


def test_the_last_host_is_not_reached_where_it_idles(swept: Results) -> None:
    placements = [session["placement"] for session in swept.plan["sessions"]]
    assert sorted(placements, key=len) == [["edge", "hub"], ["edge", "hub", "server"]]
    files = {host: len(swept.ends(host)) for host in ("edge", "hub", "server")}
    assert files == {"edge": 2, "hub": 2, "server": 1}
    stages = pd.read_csv(swept.folder / "stages.csv").set_index(["split", "rank"])
    assert stages["host"].to_dict() == {
        ("@last+@last", 0): "edge",
        ("@last+@last", 1): "hub",
        ("@last+@last", 2): "server",
        ("@last+@first", 0): "edge",
        ("@last+@first", 1): "hub",
        ("1+3", 0): "edge",
        ("1+3", 1): "hub",
        ("1+3", 2): "server",
        ("@first+@first", 0): "edge",
    }
