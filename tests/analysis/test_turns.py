"""The manifest says which sessions ran at the same time, as the controller saw it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.manifest import manifest
from analysis.run import RunError, read
from analysis.turns import FILE, beside
from tests.helpers import fake_plan
from tests.helpers.fake_run import FakeRun


def line(sessions: list[str], began: int, ended: int, attempt: int = 1) -> str:
    """What the controller writes when sessions have ended."""
    times = {"began_unix_ns": began, "ended_unix_ns": ended}
    return json.dumps({"sessions": sessions, "attempt": attempt, **times}) + "\n"


def test_sessions_overlap_where_both_ran_at_some_moment(tmp_path: Path) -> None:
    lines = (line(["a"], 0, 10), line(["b", "c"], 5, 20), line(["a"], 20, 30, attempt=2))
    (tmp_path / FILE).write_text("".join(lines), encoding="utf-8")
    assert beside(tmp_path) == {
        ("a", 1): ["b.1", "c.1"],
        ("b", 1): ["a.1"],
        ("c", 1): ["a.1"],
        ("a", 2): [],
    }


def test_a_line_that_was_cut_short_is_left_out_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    whole = line(["a"], 0, 10)
    (tmp_path / FILE).write_text(whole + whole[:20], encoding="utf-8")
    assert beside(tmp_path) == {("a", 1): []}
    (tmp_path / FILE).write_text('{"sessions": ["a"]}\n', encoding="utf-8")
    with pytest.raises(RunError, match=rf"{FILE}, line 1: attempt: "):
        beside(tmp_path)


def test_the_manifest_has_null_where_nobody_wrote_it_down(tmp_path: Path) -> None:
    fake = FakeRun(tmp_path / "run", fake_plan.make(fake_plan.tiny_table(), replicates=2))
    first, second = (session.id for session in fake.all_sessions().plan.sessions)
    text = line([first], 0, 10, attempt=0) + line([second], 9, 20, attempt=0)
    (fake.path / FILE).write_text(text, encoding="utf-8")
    found = {each["session"]: each["beside"] for each in manifest(read(fake.path))["sessions"]}
    assert found == {first: [f"{second}.0"], second: [f"{first}.0"]}
    (fake.path / FILE).unlink()
    assert [each["beside"] for each in manifest(read(fake.path))["sessions"]] == [None, None]
