"""What a run still lacks is read from its records alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paretopipe_worker import plan, records, resume, spec
from paretopipe_worker.link import tc
from paretopipe_worker.plan import Plan, Session
from paretopipe_worker.records import End, Writer
from tests.tables import HOSTS, table
from tests.test_records import HEADER


@pytest.fixture
def made() -> Plan:
    """A plan of two sessions."""
    experiment = spec.parse(
        {"models": ["tiny"], "links": ["none", {"name": "slow", "rate_mbit": 5}]}
    )
    return plan.make("test", experiment, HOSTS, [table()])


def write(results: Path, session: Session, host: str, attempt: int, status: str | None) -> None:
    """One host's records of one attempt; without a status they are cut short."""
    path = results / "records" / host / records.file_name(session.id, attempt)
    with Writer(path) as writer:
        if status == "empty":
            return
        writer.write(HEADER)
        if status == "ok":
            writer.write(End("ok", None, 0, 1, {}))
        elif status == "failed":
            writer.write(End("failed", "because", 0, 1, {}))


def test_a_session_is_done_when_every_host_ended_well(tmp_path: Path, made: Plan) -> None:
    first, second = made.sessions
    assert [task["id"] for task in resume.todo(made, tmp_path)["sessions"]] == [first.id, second.id]
    write(tmp_path, first, "edge", 1, "ok")
    assert resume.todo(made, tmp_path)["done"] == 0
    write(tmp_path, first, "server", 1, "ok")
    left = resume.todo(made, tmp_path)
    assert left["done"] == 1
    assert [task["id"] for task in left["sessions"]] == [second.id]


@pytest.mark.parametrize("status", ["failed", None, "empty"])
def test_an_attempt_that_did_not_end_well_is_followed_by_the_next(
    tmp_path: Path, made: Plan, status: str | None
) -> None:
    first, _ = made.sessions
    write(tmp_path, first, "edge", 1, "ok")
    write(tmp_path, first, "server", 1, status)
    assert resume.todo(made, tmp_path)["sessions"][0]["attempt"] == 2
    write(tmp_path, first, "edge", 2, "ok")
    write(tmp_path, first, "server", 2, "ok")
    assert resume.todo(made, tmp_path)["done"] == 1


def test_halves_of_two_attempts_are_no_whole_one(tmp_path: Path, made: Plan) -> None:
    first, _ = made.sessions
    write(tmp_path, first, "edge", 1, "ok")
    write(tmp_path, first, "server", 2, "ok")
    left = resume.todo(made, tmp_path)
    assert (left["done"], left["sessions"][0]["attempt"]) == (0, 3)


def test_a_failure_seen_by_the_controller_counts_as_an_attempt(tmp_path: Path, made: Plan) -> None:
    first, _ = made.sessions
    path = resume.record_failure(made, first, 1, tmp_path, "edge: unreachable")
    assert path == tmp_path / "records" / "controller" / records.file_name(first.id, 1)
    *_, end = records.read(path)
    assert isinstance(end, End)
    assert (end.status, end.reason) == ("failed", "edge: unreachable")
    assert resume.todo(made, tmp_path)["sessions"][0]["attempt"] == 2


def test_a_task_holds_what_the_playbook_needs(tmp_path: Path, made: Plan) -> None:
    tasks = {task["link"]["name"]: task for task in resume.todo(made, tmp_path)["sessions"]}
    task = tasks["slow"]
    assert task["ranks"] == {"edge": 0, "server": 1}
    assert task["addresses"] == ["10.0.0.1", "10.0.0.2"]
    assert task["weights"] == ["0" * 64 + ".safetensors"]
    assert task["deadline_s"] > 0
    assert task["tcp"]["congestion_control"] == "cubic"
    assert tasks["none"]["link"]["ways"] == {"edge": [], "server": []}


def test_a_task_says_what_each_host_does_to_which_peer(tmp_path: Path) -> None:
    link = {"name": "x", "forward": {"delay_ms": 5}, "back": {"rate_mbit": 3}}
    experiment = spec.parse({"models": ["tiny"], "links": [link, "paper-delay200"]})
    made = plan.make("test", experiment, HOSTS, [table()])
    tasks = {task["link"]["name"]: task for task in resume.todo(made, tmp_path)["sessions"]}
    ways = tasks["x"]["link"]["ways"]
    (out,), (home,) = ways["edge"], ways["server"]
    assert (out["peer"], out["condition"]["delay_ms"]) == ("10.0.0.2", 5)
    assert (home["peer"], home["condition"]["rate_mbit"]) == ("10.0.0.1", 3)
    assert tasks["paper-delay200"]["link"]["ways"]["server"] == []
    # As the hosts read it.
    profile = {"name": "x", "ways": ways["edge"]}
    assert tc.Shaping.parse(json.dumps(profile), (29400,)).ways[0].condition.delay_ms == 5
