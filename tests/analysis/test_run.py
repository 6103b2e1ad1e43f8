"""Reading a run: what is cut short, damaged or of another run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from analysis import pareto
from analysis.run import RunError, read
from analysis.tables.points import points
from paretopipe_worker.plan import resume
from paretopipe_worker.plan.belonging import ForeignRecords
from tests.helpers.fake_plan import make, tiny_table
from tests.helpers.fake_run import FakeRun


@pytest.fixture
def fake(tmp_path: Path) -> FakeRun:
    return FakeRun(tmp_path / "results" / "made-up", make(tiny_table()), items=8)


def test_a_whole_run_becomes_tidy_frames_without_warnings(fake: FakeRun) -> None:
    run = read(fake.all_sessions().path)
    assert run.warnings == ()
    assert set(run.items["phase"]) == {"warmup", "latency", "throughput"}
    assert list(run.items.columns[:5]) == ["session", "attempt", "replicate", "host", "rank"]
    assert run.items["latency_ns"].isna().sum() == (run.items["rank"] == 1).sum()
    assert list(run.sessions["status"]) == ["ok", "ok"]
    assert run.sessions["transport"].iloc[0] == {"congestion": "cubic"}


def test_frames_have_the_same_dtypes_with_and_without_records(fake: FakeRun) -> None:
    before = read(fake.path)
    after = read(fake.all_sessions().path)
    for name in ("items", "legs", "points", "probes"):
        assert getattr(before, name).empty
        assert getattr(before, name).dtypes.equals(getattr(after, name).dtypes), name


def test_a_file_without_end_line_is_truncated_and_named(fake: FakeRun) -> None:
    paths = fake.session(fake.plan.sessions[0], end="none")
    run = read(fake.path)
    assert list(run.sessions["status"]) == ["truncated", "truncated"]
    assert all(str(path) in text for path, text in zip(paths, run.warnings, strict=True))
    assert all("truncated" in text for text in run.warnings)


def test_an_unfinished_last_line_is_passed_over(fake: FakeRun) -> None:
    path = fake.session(fake.plan.sessions[0], end="none")[0]
    whole = len(read(fake.path).items)
    with path.open("a") as file:
        file.write('{"point":"x","phase"')
    assert len(read(fake.path).items) == whole


def test_an_empty_file_is_named_and_counts_as_nothing(fake: FakeRun) -> None:
    path = fake.file(fake.plan.sessions[0], 1, "pi")
    path.parent.mkdir(parents=True)
    path.touch()
    run = read(fake.path)
    assert run.sessions.empty
    assert run.warnings == (f"{path}: truncated: it holds no header; nothing of it counts",)


@pytest.mark.usefixtures("undrawn")
def test_a_damaged_file_is_named_its_session_counts_for_nothing_and_the_rest_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make(tiny_table(), replicates=2)
    fake = FakeRun(tmp_path / "made-up", plan, items=8)
    _, first = fake.session(plan.sessions[0])
    second, _ = fake.session(plan.sessions[1])
    lines = first.read_bytes().splitlines(keepends=True)
    lines[4] = lines[4].replace(b'"seq"', b'"s\xffq"')
    first.write_bytes(b"".join(lines))
    assert pareto.main([str(fake.path)]) == 0
    printed = capsys.readouterr()
    assert f"warning: {first}:5: is not a record" in printed.err
    assert "4 of 4 points measured" in printed.out
    table = points(read(fake.path))
    assert set(table["replicates"]) == {1}
    assert set(table["reason"]) == {"records of server are damaged (replicate 0)"}
    # Zeros in the middle of the other one: nothing is left, and it is still told.
    content = second.read_bytes()
    second.write_bytes(content[:2000] + bytes(1000) + content[3000:])
    assert pareto.main([str(fake.path)]) == 0
    printed = capsys.readouterr()
    assert f"warning: {second}:" in printed.err and "there is no front" in printed.out
    todo = resume.todo(plan, fake.path)
    assert [task["points"] for task in todo["sessions"]] == [list(s.points) for s in plan.sessions]
    assert f"{first}:5: is not a record" in todo["text"] and f"{second}:" in todo["text"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run": "other"}, "records of run 'other' among those of run 'made-up'"),
        ({"plan_sha256": "ef" * 32}, "measured by plan efefefefefef, and plan.json of run"),
        ({"device_emulated": 9.0}, "measured with device_emulated 9; the plan has"),
        ({"session": "elsewhere"}, "whose file is 'elsewhere.1.jsonl'"),
        ({"host": "server"}, "written by rank 0 on 'server'; session"),
        ({"rank": 7}, "written by rank 7"),
    ],
)
def test_records_of_something_else_are_refused(
    fake: FakeRun, change: dict[str, Any], message: str
) -> None:
    fake.session(fake.plan.sessions[0], attempt=1, header=change)
    with pytest.raises(ForeignRecords, match=message):
        read(fake.path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"code_sha256": "ab" * 32}, "has code of the worker abababababab, and .* was measured by"),
        ({"torch": "2.12.1"}, "pi has torch 2.12.1, and measured .* with torch 2.13.0"),
    ],
)
def test_attempts_by_other_code_or_torch_are_not_mixed(
    fake: FakeRun, change: dict[str, Any], message: str
) -> None:
    session = fake.plan.sessions[0]
    first, _ = fake.session(session, attempt=1)
    second, _ = fake.session(session, attempt=2, header=change)
    with pytest.raises(ForeignRecords, match=message) as refused:
        read(fake.path)
    assert str(first) in str(refused.value) and str(second) in str(refused.value)
    assert "-e run=NAME" in str(refused.value)


def test_records_of_other_weights_than_the_plans_are_refused(fake: FakeRun) -> None:
    fake.session(fake.plan.sessions[0], weights="cd" * 32)
    with pytest.raises(ForeignRecords, match="measured with weights cdcdcdcdcdcd; the plan's"):
        read(fake.path)


def test_a_run_that_is_not_there_is_refused_with_those_that_are(fake: FakeRun) -> None:
    with pytest.raises(RunError, match=r"no such run .* runs in .*/results: made-up"):
        read(fake.path.parent / "mad-up")


def test_the_analysis_imports_no_torch() -> None:
    code = (
        "import sys, analysis.pareto, analysis.manifest; "
        "sys.exit(any(name.partition('.')[0] in ('torch', 'torchvision') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
