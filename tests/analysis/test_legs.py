"""Legs that count and those that do not, how they warmed up, and the processes of a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.run import processes, read
from tests.helpers.analysed import measure, stages_of
from tests.helpers.fake_legs import period_ms
from tests.helpers.fake_plan import expected_ms, make, tiny_table
from tests.helpers.fake_run import DISTURBANCE, FakeRun
from tests.helpers.record_files import rewrite

CUT = "body.1"


def fake_of(path: Path, *, replicates: int = 1, **options: Any) -> FakeRun:
    """A run without noise."""
    return FakeRun(path / "run", make(tiny_table(), replicates=replicates), noise=0, **options)


@pytest.fixture
def again(tmp_path: Path) -> FakeRun:
    """Both phases were disturbed and measured again, the second one twice."""
    return fake_of(tmp_path, again={"latency": 1, "throughput": 2}).all_sessions()


def test_only_the_last_leg_of_a_phase_counts(again: FakeRun) -> None:
    table, of_ranks = measure(again), stages_of(again)
    for point in again.plan.points:
        stage, wire = expected_ms(again.plan, point)
        row = table.loc[point.split[0]]
        assert row["latency_median_ms"] == pytest.approx(sum(stage) + sum(wire), rel=1e-5)
        period = period_ms(stage, wire, 3)
        assert row["throughput_images_s"] == pytest.approx(1e3 / period, rel=1e-5)
        assert row["loaded_latency_median_ms"] == pytest.approx(3 * period, rel=1e-5)
        computed = of_ranks.loc[(point.split[0], 0), "compute_ms"]
        assert computed == pytest.approx(stage[0], rel=1e-4, abs=1e-6)
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

    rewrite(source, change)
    row = measure(again).loc[CUT]
    assert row["status"] == "failed" and "bytes were to cross" in row["reason"]


def test_a_rank_without_the_end_of_the_last_leg_leaves_the_point_incomplete(again: FakeRun) -> None:
    sink = again.file(again.plan.sessions[0], 0, "server")
    rewrite(
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

    rewrite(source, change)
    row = measure(fake).loc[CUT]
    assert (row["latency_warmup_items"], row["latency_warmup_ended_by"]) == (2, "steady")
    told = row[["throughput_warmup_items", "throughput_warmup_ended_by"]]
    assert told.tolist() == [40, "never steady"]
    assert (row["window"], row["window_used"]) == (3, 2)


def test_the_records_alone_prove_how_many_stage_processes_were_started(tmp_path: Path) -> None:
    tables = [tiny_table(), dataclasses.replace(tiny_table(), model="other")]
    links, backends = ["none", {"name": "rate20", "rate_mbit": 20}], ["tcp", "rpc"]
    plan = make(*tables, links=links, backends=backends, replicates=3)
    fake = FakeRun(tmp_path / "run", plan, items=8).all_sessions()
    told = processes(read(fake.path))
    assert told["started"] == told["planned"] == 2 * 2 * 2 * 2 * 3
    assert told["points"] == 4 * told["attempts"] == 4 * 24 and told["cut_short"] == 0


def test_every_attempt_starts_processes_of_its_own(tmp_path: Path) -> None:
    fake = fake_of(tmp_path)
    (session,) = fake.plan.sessions
    fake.session(session, end="none")
    fake.session(session, attempt=1)
    fake.controller_failure(session, 2, "host server is down")
    assert processes(read(fake.path)) == {
        "started": 4,
        "cut_short": 2,
        "attempts": 2,
        "planned": 2,
        "points": 8,
    }
