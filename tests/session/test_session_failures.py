"""Points and sessions that fail: what is recorded, and what the next attempt is to do."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

import pytest

from analysis.run import read
from analysis.tables.points import points
from paretopipe_worker.__main__ import main
from paretopipe_worker.plan import resume
from paretopipe_worker.plan.plan import program_files
from paretopipe_worker.records.files import file_name
from paretopipe_worker.records.lines import End, Header, LegEnd, PointBegin, PointEnd
from paretopipe_worker.session import stage
from tests.helpers import synthetic
from tests.helpers.sessions import experiment, lab, of
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow


def test_too_few_items_are_a_failed_point(tmp_path: Path) -> None:
    phases = {"min_items": 50, "min_s": 0, "max_s": 0.1, "warmup_items": 1, "retries": 0}
    made = lab(
        tmp_path,
        experiment("tests.helpers.synthetic:wait_20_ms", splits={"cuts": ["2"]}, phases=phases),
    )
    [session] = made.plan.sessions
    done = made.run(session)
    reasons = {end.reason for end in done.of(PointEnd)}
    assert all("items in phase" in (reason or "") for reason in reasons), reasons
    assert resume.todo(made.plan, made.results)["failed"] == len(session.points)
    [task] = resume.todo(made.plan, made.results, retry_failed=True)["sessions"]
    assert (task["points"], task["attempt"]) == (list(session.points), 2)
    assert {end.ended_by for end in done.of(LegEnd)} == {"maximum"}


def test_a_model_that_cannot_be_run_fails_its_point_and_not_the_session(tmp_path: Path) -> None:
    made = lab(tmp_path, experiment("tests.helpers.synthetic:exhausting"))
    first, *others = made.run(made.plan.sessions[0]).of(PointEnd)
    assert first.status == "failed"
    assert first.reason is not None
    said, _, place = first.reason.partition(" (")
    assert said == "RuntimeError: can't allocate memory: you tried to allocate 9 bytes."
    assert place.startswith(str(Path(synthetic.__file__)))
    assert others and {end.status for end in others} == {"ok"}
    assert resume.todo(made.plan, made.results)["failed"] == 1


@pytest.mark.parametrize("victim", ["edge", "server"])
def test_a_killed_stage_ends_the_session_and_the_next_attempt_measures_it(
    tmp_path: Path, victim: str
) -> None:
    made = lab(tmp_path, experiment("tests.helpers.synthetic:wait_5_ms"))
    [session] = made.plan.sessions
    stages = {host: made.start(session, host) for host in session.placement}
    progress = made.first_point(stages.values())
    stages[victim].send_signal(signal.SIGKILL)
    survivor = next(host for host in stages if host != victim)
    _, text = stages[survivor].communicate(timeout=60)
    assert stages[survivor].returncode == 1, text
    end = made.written(session, survivor)[-1]
    assert isinstance(end, End)
    assert end.status == "failed"
    assert end.reason is not None
    assert "127.0.0." in end.reason
    assert not isinstance(made.written(session, victim)[-1], End), "a killed stage wrote its end"
    stages[victim].communicate()
    reported = len(progress.read_text().splitlines())  # the last may have been killed with it
    [task] = resume.todo(made.plan, made.results)["sessions"]
    assert task["attempt"] == 2
    finished = [end.point for end in of(PointEnd, made.written(session, "edge"))]
    assert 0 < len(finished) < len(session.points)
    rest = [point for point in session.points if point not in finished]
    begun = [line.point for line in of(PointBegin, made.written(session, "edge"))]
    # What was in hand may have been the reason, so all else comes before it.
    assert task["points"] == (rest if begun == finished else [*rest[1:], rest[0]])
    again = made.run(session.only(task["points"]), attempt=2)
    [header] = again.of(Header)
    assert list(header.points) == [end.point for end in again.of(PointEnd)] == task["points"]
    lines = [json.loads(line) for line in progress.read_text().splitlines()[reported:]]
    count = len(task["points"])
    assert [(line["done"], line["of"]) for line in lines] == [
        (number, count) for number in range(1, count + 1)
    ]
    assert resume.todo(made.plan, made.results)["done"] == 1
    assert set(points(read(made.results))["status"]) == {"ok"}


def test_a_signal_is_the_recorded_reason(tmp_path: Path) -> None:
    made = lab(tmp_path, experiment())
    [session] = made.plan.sessions
    started = made.start(session, "server")
    path = made.results / "records" / "server" / file_name(session.id, 1)
    until(
        lambda: (path.exists() and path.read_text()) or started.poll() is not None,
        "the first record",
    )
    assert started.poll() is None
    started.send_signal(signal.SIGTERM)
    started.communicate(timeout=30)
    end = made.written(session, "server")[-1]
    assert isinstance(end, End)
    assert (end.reason, end.interrupted) == ("server: ended by SIGTERM", True)


def test_a_signal_is_the_reason_even_where_a_library_makes_an_error_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = lab(tmp_path, experiment())
    [session] = made.plan.sessions

    def loads(*_: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        except BaseException as error:
            raise ValueError("the library's own") from error

    monkeypatch.setattr(stage, "_session", loads)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        assert main(made.arguments(session, "server")) == 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    end = made.written(session, "server")[-1]
    assert isinstance(end, End)
    assert (end.reason, end.interrupted) == ("server: ended by SIGTERM", True)


def test_a_port_in_use_is_named_in_the_records(tmp_path: Path) -> None:
    made = lab(tmp_path, experiment())
    [session] = made.plan.sessions
    host = made.plan.host("edge")
    with socket.create_server((host.data_address, host.data_port)):
        started = made.start(session, "edge")
        started.communicate(timeout=60)
    assert started.returncode == 1
    end = made.written(session, "edge")[-1]
    assert isinstance(end, End)
    assert end.reason is not None
    assert f"edge: cannot listen at 127.0.0.1:{host.data_port}" in end.reason
    assert "in use" in end.reason


@pytest.mark.parametrize("which", [0, 1], ids=["program", "tensors"])
def test_a_missing_program_or_tensors_are_named_in_the_records(tmp_path: Path, which: int) -> None:
    made = lab(tmp_path, experiment())
    [session], [table] = made.plan.sessions, made.plan.tables
    missing = program_files(table, made.cache / "programs")[which]
    missing.unlink()
    stage = made.start(session, "edge")
    stage.communicate(timeout=60)
    end = made.written(session, "edge")[-1]
    assert isinstance(end, End)
    assert end.reason is not None
    assert f"{missing}: is not on this host; run the sweep again" in end.reason
