"""Points measured on busy hosts: which there are, what they are called, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from paretopipe_worker.plan import resume, spec
from paretopipe_worker.plan.fleet import Busy
from paretopipe_worker.plan.plan import PlanError
from tests.helpers.tables import HOSTS, fleet, make

EDGE, SERVER = HOSTS
LOADED = (EDGE, replace(SERVER, busy=Busy(2, 200)))


def test_every_point_is_measured_on_hosts_at_rest_and_on_busy_ones() -> None:
    made = make(hosts=LOADED, busy=[False, True])
    plain = {point.id for point in make().points}
    assert {point.id for point in made.points if not point.busy} == plain
    busy = [point for point in made.points if point.busy]
    assert len(busy) == len(plain) and plain.isdisjoint(point.id for point in busy)
    for session in made.sessions:
        assert session.id.endswith("-busy") == session.busy
        assert {made.point(point).busy for point in session.points} == {session.busy}


def test_a_load_that_is_not_asked_for_changes_no_plan() -> None:
    assert make(hosts=LOADED).sessions == make().sessions
    assert make(hosts=LOADED).points == make().points


def test_true_alone_asks_for_busy_hosts_alone() -> None:
    assert {point.busy for point in make(hosts=LOADED, busy=True).points} == {True}


def test_placements_without_a_host_that_can_be_busy_are_measured_at_rest_alone() -> None:
    hosts = (*fleet(2), replace(fleet(3)[2], busy=Busy(1)))
    placements = [["h0", "h1"], ["h0", "h2"]]
    made = make(hosts=hosts, placements=placements, busy=[False, True])
    measured = {(point.placement, point.busy) for point in made.points}
    assert measured == {(("h0", "h1"), False), (("h0", "h2"), False), (("h0", "h2"), True)}


def test_busy_hosts_are_refused_where_none_can_be() -> None:
    with pytest.raises(PlanError, match=r"^busy: no host of the inventory's group 'stages' has"):
        make(busy=[False, True])


def test_what_is_no_flag_is_refused() -> None:
    with pytest.raises(spec.SpecError, match=r"spec: busy\[0\]: .*boolean"):
        make(busy=["very"])


def test_a_task_says_what_load_each_host_runs(tmp_path: Path) -> None:
    made = make(hosts=LOADED, busy=[False, True], links=["none"])
    loads = [task["loads"] for task in resume.todo(made, tmp_path)["sessions"]]
    asked = {"server": ["--load-cores=2", "--load-memory-mb=200"]}
    assert sorted(loads, key=len) == [{}, asked]
