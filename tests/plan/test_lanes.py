"""Several sources that share a sink: the lanes of a plan, and when their points count."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paretopipe_worker.plan import attempts, identity, lanes, planner, resume, spec
from paretopipe_worker.plan.fleet import Host
from paretopipe_worker.plan.plan import Plan, PlanError, Session
from paretopipe_worker.plan.summary import summary
from tests.helpers.attempts import write
from tests.helpers.tables import table

FLEET = tuple(
    Host(name=name, data_address=f"10.0.0.{number}", data_port=29400)
    for number, name in enumerate(("edge", "edge2", "edge3", "server"), start=1)
)
FORTH_AND_BACK = {"name": "uneven", "forward": {"delay_ms": 5}, "back": {"rate_mbit": 30}}
TRACE = {"name": "drive", "trace": "time_s,rate_mbit\n0,30\n5,20\n", "period_s": 10}


def make(*sources: int, hosts: tuple[Host, ...] = FLEET, **keys: Any) -> Plan:
    """A plan for so many sources."""
    document = {"models": ["tiny"], "placements": [["edge", "server"]]}
    asked: dict[str, Any] = {"sources": list(sources)} if sources else {}
    return planner.make("test", spec.parse(document | asked | keys), hosts, [table()])


def group_of(made: Plan, sources: int) -> tuple[Session, ...]:
    """The only group with so many sources."""
    [found] = [group for group in made.groups if group[0].sources == sources]
    return found


def test_each_source_has_a_lane_of_its_own_to_the_same_sink() -> None:
    group = group_of(make(1, 3), 3)
    assert [session.placement for session in group] == [
        ("edge", "server"),
        ("edge2", "server"),
        ("edge3", "server"),
    ]
    assert [session.lane for session in group] == [0, 1, 2]
    assert len({session.group for session in group}) == 1


def test_lanes_walk_the_same_splits_in_the_same_order_as_points_of_their_own() -> None:
    made = make(3)
    walked = [[made.point(point) for point in session.points] for session in made.sessions]
    assert len({tuple(point.split for point in points) for points in walked}) == 1
    assert len({point.id for points in walked for point in points}) == 3 * len(walked[0])
    for session, points in zip(made.sessions, walked, strict=True):
        assert {point.placement for point in points} == {session.placement}
        assert {point.sources for point in points} == {3}


def test_one_source_is_planned_as_ever() -> None:
    alone, said, both = make(), make(1), make(1, 2)
    assert identity.digest(alone) == identity.digest(said) != identity.digest(both)
    assert alone.sessions == said.sessions
    for of_alone, of_both in ((alone.points, both.points), (alone.sessions, both.sessions)):
        assert {each.id for each in of_alone} < {each.id for each in of_both}


def test_people_are_told_which_hosts_send_at_the_same_time() -> None:
    said = summary(make(1, 3)).splitlines()
    assert "3 sources at the same time: edge > server and edge2 > server and edge3 > server" in said
    assert any("2 sessions: 20 measurements" in line for line in said)


def test_no_two_lanes_share_a_port_of_a_host() -> None:
    made = make(3)
    ports = [lanes.hosts_of(made, session)[1].data_port for session in made.sessions]
    controls = [lanes.hosts_of(made, session)[1].control_port for session in made.sessions]
    assert (ports, controls) == ([29400, 29402, 29404], [29401, 29403, 29405])


AT_THE_END = (*FLEET[:3], replace(FLEET[3], data_port=32764))
ON_ONE_ADDRESS = (FLEET[0], replace(FLEET[1], data_address="10.0.0.1", data_port=29402), FLEET[3])


@pytest.mark.parametrize(
    ("keys", "hosts", "words"),
    [
        ({}, FLEET[:1] + FLEET[3:], "3 sources need 2 hosts beside those of placement edge > serv"),
        (
            {"placements": [["edge", "edge2", "server"]]},
            FLEET,
            "placements of two hosts only; placement edge > edge2 > server has 3",
        ),
        (
            {"placements": [["edge", "server"], ["edge2", "server"]]},
            FLEET,
            "edge2 > server is a lane both of placement edge > server and of edge2 > server",
        ),
        ({"links": [TRACE]}, FLEET, r"links\[0\]: drive follows a trace, which 3 sources cannot"),
        ({"phases": {"load": {}}}, FLEET, "phases.load: with 3 sources no loads are offered"),
        ({}, AT_THE_END, "server: data_port 32764: 3 sources take 6 ports from there; .* to 32762"),
        ({"sources": [2]}, ON_ONE_ADDRESS, "edge2: data_port 29402: 2 sources .* has 29402"),
    ],
    ids=["hosts", "stages", "lanes", "trace", "load", "last port", "port"],
)
def test_what_several_sources_cannot_have_is_refused(
    keys: dict[str, Any], hosts: tuple[Host, ...], words: str
) -> None:
    with pytest.raises(PlanError, match=words) as refused:
        make(*keys.pop("sources", [3]), hosts=hosts, **keys)
    assert "\n" not in str(refused.value)


def test_a_group_is_one_task_that_names_the_stages_of_each_host(tmp_path: Path) -> None:
    made = make(2, links=[FORTH_AND_BACK])
    [task] = resume.todo(made, tmp_path)["sessions"]
    assert task["ranks"] == {"edge": 0, "server": 1, "edge2": 0}
    assert task["addresses"] == {"edge": "10.0.0.1", "edge2": "10.0.0.2", "server": "10.0.0.4"}
    assert task["ports"] == [29400, 29402]
    assert [lane["hosts"] for lane in task["lanes"]] == [["edge", "server"], ["edge2", "server"]]
    assert [lane["points"] for lane in task["lanes"]] == [list(s.points) for s in made.sessions]
    assert [lane["name"] for lane in task["lanes"]] == [f"{s.id}.1" for s in made.sessions]
    assert task["name"] == f"{made.sessions[0].group}.1"


def test_the_shared_host_shapes_what_it_sends_to_each_source(tmp_path: Path) -> None:
    [task] = resume.todo(make(2, links=[FORTH_AND_BACK]), tmp_path)["sessions"]
    ways = {
        host: {way["peer"]: way["condition"] for way in those}
        for host, those in task["link"]["ways"].items()
    }
    assert set(ways["server"]) == {"10.0.0.1", "10.0.0.2"}
    assert {way["rate_mbit"] for way in ways["server"].values()} == {30}
    assert set(ways["edge"]) == set(ways["edge2"]) == {"10.0.0.4"}
    assert ways["edge2"]["10.0.0.4"]["delay_ms"] == 5


def test_what_one_lane_lacks_is_measured_again_in_all(tmp_path: Path) -> None:
    made = make(2)
    first, second = group_of(made, 2)
    write(made, tmp_path, first, ok=first.points)
    write(made, tmp_path, second, ok=second.points[1:], end="failed")
    [task] = resume.todo(made, tmp_path)["sessions"]
    assert [lane["points"] for lane in task["lanes"]] == [[first.points[0]], [second.points[0]]]
    assert (task["attempt"], task["planned"]) == (2, len(first.points))
    write(made, tmp_path, first, 2, ok=first.points[:1], points=first.points[:1])
    write(made, tmp_path, second, 2, ok=second.points[:1], points=second.points[:1])
    found = resume.todo(made, tmp_path)
    assert (found["sessions"], found["done"]) == ([], 1)


def test_a_point_whose_link_was_off_in_one_lane_is_measured_again_in_all(tmp_path: Path) -> None:
    made = make(2)
    group = first, second = group_of(made, 2)
    for session in group:
        write(made, tmp_path, session, ok=session.points)
    found = resume.todo(made, tmp_path, uncertified={second.id: second.points[1:2]})
    [task] = found["sessions"]
    assert [lane["points"] for lane in task["lanes"]] == [[first.points[1]], [second.points[1]]]


def test_halves_of_two_attempts_are_no_whole_one(tmp_path: Path) -> None:
    made = make(2)
    first, second = group_of(made, 2)
    write(made, tmp_path, first, 1, ok=first.points)
    write(made, tmp_path, second, 2, ok=second.points)
    [task] = resume.todo(made, tmp_path)["sessions"]
    assert (task["attempt"], task["points"]) == (3, list(first.points))


def test_a_point_that_failed_in_one_lane_failed_in_all(tmp_path: Path) -> None:
    made = make(2)
    first, second = group_of(made, 2)
    write(made, tmp_path, first, ok=first.points)
    write(made, tmp_path, second, ok=second.points[1:], failed=second.points[:1])
    found = resume.todo(made, tmp_path)
    assert (found["sessions"], found["failed"]) == ([], 2)
    of_first, of_second = found["failures"]
    assert of_first.endswith(": edge2 > server: too slow")
    assert of_second.endswith("): too slow")


def test_what_was_in_hand_in_one_lane_as_sessions_broke_fails_in_all_after_two_tries(
    tmp_path: Path,
) -> None:
    made = make(2)
    first, second = group_of(made, 2)
    _, *rest = first.points
    for attempt in (1, 2):
        # The first lane had ended the point, or had not begun it.
        write(made, tmp_path, first, attempt, ok=rest, end="failed")
        write(made, tmp_path, second, attempt, in_hand=second.points[0], end=None)
        found = resume.todo(made, tmp_path)
    assert (found["failed"], found["sessions"][1:]) == (2, [])
    read = attempts.read(made, tmp_path)
    for session in (first, second):
        *_, (_, last) = attempts.outcomes(read.of(session.id), made.point(session.points[0]))
        assert (last.status, "in hand when the session broke 2 times" in (last.reason or "")) == (
            "failed",
            True,
        )


def test_lanes_that_were_told_to_end_are_not_held_against_the_point_in_hand(
    tmp_path: Path,
) -> None:
    made = make(2)
    first, second = group_of(made, 2)
    for attempt in (1, 2, 3):
        hand: Any = {"end": "failed", "in_hand": first.points[0]}
        write(made, tmp_path, first, attempt, **hand)
        hand = {"end": "failed", "in_hand": second.points[0], "interrupted": True}
        write(made, tmp_path, second, attempt, **hand)
    found = resume.todo(made, tmp_path)
    [task] = found["sessions"]
    assert (found["failed"], task["points"]) == (0, [*first.points[1:], first.points[0]])


def test_what_is_refused_in_one_lane_is_refused_in_all() -> None:
    made = make(1, 2)
    first, second = group_of(made, 2)
    refused = lanes.together(made, {second.points[1]: "no room"})
    assert refused == {first.points[1]: "no room", second.points[1]: "no room"}
    [alone] = group_of(made, 1)
    assert lanes.together(made, {alone.points[0]: "no"}) == {alone.points[0]: "no"}
