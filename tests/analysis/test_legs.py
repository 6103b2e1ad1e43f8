"""Legs that count and those that do not, how hosts were meanwhile, tries and processes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.run import load, processes
from analysis.tables.points import points
from paretopipe_worker.records.health import Health
from tests.helpers.fake_run import (
    DISTURBANCE,
    HEALTHY,
    FakeRun,
    expected_ms,
    make,
    period_ms,
    tiny_table,
)

CUT = "body.1"


def measure(fake: FakeRun) -> pd.DataFrame:
    """The points of a run, by split."""
    return points(load(fake.path)).set_index("split")


def edit(path: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Rewrite a record file line by line; null drops the line."""
    lines = [change(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines if line is not None))


def fake_of(path: Path, *, replicates: int = 1, **options: Any) -> FakeRun:
    """A run without noise."""
    return FakeRun(path / "run", make(tiny_table(), replicates=replicates), noise=0, **options)


@pytest.fixture
def again(tmp_path: Path) -> FakeRun:
    """Both phases were disturbed and measured again, the second one twice."""
    return fake_of(tmp_path, again={"latency": 1, "throughput": 2}).all_sessions()


def test_only_the_last_leg_of_a_phase_counts(again: FakeRun) -> None:
    table = measure(again)
    for point in again.plan.points:
        stage, wire = expected_ms(again.plan, point)
        row = table.loc[point.split[0]]
        assert row["latency_median_ms"] == pytest.approx(sum(stage) + sum(wire), rel=1e-5)
        period = period_ms(stage, wire, 3)
        assert row["throughput_images_s"] == pytest.approx(1e3 / period, rel=1e-5)
        assert row["loaded_latency_median_ms"] == pytest.approx(3 * period, rel=1e-5)
        assert row["stage0_compute_ms"] == pytest.approx(stage[0], rel=1e-4, abs=1e-6)
        assert row["forward_latency_median_ms"] == pytest.approx(
            sum(stage) + wire[0], rel=1e-5, abs=2e-5
        )
    assert set(table["latency_items"]) == {20} and set(table["throughput_items"]) == {20}


def test_legs_measured_again_are_counted_and_do_not_disturb_the_point(again: FakeRun) -> None:
    row = measure(again).loc[CUT]
    assert row["legs_again"] == 3
    assert not row["disturbed"] and pd.isna(row["disturbances"])


def test_a_point_that_stayed_disturbed_says_by_what_and_where(tmp_path: Path) -> None:
    fake = fake_of(tmp_path, replicates=2, again={"throughput": 1})
    first, second = fake.plan.sessions
    ids = {point.split[0]: point.id for point in fake.plan.points}
    fake.session(first)
    fake.session(second, disturbed=[ids[CUT]])
    table = measure(fake)
    row = table.loc[CUT]
    assert row["disturbed"] and row["disturbances"] == f"server, throughput: {DISTURBANCE}"
    assert row["legs_again"] == 2 and row["status"] == "ok"
    assert not table.drop(CUT)["disturbed"].any()


def test_bytes_of_legs_that_do_not_count_are_checked_all_the_same(again: FakeRun) -> None:
    source = again.file(again.plan.sessions[0], 0, "pi")
    sent = measure(again).loc[CUT, "payload_sent_bytes"]
    point = next(point for point in again.plan.points if point.split == (CUT,))
    assert sent == 5 * 22 * sum(point.hop_bytes)

    def change(line: dict[str, Any]) -> dict[str, Any]:
        if line["kind"] == "phase" and line["point"] == point.id and line["leg"] == 0:
            line["wire_sent_bytes"] = 10
        return line

    edit(source, change)
    row = measure(again).loc[CUT]
    assert row["status"] == "failed" and "bytes were to cross" in row["reason"]


def test_a_rank_without_the_end_of_the_last_leg_leaves_the_point_incomplete(again: FakeRun) -> None:
    sink = again.file(again.plan.sessions[0], 0, "server")
    edit(
        sink,
        lambda line: None if line["kind"] == "phase" and line["leg"] == 4 else line,
    )
    row = measure(again).loc[CUT]
    assert (row["status"], row["reason"]) == (
        "failed",
        "records of server lack the end of a phase",
    )


def test_the_worst_replicate_tells_of_warm_up_and_window(tmp_path: Path) -> None:
    fake = fake_of(tmp_path, replicates=2)
    first, second = fake.plan.sessions
    fake.session(first)
    source, _ = fake.session(second)

    def change(line: dict[str, Any]) -> dict[str, Any]:
        if line["kind"] == "phase" and line["phase"] == "throughput":
            line |= {"warmup_items": 40, "warmup_ended_by": "never steady", "window": 2}
        return line

    edit(source, change)
    row = measure(fake).loc[CUT]
    assert (row["latency_warmup_items"], row["latency_warmup_ended_by"]) == (2, "steady")
    told = row[["throughput_warmup_items", "throughput_warmup_ended_by"]]
    assert told.tolist() == [40, "never steady"]
    assert (row["window"], row["window_used"]) == (3, 2)


def test_the_hosts_are_told_by_the_worst_leg_that_counts(tmp_path: Path) -> None:
    hot = dataclasses.replace(
        HEALTHY,
        others_cpu=0.9,
        cpu_mhz=(600.0, 900.0, 1500.0),
        governor="ondemand",
        temperature_c=84.5,
        throttled=("hot", "throttled"),
        swapped_pages=7,
        peak_rss_bytes=500_000_000,
        overslept=0.03,
    )
    row = measure(fake_of(tmp_path, health={1: hot}).all_sessions()).loc[CUT]
    names = ("others_cpu", "cpu_mhz_min", "governor", "temperature_c_max", "throttled")
    names += ("swapped_pages", "peak_rss_bytes")
    assert [row[f"stage0_{name}"] for name in names] == [
        *(0.02, 1500.0, "performance", 55.0, "no", 0, 300_000_000)
    ]
    assert [row[f"stage1_{name}"] for name in names] == [
        *(0.9, 600.0, "ondemand", 84.5, "hot, throttled", 14, 500_000_000)
    ]
    assert np.isnan(row["stage0_overslept"]) and row["stage1_overslept"] == 0.03


def test_what_a_host_does_not_tell_is_null(tmp_path: Path) -> None:
    fake = fake_of(tmp_path, health={0: Health(), 1: HEALTHY}).all_sessions()
    table = measure(fake)
    names = [name for name in table.columns if name.startswith("stage0_") and "stage1_" not in name]
    untold = [name for name in names if not name.endswith(("_ms", "_over_cpu", "_emulated"))]
    assert len(untold) == 8 and table[untold].isna().all(axis=None)
    # Nor does a host that has no part.
    assert pd.isna(table.loc["@first", "stage1_governor"])
    assert np.isnan(table.loc["@first", "stage1_cpu_mhz_min"])


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
    table = points(load(fake.path)).set_index("point")
    assert set(table["status"]) == {"ok"}
    assert set(table.loc[list(done), "tries"]) == {1} and set(table.loc[list(rest), "tries"]) == {2}


def test_a_point_failed_earlier_keeps_its_reason_when_later_attempts_leave_it_out(
    tmp_path: Path,
) -> None:
    fake = fake_of(tmp_path)
    (session,) = fake.plan.sessions
    failed, *rest = session.points
    source, _ = fake.session(session, points=[failed], end="failed", reason="pi: killed")
    edit(
        source,
        lambda line: (
            line | {"status": "failed", "reason": "the output differs"}
            if line["kind"] == "point"
            else line
        ),
    )
    fake.session(session, 1, points=rest, header={"points": rest})
    row = points(load(fake.path)).set_index("point").loc[failed]
    assert (row["status"], row["reason"], row["tries"]) == ("failed", "the output differs", 1)


def test_the_records_alone_prove_how_many_stage_processes_were_started(tmp_path: Path) -> None:
    tables = [tiny_table(), dataclasses.replace(tiny_table(), model="other")]
    links, backends = ["none", {"name": "rate20", "rate_mbit": 20}], ["tcp", "rpc"]
    plan = make(*tables, links=links, backends=backends, replicates=3)
    fake = FakeRun(tmp_path / "run", plan, items=8).all_sessions()
    told = processes(load(fake.path))
    assert told["started"] == told["planned"] == 2 * 2 * 2 * 2 * 3
    assert told["points"] == 4 * told["attempts"] == 4 * 24 and told["cut_short"] == 0


def test_every_attempt_starts_processes_of_its_own(tmp_path: Path) -> None:
    fake = fake_of(tmp_path)
    (session,) = fake.plan.sessions
    fake.session(session, end="none")
    fake.session(session, attempt=1)
    fake.controller_failure(session, 2, "host server is down")
    assert processes(load(fake.path)) == {
        "started": 4,
        "cut_short": 2,
        "attempts": 2,
        "planned": 2,
        "points": 8,
    }
