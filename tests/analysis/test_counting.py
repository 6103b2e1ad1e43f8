"""Which attempts and replicates count, and the reasons of those that do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.run import read
from analysis.tables.points import points
from tests.helpers.analysed import measure, point_at
from tests.helpers.fake_plan import expected_ms, make, tiny_table
from tests.helpers.fake_run import FakeRun
from tests.helpers.record_files import rewrite

CUT = "body.1"


@pytest.fixture
def fake(tmp_path: Path) -> FakeRun:
    return FakeRun(tmp_path / "made-up", make(tiny_table()), items=20, noise=0)


@pytest.fixture
def twice(tmp_path: Path) -> FakeRun:
    return FakeRun(tmp_path / "made-up", make(tiny_table(), replicates=2), items=20, noise=0)


def fake_of(path: Path, *, replicates: int = 1, **options: Any) -> FakeRun:
    """A run without noise."""
    return FakeRun(path / "run", make(tiny_table(), replicates=replicates), noise=0, **options)


@pytest.mark.parametrize("phase", ["latency", "throughput"])
def test_fewer_than_six_items_are_a_failed_point_with_that_reason(
    fake: FakeRun, phase: str
) -> None:
    source, _ = fake.session(fake.plan.sessions[0])

    def change(line: dict[str, Any]) -> dict[str, Any] | None:
        mine = line.get("point") == point_at(fake, CUT).id and line.get("phase") == phase
        return None if mine and line["kind"] == "item" and line["seq"] >= 7 else line

    rewrite(source, change)
    row = measure(fake).loc[CUT]
    assert row["status"] == "failed"
    assert row["reason"] == f"phase {phase} has 5 items, at least 6 are needed"
    assert np.isnan(row["latency_median_ms"]) and not row["on_front"]
    assert row["replicates"] == 0


def test_a_failed_replicate_does_not_count_and_is_told(twice: FakeRun) -> None:
    first, second = twice.plan.sessions
    twice.session(first)
    twice.session(second, points=[], end="failed", reason="pi: link lost")
    row = measure(twice).loc[CUT]
    assert (row["status"], row["replicates"]) == ("ok", 1)
    assert row["reason"] == "pi: link lost (replicate 1)"


def test_the_latest_complete_attempt_counts_and_no_items_of_others(fake: FakeRun) -> None:
    session = fake.plan.sessions[0]
    fake.session(session, attempt=1, scale=2.0)
    fake.session(session, attempt=2, scale=1.0)
    fake.session(session, attempt=3, points=[], end="failed", reason="pi: killed")
    row = measure(fake).loc[CUT]
    stage, wire = expected_ms(fake.plan, point_at(fake, CUT))
    assert row["latency_items"] == 20
    assert row["latency_median_ms"] == pytest.approx(sum(stage) + sum(wire), rel=1e-5)


def test_complete_points_of_a_session_cut_short_count_and_others_do_not(fake: FakeRun) -> None:
    session = fake.plan.sessions[0]
    fake.session(session, points=session.points[:2], end="none")
    table = points(read(fake.path)).set_index("point")
    assert set(table.loc[list(session.points[:2]), "status"]) == {"ok"}
    assert set(table.loc[list(session.points[2:]), "status"]) == {"failed"}
    assert set(table.loc[list(session.points[2:]), "reason"]) == {
        "pi: records were cut short; server: records were cut short"
    }


def test_a_point_without_the_other_ranks_phases_is_not_complete(fake: FakeRun) -> None:
    _, sink = fake.session(fake.plan.sessions[0])

    def change(line: dict[str, Any]) -> dict[str, Any] | None:
        mine = line.get("point") == point_at(fake, CUT).id
        return None if mine and line["kind"] == "phase" else line

    rewrite(sink, change)
    row = measure(fake).loc[CUT]
    assert (row["status"], row["reason"]) == (
        "failed",
        "records of server lack the end of a phase",
    )
    # All on the first host needs nothing of the other.
    assert measure(fake).loc["@first", "status"] == "ok"


def test_what_the_controller_saw_is_the_reason(fake: FakeRun) -> None:
    fake.controller_failure(fake.plan.sessions[0], 1, "host server is down")
    table = measure(fake)
    assert set(table["status"]) == {"failed"}
    assert set(table["reason"]) == {
        "controller: host server is down; pi: no records; server: no records"
    }


def test_a_point_the_source_failed_keeps_its_reason(fake: FakeRun) -> None:
    source, _ = fake.session(fake.plan.sessions[0])

    def change(line: dict[str, Any]) -> dict[str, Any]:
        if line["kind"] == "point" and line["point"] == point_at(fake, CUT).id:
            line |= {"status": "failed", "reason": "the output differs", "output": "close"}
        return line

    rewrite(source, change)
    row = measure(fake).loc[CUT]
    assert (row["status"], row["reason"]) == ("failed", "the output differs")


def test_bytes_that_crossed_are_held_against_what_was_counted(fake: FakeRun) -> None:
    fake.all_sessions()
    table = measure(fake)
    assert table.loc[CUT, "crossed"]
    assert table.loc[CUT, "wire_sent_bytes"] >= table.loc[CUT, "payload_sent_bytes"] > 0
    assert pd.isna(table.loc["@first", "crossed"])
    assert table.loc["@first", "payload_sent_bytes"] == 0


@pytest.mark.parametrize(
    ("field", "value", "split"),
    [
        ("wire_sent_bytes", 10, CUT),
        ("payload_sent_bytes", 10, CUT),
        ("payload_sent_bytes", 10, "@first"),
    ],
)
def test_a_point_whose_bytes_did_not_cross_is_failed(
    fake: FakeRun, field: str, value: int, split: str
) -> None:
    source, _ = fake.session(fake.plan.sessions[0])

    def change(line: dict[str, Any]) -> dict[str, Any]:
        if line["kind"] == "phase" and line["point"] == point_at(fake, split).id:
            line[field] = value
        return line

    rewrite(source, change)
    row = measure(fake).loc[split]
    assert row["status"] == "failed"
    assert "bytes were to cross" in row["reason"] and "the network counted" in row["reason"]
    assert np.isnan(row["throughput_images_s"])


def test_without_a_counter_crossing_is_unknown_and_the_point_counts(fake: FakeRun) -> None:
    for path in fake.session(fake.plan.sessions[0]):
        rewrite(
            path, lambda line: line | {"wire_sent_bytes": None} if line["kind"] == "phase" else line
        )
    row = measure(fake).loc[CUT]
    assert row["status"] == "ok" and pd.isna(row["crossed"]) and pd.isna(row["wire_sent_bytes"])


def test_failed_points_say_how_often_they_were_tried(tmp_path: Path) -> None:
    fake = fake_of(tmp_path, replicates=2)
    first, second = fake.plan.sessions
    assert set(measure(fake)["tries"]) == {0}
    fake.session(first)
    for attempt in range(3):
        fake.controller_failure(second, attempt, "host server is down")
    table = measure(fake)
    assert set(table["tries"]) == {1 + 3} and set(table["status"]) == {"ok"}


def test_an_attempt_counts_for_the_points_it_was_to_measure(tmp_path: Path) -> None:
    fake = fake_of(tmp_path)
    (session,) = fake.plan.sessions
    done, rest = session.points[:2], session.points[2:]
    fake.session(session, points=done, end="failed", reason="pi: killed")
    fake.session(session, 1, points=rest, header={"points": rest})
    table = points(read(fake.path)).set_index("point")
    assert set(table["status"]) == {"ok"}
    assert set(table.loc[list(done), "tries"]) == {1} and set(table.loc[list(rest), "tries"]) == {2}


def test_a_point_failed_earlier_keeps_its_reason_when_later_attempts_leave_it_out(
    tmp_path: Path,
) -> None:
    fake = fake_of(tmp_path)
    (session,) = fake.plan.sessions
    failed, *rest = session.points
    source, _ = fake.session(session, points=[failed], end="failed", reason="pi: killed")
    rewrite(
        source,
        lambda line: (
            line | {"status": "failed", "reason": "the output differs"}
            if line["kind"] == "point"
            else line
        ),
    )
    fake.session(session, 1, points=rest, header={"points": rest})
    row = points(read(fake.path)).set_index("point").loc[failed]
    assert (row["status"], row["reason"], row["tries"]) == ("failed", "the output differs", 1)
