"""Sweeps over inventory/shared: two sources that share a server, through the playbook."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pandas as pd
import pytest

from paretopipe_worker.records.lines import PointEnd
from tests.helpers.labs import nothing_left, throwaway
from tests.helpers.namespaces import reason_without_namespaces
from tests.helpers.shaped_link import FRAME, PAYLOAD
from tests.helpers.sweeps import Checkout, Done, Results

pytestmark = [
    pytest.mark.alone,
    pytest.mark.long,
    pytest.mark.skipif(bool(reason_without_namespaces()), reason=reason_without_namespaces()),
]

RUN = "shared"
EXPERIMENT = """\
models: [paretopipe_worker.model.tiny:network]
placements: [[edge, server]]
links: [{name: rate20, rate_mbit: 20}]
splits: {granularity: block, cuts: ["1", "3"]}
sources: [2]
phases: {min_items: 12, min_s: 0.5, max_s: 20, retries: 0}
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Checkout, Done]]:
    """A sweep in which the second lane's stage on the server was killed, and what it said."""
    with throwaway(tmp_path_factory.mktemp("shared") / "checkout") as copy:
        experiment = copy.write("experiments/small.yml", EXPERIMENT)
        sweep = copy.start_sweep(experiment, RUN, inventory="inventory/shared")
        sweep.prints("split 1 of 4")
        [stage] = [
            pid
            for pid, words in copy.processes().items()
            if "-lane1 " in words and "--host=server" in words and " launch " not in words
        ]
        os.kill(stage, signal.SIGKILL)
        done = sweep.wait()
        nothing_left(copy)
        yield copy, done


@pytest.fixture(scope="module")
def resumed(killed: tuple[Checkout, Done]) -> Results:
    """The run after it was resumed."""
    copy, _ = killed
    copy.sweep("experiments/small.yml", RUN, inventory="inventory/shared").succeeded()
    nothing_left(copy)
    return copy.results(RUN)


@pytest.fixture
def points(resumed: Results) -> pd.DataFrame:
    return resumed.points.set_index(["placement", "split"])


LANES, SPLITS = ("edge>server", "edge2>server"), ("@last", "1", "3", "@first")


def test_a_lost_lane_fails_the_sweep_with_its_reason_and_shows_what_both_measured(
    killed: tuple[Checkout, Done],
) -> None:
    _, done = killed
    done.refused("1 of 1 sessions failed", "server: stage killed by SIGKILL", "edge2 > server")
    assert "4 of 4 points on edge > server and edge2 > server" in done.output


def test_the_next_sweep_measures_in_both_lanes_what_either_lacked(
    resumed: Results, points: pd.DataFrame
) -> None:
    assert set(points.index) == {(lane, split) for lane in LANES for split in SPLITS}
    assert set(points["status"]) == {"ok"} and set(points["output"]) == {"exact"}
    again = [
        [line.point for line in file if isinstance(line, PointEnd)]
        for file in resumed.records()
        if file[0].attempt == 2 and file[0].rank == 0  # type: ignore[union-attr]
    ]
    assert len(again) == 2 and len(again[0]) == len(again[1]) > 0
    measured = points["tries"].groupby("split").nunique()
    assert (measured == 1).all(), points["tries"]


def test_each_lane_has_the_whole_rate_while_the_other_has_it_too(points: pd.DataFrame) -> None:
    for lane in LANES:
        for split in ("@last", "1", "3"):
            for name in ("link_goodput_before_mbit", "link_return_goodput_before_mbit"):
                assert points.loc[(lane, split), name] == pytest.approx(
                    20 * PAYLOAD / FRAME, rel=0.1
                ), (lane, split, name)


def test_the_table_says_how_long_lanes_overlapped(points: pd.DataFrame) -> None:
    crossing = points.loc[[(lane, split) for lane in LANES for split in SPLITS[:3]]]
    assert crossing["overlap_share"].between(0.9, 1).all(), crossing["overlap_note"]
