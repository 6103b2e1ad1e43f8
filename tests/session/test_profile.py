"""Profiles of programs, in sessions of real stage processes."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from analysis.run import read
from paretopipe_worker.records.lines import End, Item, LegEnd, PointBegin
from paretopipe_worker.records.profiles import Profile
from paretopipe_worker.session.profile import _Notes
from tests.helpers.sessions import Finished, experiment, lab, only

PLACES = ("@last", "0", "1", "2", "@first")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A session of a model whose first and last units wait 5 ms each."""
    keys = {"splits": {"cuts": ["0"]}, "profile": {"items": 4}}
    made = lab(
        tmp_path_factory.mktemp("lab"), experiment("tests.helpers.synthetic:wait_5_ms", **keys)
    )
    [session] = made.plan.sessions
    return made.run(session)


def test_every_rank_measures_each_unit_of_its_program_in_both_duties(finished: Finished) -> None:
    for rank in (0, 1):
        found = finished.of(Profile, rank)
        assert [each.duty for each in found] == ["busy", "waiting"]
        for each in found:
            assert each.places == PLACES, f"of rank {rank}; all is on it at an endpoint"
            assert each.reason is None
            assert [len(units) for units in each.unit_ns] == [4] * 4
            for units in each.unit_ns:
                # Waits end late at times, never early.
                assert units[0] >= 5_000_000 and units[3] >= 5_000_000, units
        busy, waiting = found
        assert busy.wait_ns == 0 < waiting.wait_ns
        assert busy.pauses == () and len(waiting.pauses) == 4 and {*waiting.pauses} == {1, 2, 3}


def test_a_pause_is_no_part_of_the_units_between_which_it_lies() -> None:
    notes = _Notes(wait_s=1.0)
    notes.begin(pause=2)
    for _ in range(3):
        notes.note()
    went_on, came = notes.went_on_ns, notes.came_ns
    paused = [on - came for came, on in zip(came, went_on, strict=True)]
    assert paused[0] == paused[2] == 0 and paused[1] >= 1e9
    assert came[2] - went_on[1] < 1e9, "the pause is in the unit behind it"


def test_units_without_waits_take_next_to_nothing(finished: Finished) -> None:
    [busy, _] = finished.of(Profile, 1)
    small = [statistics.median(each[unit] for each in busy.unit_ns) for unit in (1, 2)]
    assert max(small) < 5_000_000, small


def test_profiles_are_measured_before_the_points(finished: Finished) -> None:
    for lines in finished.lines:
        kinds = [type(line) for line in lines if isinstance(line, Profile | PointBegin | Item)]
        assert kinds[:2] == [Profile, Profile]
        assert Profile not in kinds[2:]
        [end] = [line for line in lines if isinstance(line, End)]
        assert end.shares_ns["profile"] > 8 * 10_000_000


def test_the_analysis_reads_them(finished: Finished) -> None:
    run = read(finished.lab.results)
    assert run.profiles[["host", "rank", "duty"]].to_numpy().tolist() == [
        *(["edge", 0, duty] for duty in ("busy", "waiting")),
        *(["server", 1, duty] for duty in ("busy", "waiting")),
    ]


def test_a_program_that_cannot_be_run_has_the_reason_and_ends_no_session(tmp_path: Path) -> None:
    asked = experiment("tests.helpers.synthetic:exhausting", profile={"items": 4})
    made = lab(tmp_path, asked)
    found = made.run(only(made, "0", "@first", "@last"))
    for each in found.of(Profile):
        assert each.unit_ns == () and "can't allocate memory" in str(each.reason), each
    assert found.of(LegEnd), "no point was measured"
