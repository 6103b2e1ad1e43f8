"""Sweeps of fleets whose stages hand out records: sessions without a common host overlap."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.recorded_fleet import RUN, recorded_fleet
from tests.helpers.sweeps import Done, Results, checkout

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces that are joined need root"),
]


@dataclass(frozen=True)
class Swept:
    """What a sweep of three pairs said and left, of which one has failed."""

    done: Done
    results: Results
    sessions: dict[str, str]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swept]:
    copy = checkout(tmp_path_factory.mktemp("fleet") / "checkout")
    with recorded_fleet(copy, 6) as fleet:
        of = {session.placement[0]: session for session in fleet.plan.sessions}
        # Each of these ends only when the other has begun.
        fleet.hold(of["h000"], until=of["h002"])
        fleet.hold(of["h002"], until=of["h000"])
        fleet.lose(of["h004"], "h005")
        done = fleet.start().wait().refused("1 of 3 sessions failed")
        names = {source: session.id for source, session in of.items()}
        yield Swept(done, copy.results(RUN), names)


@pytest.mark.must_run
def test_sessions_without_a_common_host_run_at_the_same_time(swept: Swept) -> None:
    points = swept.results.points.groupby("placement")["status"].agg(set).to_dict()
    assert points["h000>h001"] == points["h002>h003"] == {"ok"}, swept.done.output
    beside = {each["session"]: each["beside"] for each in swept.results.manifest["sessions"]}
    first, second = swept.sessions["h000"], swept.sessions["h002"]
    assert f"{second}.1" in beside[first] and f"{first}.1" in beside[second]
    for number in (1, 2, 3):
        assert f"  session {number} of 3: " in swept.done.output
    assert "  h002 > h003  paretopipe_worker.model.tiny:network none tcp  split 3 of 3" in (
        swept.done.output
    )


def test_a_session_that_fails_beside_others_is_recorded_with_its_reason(swept: Swept) -> None:
    lost = swept.sessions["h004"]
    swept.done.refused("1 of 3 sessions failed", f"{lost}: ", "h005: stage exited with 1: ")
    [(_, end)] = [
        (first, end)
        for first, end in swept.results.ends("controller")
        if end and first.session == lost
    ]
    assert end.status == "failed" and str(end.reason).startswith("h005: stage exited with 1: ")


@pytest.mark.long
def test_a_fleet_of_forty_hosts_is_swept_and_analysed(tmp_path: Path) -> None:
    copy = checkout(tmp_path / "checkout")
    with recorded_fleet(copy, 40) as fleet:
        fleet.start().wait(500).succeeded()
    points = copy.results(RUN).points
    assert set(points["status"]) == {"ok"} and len(points) == 3 * 20
