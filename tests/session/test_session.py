"""What the records of a whole session hold, which real stage processes measured over sockets."""

from __future__ import annotations

import itertools
import json

import pytest

from paretopipe_worker.host.supervise import STAGE_ENVIRONMENT
from paretopipe_worker.plan import resume
from paretopipe_worker.records.clocks import Clock
from paretopipe_worker.records.energy import Rest
from paretopipe_worker.records.lines import End, Header, Item, LegEnd, PointEnd, Ready
from paretopipe_worker.records.probes import Probe
from paretopipe_worker.session.probe import ROUND_TRIPS, TRANSFER_BYTES
from tests.helpers.sessions import Finished, experiment, lab, of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A finished session of the tiny model, at two batch sizes."""
    again = {"every_points": 9}
    made = lab(tmp_path_factory.mktemp("lab"), experiment(batch=[1, 4], certify=again))
    return made.run(made.plan.sessions[0])


def test_every_host_writes_header_ready_and_end(measured: Finished) -> None:
    made, session = measured.lab, measured.session
    for rank, host in enumerate(session.placement):
        lines = measured.lines[rank]
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


def test_every_point_passes_gate_and_output_check(measured: Finished) -> None:
    ends = measured.of(PointEnd)
    assert [end.point for end in ends] == list(measured.session.points)
    for end in ends:
        assert (end.status, end.gate, end.output) == ("ok", True, "exact"), end


def test_latency_is_measured_with_one_batch_in_flight(measured: Finished) -> None:
    items = measured.of(Item)
    for point in measured.session.points:
        chosen = [i for i in items if (i.point, i.phase) == (point, "latency")]
        assert len(chosen) >= 8
        for before, after in itertools.pairwise(chosen):
            assert before.done_ns is not None
            assert after.ready_ns >= before.done_ns


def test_throughput_keeps_the_window_full(measured: Finished) -> None:
    made, session = measured.lab, measured.session
    for point in map(made.plan.point, session.points):
        if point.split == ("@first",):
            continue
        items = [item for item in measured.of(Item) if item.point == point.id]
        others = [i for i in items if i.phase in ("warmup", "throughput", "drain")]
        for item in (i for i in items if i.phase == "throughput"):
            in_flight = [i for i in others if i.ready_ns <= item.ready_ns < (i.done_ns or 0)]
            assert 1 <= len(in_flight) <= point.window


def test_the_other_rank_records_the_same_items(measured: Finished) -> None:
    made, session = measured.lab, measured.session
    for point in map(made.plan.point, session.points):
        seen = [
            {(i.seq, i.phase) for i in measured.of(Item, rank) if i.point == point.id}
            for rank in range(2)
        ]
        latency = [{entry for entry in part if entry[1] == "latency"} for part in seen]
        if point.split == ("@first",):
            assert not seen[1]
        else:
            assert latency[0] == latency[1]


def test_bytes_cross_where_they_should_and_nowhere_else(measured: Finished) -> None:
    for rank in range(2):
        for end in measured.of(LegEnd, rank):
            payload = measured.lab.plan.point(end.point).hop_bytes[rank]
            assert end.wire_sent_bytes is not None
            if payload == 0:
                assert (end.payload_sent_bytes, end.wire_sent_bytes) == (0, 0)
                continue
            assert end.payload_sent_bytes >= payload * end.items
            assert end.wire_sent_bytes >= end.payload_sent_bytes
            messages = end.payload_sent_bytes / payload
            assert end.wire_sent_bytes <= 1.2 * end.payload_sent_bytes + 64 * (messages + 2)


def test_a_leg_s_energy_is_that_of_all_its_items(measured: Finished) -> None:
    for rank in range(2):
        for end in measured.of(LegEnd, rank):
            items = [i for i in measured.of(Item, rank) if (i.point, i.leg) == (end.point, end.leg)]
            energy = end.energy
            assert energy is not None and energy.items == len(items) > end.items
            assert energy.seconds >= (end.end_ns - end.start_ns) / 1e9
            # Whether this host has a counter is not known here; without one there is a reason.
            assert (energy.joules is None) == (energy.reason is not None)


def test_every_rank_tells_what_its_host_uses_at_rest_before_the_first_point(
    measured: Finished,
) -> None:
    for rank in range(2):
        [rest] = measured.of(Rest, rank)
        lines = measured.lines[rank]
        first = next(i for i, line in enumerate(lines) if isinstance(line, Item | Probe))
        assert lines.index(rest) < first
        assert rest.energy.items == 0
        assert (rest.energy.joules is None) == (rest.energy.reason is not None)


def test_the_path_is_probed_around_and_between_points(measured: Finished) -> None:
    probes = measured.of(Probe)
    assert [probe.after_points for probe in probes] == [0, 9, len(measured.session.points)]
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


def test_time_shares_add_up_to_the_life_of_the_process(measured: Finished) -> None:
    end = measured.lines[0][-1]
    assert isinstance(end, End)
    life_ns = end.end_ns - end.process_start_ns
    shared_ns = sum(end.shares_ns.values())
    assert 0.9 * life_ns <= shared_ns <= 1.01 * life_ns, end.shares_ns


def test_progress_has_a_line_per_point(measured: Finished) -> None:
    made, session = measured.lab, measured.session
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


def test_clocks_are_compared_around_each_point(measured: Finished) -> None:
    lines, count = measured.lines[0], len(measured.session.points)
    order = [getattr(line, "when", line.kind) for line in lines if line.kind in ("clock", "point")]
    # Once more behind the measurement of the path that follows the ninth point.
    around = [["point", "between"] * 9, ["between"], ["point", "between"] * (count - 9)]
    assert order == ["before", "between", *itertools.chain(*around), "after"]
    begins = {item.point: item.ready_ns for item in reversed(of(Item, lines))}
    compared = [clock.exchanges[0].received[0] for clock in of(Clock, lines)]
    times = [0, *(begins[point] for point in measured.session.points), compared[-1]]
    for before, after in itertools.pairwise(times):
        assert any(before < at <= after for at in compared)
    # Both read one clock here.
    for clock in of(Clock, lines):
        for exchange in clock.exchanges:
            assert exchange.sent[0] <= exchange.theirs[0] <= exchange.received[2]
            assert exchange.sent[1] <= exchange.theirs[1] <= exchange.received[1]


def test_a_finished_session_is_not_to_do(measured: Finished) -> None:
    made = measured.lab
    left = resume.todo(made.plan, made.results)
    assert (left["done"], left["sessions"], left["predicted_s"]) == (1, [], 0)


def test_records_are_never_rewritten(measured: Finished) -> None:
    made, session = measured.lab, measured.session
    stage = made.start(session, "edge")
    _, text = stage.communicate(timeout=60)
    assert stage.returncode != 0
    assert "exists" in text
    assert isinstance(made.written(session, "edge")[-1], End)
