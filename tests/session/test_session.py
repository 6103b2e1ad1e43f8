"""Sessions of real stage processes over real sockets: what the records hold afterwards."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from analysis.run import read
from analysis.tables.points import points
from paretopipe_worker.host.supervise import STAGE_ENVIRONMENT
from paretopipe_worker.link.counters import CountersFile
from paretopipe_worker.plan import resume
from paretopipe_worker.plan.plan import Session
from paretopipe_worker.plan.window import rate_per_s
from paretopipe_worker.records.clocks import Clock
from paretopipe_worker.records.files import file_name, read_records
from paretopipe_worker.records.lines import (
    End,
    Header,
    Item,
    LegEnd,
    PointBegin,
    PointEnd,
    Ready,
    Record,
)
from paretopipe_worker.records.probes import Probe
from paretopipe_worker.session.probe import ROUND_TRIPS, TRANSFER_BYTES
from tests.helpers import synthetic
from tests.helpers.sessions import Lab, lab

pytestmark = pytest.mark.alone

PHASES = {"min_items": 8, "min_s": 0.05, "max_s": 20, "retries": 0}
"""Whatever else the machine does: a leg that is measured again is another test's."""
Kind = TypeVar("Kind", bound=Record)


def experiment(model: str = "paretopipe_worker.model.tiny:network", **keys: Any) -> dict[str, Any]:
    """A short experiment of one model."""
    return {"models": [model], "phases": PHASES, **keys}


def written(made: Lab, session: Session, host: str, attempt: int = 1) -> list[Record]:
    """All records of one host's stage."""
    name = file_name(session.id, attempt)
    return list(read_records(made.results / "records" / host / name))


def of(kind: type[Kind], lines: list[Record]) -> list[Kind]:
    """The records of one kind."""
    return [line for line in lines if isinstance(line, kind)]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, Session]]:
    """A finished session of the tiny model, at two batch sizes."""
    again = {"every_points": 9}
    made = lab(tmp_path_factory.mktemp("lab"), experiment(batch=[1, 4], certify=again))
    [session] = made.plan.sessions
    made.run(session)
    yield made, session


def test_every_host_writes_header_ready_and_end(measured: tuple[Lab, Session]) -> None:
    made, session = measured
    for rank, host in enumerate(session.placement):
        lines = written(made, session, host)
        header = lines[0]
        assert isinstance(header, Header)
        assert (header.host, header.rank, header.points) == (host, rank, session.points)
        assert header.facts["threads"] == 1
        assert (header.link_engine, header.link_emulated) == ("none", False)
        assert (
            header.tcp["tcp_congestion_control"]
            == of(Ready, lines)[0].transport["congestion_control"]
        )
        assert header.facts["allocator"] == STAGE_ENVIRONMENT
        assert header.facts["network"]["sysctl"]["ipv4.tcp_rmem"] == " ".join(
            header.tcp["tcp_rmem"].split()
        )
        [ready] = of(Ready, lines)
        assert ready.transport["congestion_control"]
        assert {t.weights_sha256 for t in made.plan.tables} == {ready.weights_sha256}
        end = lines[-1]
        assert isinstance(end, End)
        assert end.status == "ok"


def test_every_point_passes_gate_and_output_check(measured: tuple[Lab, Session]) -> None:
    made, session = measured
    ends = of(PointEnd, written(made, session, "edge"))
    assert [end.point for end in ends] == list(session.points)
    for end in ends:
        assert (end.status, end.gate, end.output) == ("ok", True, "exact"), end


def test_latency_is_measured_with_one_batch_in_flight(measured: tuple[Lab, Session]) -> None:
    made, session = measured
    items = of(Item, written(made, session, "edge"))
    for point in session.points:
        chosen = [i for i in items if (i.point, i.phase) == (point, "latency")]
        assert len(chosen) >= 8
        for before, after in itertools.pairwise(chosen):
            assert before.done_ns is not None
            assert after.ready_ns >= before.done_ns


def test_throughput_keeps_the_window_full(measured: tuple[Lab, Session]) -> None:
    made, session = measured
    items = of(Item, written(made, session, "edge"))
    for point in map(made.plan.point, session.points):
        if point.split == ("@first",):
            continue
        chosen = [i for i in items if (i.point, i.phase) == (point.id, "throughput")]
        for item in chosen:
            in_flight = [
                other
                for other in items
                if other.point == point.id
                and other.phase in ("warmup", "throughput", "drain")
                and other.ready_ns <= item.ready_ns < (other.done_ns or 0)
            ]
            assert 1 <= len(in_flight) <= point.window


def test_the_other_rank_records_the_same_items(measured: tuple[Lab, Session]) -> None:
    made, session = measured
    for point in map(made.plan.point, session.points):
        seen = [
            {
                (i.seq, i.phase)
                for i in of(Item, written(made, session, host))
                if i.point == point.id
            }
            for host in session.placement
        ]
        latency = [{entry for entry in part if entry[1] == "latency"} for part in seen]
        if point.split == ("@first",):
            assert not seen[1]
        else:
            assert latency[0] == latency[1]


def test_bytes_cross_where_they_should_and_nowhere_else(measured: tuple[Lab, Session]) -> None:
    made, session = measured
    for rank, host in enumerate(session.placement):
        for end in of(LegEnd, written(made, session, host)):
            payload = made.plan.point(end.point).hop_bytes[rank]
            assert end.wire_sent_bytes is not None
            if payload == 0:
                assert (end.payload_sent_bytes, end.wire_sent_bytes) == (0, 0)
                continue
            assert end.payload_sent_bytes >= payload * end.items
            assert end.wire_sent_bytes >= end.payload_sent_bytes
            messages = end.payload_sent_bytes / payload
            assert end.wire_sent_bytes <= 1.2 * end.payload_sent_bytes + 64 * (messages + 2)


def test_the_path_is_probed_around_and_between_points(
    measured: tuple[Lab, Session],
) -> None:
    made, session = measured
    probes = of(Probe, written(made, session, "edge"))
    assert [probe.after_points for probe in probes] == [0, 9, len(session.points)]
    for probe in probes:
        assert len(probe.round_trip_ns) == ROUND_TRIPS
        assert all(0 < value < 1e9 for value in probe.round_trip_ns)
        assert len(probe.goodput_mbit) == 2
        assert all(value > 10 for value in probe.goodput_mbit)
        assert [(part.bytes, part.hop) for part in probe.transfers] == [
            (size, hop) for size in TRANSFER_BYTES for hop in range(2)
        ]
        assert all(len(part.ns) == 3 and min(part.ns) > 0 for part in probe.transfers)
        assert probe.datagrams is None, "nothing on this link is left to chance"


@pytest.mark.long
def test_a_link_that_nobody_shaped_is_measured_and_not_certified(tmp_path: Path) -> None:
    links = [
        {"name": "rate20", "rate_mbit": 20},
        {"name": "lossy", "delay_ms": 20, "jitter_ms": 1, "loss_percent": 10},
    ]
    made = lab(tmp_path, experiment(links=links, splits={"cuts": ["6"]}))
    for session in made.plan.sessions:
        made.run(session)
        for probe in of(Probe, written(made, session, "edge")):
            assert (probe.datagrams is not None) == (session.link == "lossy")
    table = points(read(made.results))
    assert not table["link_certified"].any() and not table["on_front"].any()
    said = table.groupby("link")["link_certificate"].first()
    assert "goodput forward" in said["rate20"] and "512 KiB back" in said["rate20"]
    assert "median delay" in said["lossy"] and "loss forward 0.0%" in said["lossy"]


def test_what_shapes_the_link_is_recorded_with_what_it_did(tmp_path: Path) -> None:
    state = tmp_path / "link"
    state.mkdir()
    tcp = {"tcp_congestion_control": "reno"}
    (state / "link.json").write_text(json.dumps({"engine": "relay", "tcp": tcp}))
    counters = CountersFile(state / "relay.bin")
    counters.forwarded(5_000_000)
    made = replace(lab(tmp_path, experiment(splits={"cuts": ["6"]})), link_state=state)
    [session] = made.plan.sessions
    made.run(session)
    lines = written(made, session, "edge")
    header = lines[0]
    assert isinstance(header, Header)
    assert (header.link_engine, header.link_emulated, header.tcp) == ("relay", True, tcp)
    for end in of(LegEnd, lines):
        # Nothing went through this relay while the stages ran.
        assert (end.relay_forwarded, end.relay_dropped, end.relay_late_p99_ns) == (0, 0, None)


def test_a_link_that_does_not_say_how_it_is_shaped_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link.json").write_text('{"engine": "magic", "tcp": {}}')
    made = replace(lab(tmp_path, experiment()), link_state=tmp_path)
    stage = made.start(made.plan.sessions[0], "edge")
    _, text = stage.communicate(timeout=60)
    assert stage.returncode == 2
    assert f"{tmp_path}/link.json: does not say how the link is shaped" in text


def test_time_shares_add_up_to_the_life_of_the_process(measured: tuple[Lab, Session]) -> None:
    made, session = measured
    end = written(made, session, "edge")[-1]
    assert isinstance(end, End)
    life_ns = end.end_ns - end.process_start_ns
    shared_ns = sum(end.shares_ns.values())
    assert 0.9 * life_ns <= shared_ns <= 1.01 * life_ns, end.shares_ns


def test_progress_has_a_line_per_point(measured: tuple[Lab, Session]) -> None:
    made, session = measured
    lines = [
        json.loads(line) for line in (made.results / "progress-edge.jsonl").read_text().splitlines()
    ]
    assert [line["point"] for line in lines] == list(session.points)
    assert lines[-1]["done"] == lines[-1]["of"] == len(session.points)
    seconds = [made.plan.point(point).predicted_s for point in session.points]
    assert [line["predicted_left_s"] for line in lines] == pytest.approx(
        # An open link takes a second to look at: between points, and after them.
        [sum(seconds[number:]) + 1 + (number <= 9) for number in range(1, len(seconds) + 1)],
        abs=0.1,
    )
    assert all(line["latency_ms"] > 0 and line["images_per_s"] > 0 for line in lines)


def test_clocks_are_compared_around_each_point(measured: tuple[Lab, Session]) -> None:
    made, session = measured
    lines = written(made, session, "edge")
    order = [getattr(line, "when", line.kind) for line in lines if line.kind in ("clock", "point")]
    # Once more behind the measurement of the path that follows the ninth point.
    around = [
        ["point", "between"] * 9,
        ["between"],
        ["point", "between"] * (len(session.points) - 9),
    ]
    assert order == ["before", "between", *itertools.chain(*around), "after"]
    begins = {item.point: item.ready_ns for item in reversed(of(Item, lines))}
    compared = [clock.exchanges[0].received[0] for clock in of(Clock, lines)]
    times = [0, *(begins[point] for point in session.points), compared[-1]]
    for before, after in itertools.pairwise(times):
        assert any(before < at <= after for at in compared)
    # Both read one clock here.
    for clock in of(Clock, lines):
        for exchange in clock.exchanges:
            assert exchange.sent[0] <= exchange.theirs[0] <= exchange.received[2]
            assert exchange.sent[1] <= exchange.theirs[1] <= exchange.received[1]


def test_a_finished_session_is_not_to_do(measured: tuple[Lab, Session]) -> None:
    made, _ = measured
    left = resume.todo(made.plan, made.results)
    assert (left["done"], left["sessions"], left["predicted_s"]) == (1, [], 0)


def test_stage_times_and_throughput_are_those_of_a_known_pipeline(tmp_path: Path) -> None:
    """Stages that wait 20 ms each: 40 ms there and back, one batch each 20 ms."""
    made = lab(tmp_path, experiment("tests.helpers.synthetic:wait_20_ms", splits={"cuts": ["2"]}))
    [session] = made.plan.sessions
    made.run(session)
    items = of(Item, written(made, session, "edge"))
    point = next(point.id for point in made.plan.points if point.split == ("2",))
    # Waits may end late on a busy machine, never early.
    latency = [i.latency_ns or 0 for i in items if (i.point, i.phase) == (point, "latency")]
    latency_ms = statistics.median(latency) / 1e6
    assert 40 <= min(latency) / 1e6 < 44
    done = [i.done_ns or 0 for i in items if (i.point, i.phase) == (point, "throughput")]
    period_ms = 1e3 / (rate_per_s(done, 3) or 0)
    assert 19 <= period_ms < 0.8 * latency_ms, "the stages do not work at the same time"


def test_stretching_makes_a_stage_slower_by_its_factor(tmp_path: Path) -> None:
    made = lab(
        tmp_path,
        experiment("tests.helpers.synthetic:burning", splits={"cuts": ["0"]}),
        edge={"device_emulated": 4.0},
        server={},
    )
    [session] = made.plan.sessions
    made.run(session)
    cut = next(point.id for point in made.plan.points if point.split == ("0",))
    for host, factor in (("edge", 4), ("server", 1)):
        lines = written(made, session, host)
        items = [i for i in of(Item, lines) if (i.point, i.phase) == (cut, "latency")]
        # What others took of the core is not stretched.
        longer = [(i.computed_ns - i.start_ns - i.compute_ns) / i.cpu_ns for i in items]
        assert statistics.median(longer) == pytest.approx(factor - 1, rel=0.05, abs=0.05)
        [health] = [
            end.health for end in of(LegEnd, lines) if (end.point, end.phase) == (cut, "latency")
        ]
        assert health
        if factor == 1:
            assert {i.overslept_ns for i in items} == {health.overslept} == {None}
            continue
        over_ns = sum(i.overslept_ns or 0 for i in items)
        lasted_ns = sum(i.computed_ns - i.start_ns for i in items)
        assert health.overslept == pytest.approx(over_ns / (lasted_ns - over_ns))


def test_too_few_items_are_a_failed_point(tmp_path: Path) -> None:
    phases = {"min_items": 50, "min_s": 0, "max_s": 0.1, "warmup_items": 1, "retries": 0}
    made = lab(
        tmp_path,
        experiment("tests.helpers.synthetic:wait_20_ms", splits={"cuts": ["2"]}, phases=phases),
    )
    [session] = made.plan.sessions
    made.run(session)
    lines = written(made, session, "edge")
    reasons = {end.reason for end in of(PointEnd, lines)}
    assert all("items in phase" in (reason or "") for reason in reasons), reasons
    assert resume.todo(made.plan, made.results)["failed"] == len(session.points)
    [task] = resume.todo(made.plan, made.results, retry_failed=True)["sessions"]
    assert (task["points"], task["attempt"]) == (list(session.points), 2)
    assert {end.ended_by for end in of(LegEnd, lines)} == {"maximum"}


def test_a_model_that_cannot_be_run_fails_its_point_and_not_the_session(tmp_path: Path) -> None:
    made = lab(tmp_path, experiment("tests.helpers.synthetic:exhausting"))
    [session] = made.plan.sessions
    made.run(session)
    first, *others = of(PointEnd, written(made, session, "edge"))
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
    end = written(made, session, survivor)[-1]
    assert isinstance(end, End)
    assert end.status == "failed"
    assert end.reason is not None
    assert "127.0.0." in end.reason
    assert not isinstance(written(made, session, victim)[-1], End), "a killed stage wrote its end"
    stages[victim].communicate()
    reported = len(progress.read_text().splitlines())  # the last may have been killed with it
    [task] = resume.todo(made.plan, made.results)["sessions"]
    assert task["attempt"] == 2
    finished = [end.point for end in of(PointEnd, written(made, session, "edge"))]
    assert 0 < len(finished) < len(session.points)
    rest = [point for point in session.points if point not in finished]
    begun = [line.point for line in of(PointBegin, written(made, session, "edge"))]
    # What was in hand may have been the reason, so all else comes before it.
    assert task["points"] == (rest if begun == finished else [*rest[1:], rest[0]])
    made.run(session.only(task["points"]), attempt=2)
    again = written(made, session, "edge", attempt=2)
    assert isinstance(again[0], Header)
    assert list(again[0].points) == [end.point for end in of(PointEnd, again)] == task["points"]
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
    stage = made.start(session, "server")
    path = made.results / "records" / "server" / file_name(session.id, 1)
    deadline = time.monotonic() + 60
    while not path.exists() or not path.read_text():
        assert time.monotonic() < deadline
        assert stage.poll() is None
        os.sched_yield()
    stage.send_signal(signal.SIGTERM)
    stage.communicate(timeout=30)
    end = written(made, session, "server")[-1]
    assert isinstance(end, End)
    assert (end.reason, end.interrupted) == ("server: ended by SIGTERM", True)


def test_a_port_in_use_is_named_in_the_records(tmp_path: Path) -> None:
    made = lab(tmp_path, experiment())
    [session] = made.plan.sessions
    host = made.plan.host("edge")
    with socket.create_server((host.data_address, host.data_port)):
        stage = made.start(session, "edge")
        stage.communicate(timeout=60)
    assert stage.returncode == 1
    end = written(made, session, "edge")[-1]
    assert isinstance(end, End)
    assert end.reason is not None
    assert f"edge: cannot listen at 127.0.0.1:{host.data_port}" in end.reason
    assert "in use" in end.reason


def test_missing_weights_are_named_in_the_records(tmp_path: Path) -> None:
    made = lab(tmp_path, experiment())
    [session] = made.plan.sessions
    for path in (made.cache / "weights").iterdir():
        path.unlink()
    stage = made.start(session, "edge")
    stage.communicate(timeout=60)
    end = written(made, session, "edge")[-1]
    assert isinstance(end, End)
    assert end.reason is not None
    assert "the plan's weights are not on this host" in end.reason


def test_records_are_never_rewritten(tmp_path: Path, measured: tuple[Lab, Session]) -> None:
    made, session = measured
    stage = made.start(session, "edge")
    _, text = stage.communicate(timeout=60)
    assert stage.returncode != 0
    assert "exists" in text
    assert isinstance(written(made, session, "edge")[-1], End)
