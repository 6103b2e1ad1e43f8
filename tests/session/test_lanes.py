"""Several sources on one sink's host: real stages of all lanes, over loopback."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import pandas as pd
import pytest

from analysis.run import read
from analysis.tables.points import points
from paretopipe_worker.host.health import MOST_WALL_OVER_CPU
from paretopipe_worker.plan import resume
from paretopipe_worker.records.lines import End, Item, PointEnd
from tests.helpers.known import PHASES, seconds, went_well
from tests.helpers.sessions import Finished, Lab, Stage, lab

pytestmark = pytest.mark.alone

TWO = {"placements": [["edge", "server"]], "sources": [2], "phases": PHASES}
HOSTS: dict[str, dict[str, object]] = {"edge": {}, "edge2": {}, "server": {}}
WAITED_S, BURNT_S = 0.005, 0.010


def ended(stages: Collection[Stage]) -> list[str]:
    """Wait for the end of stages; what they had to say."""
    return [stage.communicate(timeout=120)[1] for stage in stages]


def lanes(made: Lab) -> tuple[Finished, ...]:
    """What each lane of the only group recorded."""
    [group] = made.plan.groups
    return tuple(Finished(made, session) for session in group)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Two lanes whose sinks share a core; the second one's source computes four times as long."""
    experiment = {"models": ["tests.helpers.synthetic:wait_and_burn"], **TWO}
    hosts = HOSTS | {"edge2": {"device_emulated": 4}}
    made = lab(tmp_path_factory.mktemp("shared"), experiment, **hosts)
    stages = made.start_group()
    texts = ended(stages.values())
    assert [stage.returncode for stage in stages.values()] == [0] * 4, "\n".join(texts)
    for lane in lanes(made):
        went_well(lane)
    return made


@pytest.fixture(scope="module")
def rows(shared: Lab) -> pd.DataFrame:
    """The points of both lanes."""
    return points(read(shared.results)).set_index(["split", "placement"])


def test_every_lane_has_a_row_of_each_split(rows: pd.DataFrame) -> None:
    splits, placements = ("@last", "0", "@first"), ("edge>server", "edge2>server")
    assert set(rows.index) == {(split, lane) for split in splits for lane in placements}
    assert set(rows["sources"]) == {2} and set(rows["output"]) == {"exact"}
    assert rows.groupby("placement")["on_front"].any().all()


@pytest.mark.parametrize("cut", ["@last", "0"])
def test_sinks_that_share_a_core_compute_no_more_than_it_can(rows: pd.DataFrame, cut: str) -> None:
    per_s = rows.loc[cut, "throughput_images_s"]
    assert per_s.sum() * BURNT_S <= 1.03, per_s
    # One lane alone would have this core for the whole time of each item.
    assert per_s.min() > 0


def test_the_sinks_are_at_work_side_by_side(shared: Lab) -> None:
    shares = []
    for lane in lanes(shared):
        items = lane.items(1, "@last", "throughput")
        busy_s = sum(seconds(items, "computed_ns", "start_ns"))
        assert busy_s >= len(items) * (WAITED_S + BURNT_S)
        shares.append(busy_s / (items[-1].computed_ns - items[0].start_ns) * 1e9)
    # Had one waited for the other, their shares of the same time would add up to 1.
    assert sum(shares) > 1.3, shares


def test_how_long_lanes_overlapped_is_known_where_something_crosses(rows: pd.DataFrame) -> None:
    crossing = rows.loc[["@last", "0"], "overlap_share"]
    assert crossing.between(0.9, 1).all(), rows[["overlap_share", "overlap_note"]]
    assert rows["overlap_note"].isna().all()
    assert rows.loc["@first", "overlap_share"].isna().all()


def test_a_lane_keeps_up_its_load_until_the_others_have_theirs(shared: Lab) -> None:
    quick, slow = lanes(shared)
    point = quick.point("@first")
    # All processes of this machine share a clock.
    for phase, leg in (("latency", 0), ("throughput", 1)):
        mine = [item for item in quick.of(Item) if (item.point, item.leg) == (point, leg)]
        assert Counter(item.phase for item in mine)["drain"] > 0
        [last] = [end.end_ns for end in slow.legs(0, "@first", phase)]
        assert max(item.done_ns or 0 for item in mine) >= last, phase
        [counted] = quick.legs(0, "@first", phase)
        assert counted.items == sum(item.phase == phase for item in mine)


def test_each_leg_begins_in_all_lanes_before_any_lane_has_done_with_its_warm_up(
    shared: Lab,
) -> None:
    for cut in ("@last", "0", "@first"):
        for phase, leg in (("latency", 0), ("throughput", 1)):
            begun, counted = [], []
            for lane in lanes(shared):
                point = lane.point(cut)
                items = [i for i in lane.of(Item) if (i.point, i.leg) == (point, leg)]
                begun.append(min(item.ready_ns for item in items))
                counted.append(lane.legs(0, cut, phase)[0].start_ns)
            assert max(begun) < min(counted), (cut, phase)


def test_that_sinks_take_the_core_from_one_another_is_recorded_and_no_disturbance(
    shared: Lab,
) -> None:
    legs = [leg for lane in lanes(shared) for leg in lane.legs(1, "0", "throughput")]
    ratios = [leg.health.wall_over_cpu for leg in legs if leg.health]
    assert max(filter(None, ratios)) > MOST_WALL_OVER_CPU, ratios
    assert not any("had the core" in words for leg in legs for words in leg.disturbed), legs


def lost(made: Lab) -> tuple[Finished, ...]:
    """Kill the second lane's sink once a point was measured; what both lanes recorded."""
    stages = made.start_group()
    made.first_point(stages.values())
    stages["edge2", "server"].send_signal(signal.SIGKILL)
    ended(stages.values())
    return lanes(made)


def reason(lane: Finished, rank: int) -> str:
    """Why a stage ended."""
    [end] = lane.of(End, rank)
    return str(end.reason)


def test_a_failure_in_one_lane_fails_the_point_and_a_lost_lane_ends_the_others(
    tmp_path: Path,
) -> None:
    # Its first stage fails on host edge alone.
    made = lab(tmp_path, {"models": ["tests.helpers.synthetic:exhausting"], **TWO}, **HOSTS)
    first, second = lost(made)
    said = [lane.of(PointEnd)[0].reason or "" for lane in (first, second)]
    assert said[0].startswith("RuntimeError: can't allocate memory"), said
    assert said[1] == f"edge > server: {said[0]}"

    assert reason(second, 0).startswith("edge2: "), reason(second, 0)
    assert reason(first, 0) == f"edge: edge2 > server was lost: {gone(reason(second, 0))}"
    assert "ended while" in reason(first, 1)
    assert second.of(End, 1) == []
    found = resume.todo(made.plan, made.results)
    [task] = found["sessions"]
    assert (task["attempt"], found["failed"]) == (2, 2)
    mine, theirs = (lane["points"] for lane in task["lanes"])
    measured = min(len(lane.of(PointEnd)) for lane in (first, second))
    assert len(mine) == len(theirs) >= len(first.session.points) - measured


def gone(text: str) -> str:
    """A stage's reason without its host."""
    return text.partition(": ")[2]
