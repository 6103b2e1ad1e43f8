"""What a run still lacks is read from its records alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.measures.replicates import replicates
from analysis.run import read
from paretopipe_worker.plan import attempts, controller, planner, resume, spec
from paretopipe_worker.plan.attempts import MEASURED
from paretopipe_worker.plan.plan import Plan, PlanError, Session
from paretopipe_worker.records.files import RecordError, Writer, file_name, read_records
from paretopipe_worker.records.lines import End
from paretopipe_worker.shaping.egress import EgressSpec
from tests.helpers import fake_plan
from tests.helpers.attempts import header, leg, write
from tests.helpers.disks import NEEDS_ROOT, full, small_disk
from tests.helpers.fake_run import FakeRun
from tests.helpers.tables import HOSTS, table


@pytest.fixture
def made() -> Plan:
    """A plan of two sessions."""
    experiment = spec.parse(
        {"models": ["tiny"], "links": ["none", {"name": "slow", "rate_mbit": 5}]}
    )
    return planner.make("test", experiment, HOSTS, [table()])


def left(made: Plan, results: Path, **options: bool) -> dict[str, list[str]]:
    """The points that are left, by session."""
    tasks = resume.todo(made, results, **options)["sessions"]
    return {task["id"]: task["points"] for task in tasks}


def test_a_run_without_records_lacks_every_point_of_every_session(
    tmp_path: Path, made: Plan
) -> None:
    found = resume.todo(made, tmp_path)
    assert left(made, tmp_path) == {each.id: list(each.points) for each in made.sessions}
    assert [task["attempt"] for task in found["sessions"]] == [1, 1]
    assert (found["done"], found["failed"]) == (0, 0)
    assert found["text"] == "2 of 2 sessions to go: 10 points, about 2 min predicted"
    assert found["predicted_s"] == pytest.approx(made.predicted_hours * 3600, abs=2)
    seconds = [task["predicted_s"] for task in found["sessions"]]
    assert sum(seconds) == pytest.approx(found["predicted_s"], abs=0.1)


def test_what_one_attempt_measured_is_left_out_of_the_next(tmp_path: Path, made: Plan) -> None:
    first, second = made.sessions
    write(made, tmp_path, first, ok=first.points[:2], end=None)
    found = resume.todo(made, tmp_path)
    assert left(made, tmp_path)[first.id] == list(first.points[2:])
    assert found["sessions"][0]["attempt"] == 2
    assert found["text"].startswith("2 of 2 sessions to go: 8 points, about ")
    assert found["sessions"][0]["planned"] == 5
    assert found["predicted_s"] < made.predicted_hours * 3600
    write(made, tmp_path, first, 2, ok=first.points[2:], end="failed")
    assert left(made, tmp_path) == {second.id: list(second.points)}
    assert resume.todo(made, tmp_path)["done"] == 1


def crossing(made: Plan, session: Session) -> str:
    """A point in which both hosts have a part."""
    return next(point for point in session.points if made.point(point).hops[0])


def test_a_point_needs_the_phases_of_every_host_that_has_a_part_in_it(
    tmp_path: Path, made: Plan
) -> None:
    first, _ = made.sessions
    write(made, tmp_path, first, ok=first.points, hosts=["edge"])
    alone = next(point for point in first.points if not made.point(point).hops[0])
    assert set(first.points) - set(left(made, tmp_path)[first.id]) == {alone}
    write(made, tmp_path, first, 2, ok=first.points, phases=["latency"])
    assert crossing(made, first) in left(made, tmp_path)[first.id]


def test_every_host_needs_the_last_leg_of_a_phase(tmp_path: Path, made: Plan) -> None:
    first, _ = made.sessions
    write(made, tmp_path, first, ok=first.points, end=None)
    point = made.point(crossing(made, first))
    for rank, (host, sessions_left) in enumerate((("edge", 2), ("server", 1))):
        with (tmp_path / "records" / host / file_name(first.id, 1)).open("a") as file:
            for line in leg(point, rank, "latency", number=2):
                file.write(json.dumps(vars(line)) + "\n")
        assert len(left(made, tmp_path)) == sessions_left


def test_halves_of_two_attempts_are_no_whole_one(tmp_path: Path, made: Plan) -> None:
    first, _ = made.sessions
    write(made, tmp_path, first, 1, ok=first.points, hosts=["edge"])
    write(made, tmp_path, first, 2, ok=first.points, hosts=["server"])
    task = resume.todo(made, tmp_path)["sessions"][0]
    assert task["attempt"] == 3
    assert crossing(made, first) in task["points"]


def test_a_phase_that_was_measured_without_the_end_of_its_point_does_not_count(
    tmp_path: Path, made: Plan
) -> None:
    first, _ = made.sessions
    path = tmp_path / "records/edge" / file_name(first.id, 1)
    with Writer(path) as writer:
        writer.write(header(made, first, 1, 0))
        for phase in MEASURED:
            for line in leg(made.point(first.points[0]), 0, phase):  # type: ignore[arg-type]
                writer.write(line)
    assert left(made, tmp_path)[first.id] == list(first.points)


@pytest.mark.parametrize("kept", [0, 10])
def test_a_file_cut_short_anywhere_is_an_attempt(tmp_path: Path, made: Plan, kept: int) -> None:
    first, _ = made.sessions
    write(made, tmp_path, first, ok=first.points[:1])
    for path in tmp_path.glob("records/*/*.jsonl"):
        path.write_bytes(path.read_bytes()[:kept])
    task = resume.todo(made, tmp_path)["sessions"][0]
    assert (task["points"], task["attempt"]) == (list(first.points), 2)


def test_a_point_that_failed_by_itself_is_tried_again_only_if_asked(
    tmp_path: Path, made: Plan
) -> None:
    first, second = made.sessions
    write(made, tmp_path, first, ok=first.points[1:], failed=first.points[:1])
    found = resume.todo(made, tmp_path)
    assert left(made, tmp_path) == {second.id: list(second.points)}
    assert (found["done"], found["failed"]) == (1, 1)
    assert "1 points failed by themselves" in found["text"]
    again = left(made, tmp_path, retry_failed=True)
    assert again[first.id] == list(first.points[:1])
    write(made, tmp_path, first, 2, ok=first.points[:1])
    assert first.id not in left(made, tmp_path, retry_failed=True)
    assert resume.todo(made, tmp_path)["failed"] == 0


def test_a_point_lost_with_its_session_is_always_tried_again(tmp_path: Path, made: Plan) -> None:
    first, _ = made.sessions
    write(made, tmp_path, first, failed=first.points[:1], end="failed")
    assert left(made, tmp_path)[first.id] == list(first.points[1:])


def test_what_was_in_hand_when_a_session_broke_comes_last_and_fails_after_two_tries(
    tmp_path: Path, made: Plan
) -> None:
    first, _ = made.sessions
    done, killer, *rest = first.points
    write(made, tmp_path, first, 1, ok=[done], in_hand=killer, end=None)
    assert left(made, tmp_path)[first.id] == [*rest, killer]
    # What comes behind it is measured before it breaks the session again.
    again = (*rest, killer)
    write(made, tmp_path, first, 2, ok=rest, in_hand=killer, end="failed", points=again)
    found = resume.todo(made, tmp_path)
    assert first.id not in [task["id"] for task in found["sessions"]]
    assert found["failed"] == 1
    [(_, lost), (_, failed)] = attempts.outcomes(
        attempts.read(made, tmp_path).of(first.id), made.point(killer)
    )
    assert (lost.status, failed.status) == ("lost", "failed")
    assert failed.reason == "in hand when the session broke 2 times: edge: broke; server: broke"
    assert left(made, tmp_path, retry_failed=True)[first.id] == [killer]
    write(made, tmp_path, first, 3, ok=[killer], points=(killer,))
    assert first.id not in left(made, tmp_path, retry_failed=True)


def test_a_session_that_was_told_to_end_is_not_held_against_the_point_in_hand(
    tmp_path: Path, made: Plan
) -> None:
    first, _ = made.sessions
    ended: Any = {"in_hand": first.points[0], "end": "failed", "interrupted": True}
    for attempt in (1, 2, 3):
        write(made, tmp_path, first, attempt, **ended)
    assert resume.todo(made, tmp_path)["failed"] == 0
    assert left(made, tmp_path)[first.id] == [*first.points[1:], first.points[0]]
    # One stage that vanished tells more than the others, which were ended then.
    for attempt in (21, 22):
        write(made, tmp_path, first, attempt, hosts=["edge"], **ended)
        write(made, tmp_path, first, attempt, hosts=["server"], end=None)
    assert resume.todo(made, tmp_path)["failed"] == 1


def test_a_session_takes_no_points_of_another(made: Plan) -> None:
    first, second = made.sessions
    assert first.only(None) == first
    some = (first.points[2], first.points[0])
    assert first.only(some).points == some
    with pytest.raises(PlanError, match="a point is given twice"):
        first.only(some[:1] * 2)
    with pytest.raises(PlanError, match=f"'{first.id}' has no point {second.points[0]}"):
        first.only(second.points[:1])


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({"plan_sha256": "ab" * 32}, {}, "was measured by plan abababababab, and plan.json of run"),
        ({"code_sha256": "cd" * 32}, {}, "this checkout: has code of the worker"),
        ({}, {"torch": {"edge": "2.12.1"}}, "now: edge has torch 2.12.1, and measured"),
    ],
    ids=["plan", "code", "torch"],
)
def test_a_run_goes_on_only_with_its_own_plan_code_and_torch(
    tmp_path: Path, made: Plan, change: dict[str, str], options: Any, words: str
) -> None:
    first, _ = made.sessions
    write(made, tmp_path, first, ok=first.points[:1], **change)
    with pytest.raises(RecordError, match=words) as refused:
        resume.todo(made, tmp_path, **options)
    assert file_name(first.id, 1) in str(refused.value)
    assert "-e run=NAME" in str(refused.value)
    if not options:
        with pytest.raises(RecordError, match=words):
            resume.hold(made, tmp_path)


def test_a_failure_seen_by_the_controller_counts_as_an_attempt(tmp_path: Path, made: Plan) -> None:
    first, _ = made.sessions
    path = controller.record_failure(made, first, 1, tmp_path, "edge: unreachable")
    assert path == tmp_path / "records" / "controller" / file_name(first.id, 1)
    *_, end = read_records(path)
    assert isinstance(end, End)
    assert (end.status, end.reason) == ("failed", "edge: unreachable")
    assert resume.todo(made, tmp_path)["sessions"][0]["attempt"] == 2


@pytest.mark.skipif(os.geteuid() != 0, reason=NEEDS_ROOT)
def test_a_failure_that_there_is_no_space_for_can_be_recorded_later(
    tmp_path: Path, made: Plan
) -> None:
    session = made.sessions[0]
    with small_disk(tmp_path / "results", 64) as results:
        with full(results), pytest.raises(OSError, match="No space left on device"):
            controller.record_failure(made, session, 1, results, "edge: unreachable")
        assert not list(results.rglob("*.*"))
        path = controller.record_failure(made, session, 1, results, "edge: unreachable")
        with pytest.raises(FileExistsError):
            controller.record_failure(made, session, 1, results, "another reason")
        assert len(list(read_records(path))) == 2 and list(results.rglob("*.*")) == [path]


def test_a_task_holds_what_the_playbook_needs(tmp_path: Path, made: Plan) -> None:
    tasks = {task["link"]["name"]: task for task in resume.todo(made, tmp_path)["sessions"]}
    task = tasks["slow"]
    assert task["ranks"] == {"edge": 0, "server": 1}
    assert task["addresses"] == {"edge": "10.0.0.1", "server": "10.0.0.2"}
    assert task["tensors"] == dict.fromkeys(("edge", "server"), "0" * 64 + ".safetensors")
    assert task["deadline_s"] > 0
    assert task["tcp"]["congestion_control"] == "cubic"
    assert tasks["none"]["link"]["ways"] == {"edge": [], "server": []}


def test_a_task_says_what_each_host_does_to_which_peer(tmp_path: Path) -> None:
    link = {"name": "x", "forward": {"delay_ms": 5}, "back": {"rate_mbit": 3}}
    experiment = spec.parse({"models": ["tiny"], "links": [link, "paper-delay200"]})
    made = planner.make("test", experiment, HOSTS, [table()])
    tasks = {task["link"]["name"]: task for task in resume.todo(made, tmp_path)["sessions"]}
    ways = tasks["x"]["link"]["ways"]
    (out,), (home,) = ways["edge"], ways["server"]
    assert (out["peer"], out["condition"]["delay_ms"]) == ("10.0.0.2", 5)
    assert (home["peer"], home["condition"]["rate_mbit"]) == ("10.0.0.1", 3)
    assert tasks["paper-delay200"]["link"]["ways"]["server"] == []
    # As the hosts read it.
    profile = {"name": "x", "ways": ways["edge"]}
    assert EgressSpec.parse(json.dumps(profile), (29400,)).ways[0].condition.delay_ms == 5


def agree(fake: FakeRun) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Hold that resume and analysis count alike; return the replicates and what is to do."""
    found = replicates(read(fake.path))
    lacking = found[found["status"] != "ok"]
    uncounted: dict[str, set[str]] = {}
    for session, point in zip(lacking["session"], lacking["point"], strict=True):
        uncounted.setdefault(session, set()).add(point)
    again = left(fake.plan, fake.path, retry_failed=True)
    assert {name: set(points) for name, points in again.items()} == uncounted
    return found.set_index("point"), resume.todo(fake.plan, fake.path)


def test_what_the_analysis_counts_as_measured_is_what_is_not_measured_again(tmp_path: Path) -> None:
    made = fake_plan.make(fake_plan.tiny_table(), links=fake_plan.TWO_LINKS)
    fake = FakeRun(tmp_path / "run", made)
    first, second = made.sessions
    fake.session(first, 1, points=first.points[:2], end="none")
    rest = first.points[2:]
    fake.session(first, 2, points=rest[1:], end="failed", reason="x", header={"points": rest})
    fake.controller_failure(second, 1, "edge: unreachable")
    fake.session(second, 2, points=second.points[1:])
    (fake.file(second, 2, "server")).unlink()
    measured, _ = agree(fake)
    assert set(measured["tries"]) == {1, 2}
    assert set(measured.loc[list(first.points[:2]), "tries"]) == {1}


def spoilt(line: dict[str, Any], point: str, how: str) -> dict[str, Any] | None:
    """A line of the source's records as it is where a replicate must not count."""
    if line.get("point") != point:
        return line
    if line["kind"] == "item" and line["phase"] == "latency" and how == "items":
        return None if line["seq"] >= 7 else line
    if line["kind"] == "phase" and line["phase"] == "throughput" and how == "wire":
        return line | {"wire_sent_bytes": 10}
    return line


@pytest.mark.parametrize(
    ("how", "reason"),
    [("wire", "the network counted 10"), ("items", "phase latency has 5 items, at least 6")],
)
def test_a_replicate_whose_figures_must_not_be_used_failed_by_itself_and_can_be_retried(
    tmp_path: Path, how: str, reason: str
) -> None:
    fake = FakeRun(tmp_path / "run", fake_plan.make(fake_plan.tiny_table()), items=8)
    [session] = fake.plan.sessions
    source, _ = fake.session(session, 1)
    point = crossing(fake.plan, session)
    lines = [spoilt(json.loads(line), point, how) for line in source.read_text().splitlines()]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines if line))
    measured, todo = agree(fake)
    assert reason in measured.loc[point, "reason"]
    assert (todo["failed"], todo["sessions"]) == (1, [])
    assert left(fake.plan, fake.path, retry_failed=True) == {session.id: [point]}
    fake.session(session, 2, points=[point], header={"points": (point,)})
    measured, todo = agree(fake)
    assert (set(measured["status"]), todo["failed"]) == ({"ok"}, 0)
