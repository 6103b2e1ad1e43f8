"""A relayed link follows its trace; a session certifies each segment and tags every item."""

from __future__ import annotations

import json
import os
import signal
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import pareto
from analysis.measures.certificate import certificates
from analysis.run import Run, read
from analysis.tables.points import points
from analysis.tables.trace_segments import COLUMNS
from paretopipe_worker.link.conditions import Condition
from paretopipe_worker.link.replay import PIPE, Replay, ReplayError
from paretopipe_worker.link.traces import Timetable
from paretopipe_worker.plan import resume
from paretopipe_worker.plan.experiment import MIN_ITEMS
from paretopipe_worker.records.lines import Item, Record
from paretopipe_worker.records.probes import Datagrams, Probe
from paretopipe_worker.session.probe import BRIEF_ROUND_TRIPS, BRIEF_TRANSFER_BYTES
from tests.helpers.sessions import HOSTS, Lab, lab, of, on_link
from tests.helpers.shaped_link import (
    DATA_PORT,
    Relayed,
    connect,
    datagrams,
    reason_without_relay,
    serve,
    shaped_link,
    traced,
    transfer_ms,
)
from tests.helpers.waiting import until

REASON = reason_without_relay()
relayed = pytest.mark.skipif(bool(REASON), reason=REASON)

pytestmark = pytest.mark.alone

NEAR, FAR = Condition(delay_ms=5, rate_mbit=20), Condition(delay_ms=30, rate_mbit=5)
TWICE = Timetable((0, 1), 2)


@pytest.fixture
def link(tmp_path: Path) -> Iterator[Relayed]:
    with shaped_link(tmp_path) as made:
        yield Relayed(made.hosts, made.folder)


def apply(link: Relayed, timetable: Timetable, *conditions: Condition, rank: int = 0) -> Replay:
    """Shape a host's link by a trace."""
    asked = traced(timetable, conditions, link.hosts[1 - rank].address)
    done = link.call("apply", *link.arguments("-", rank=rank), rank=rank, input=asked)
    assert isinstance(done, dict) and done["engine"] == "relay", done
    return Replay(link.state(rank))


def one_way_ms(link: Relayed) -> float:
    """Median time of a few datagrams to the other host."""
    return statistics.median(took * 1e3 for _, took in datagrams(*link.hosts, 20, 0.003))


@relayed
@pytest.mark.must_run
def test_a_relayed_link_follows_its_trace(link: Relayed) -> None:
    replay = apply(link, TWICE, NEAR, FAR)
    assert 5 <= one_way_ms(link) < 8
    replay.hold(1)
    assert 30 <= one_way_ms(link) < 33
    source, sink = link.hosts
    serve(sink, DATA_PORT)
    with connect(source, sink, DATA_PORT) as data:
        took = {}
        for segment in (1, 0):
            replay.hold(segment)
            transfer_ms(data, 300_000)  # the ramp
            took[segment] = min(transfer_ms(data, 200_000) for _ in range(2))
    # Acknowledgements come back at once.
    for segment, condition in enumerate((NEAR, FAR)):
        assert condition.rate_mbit
        must = condition.delay_ms + 200_000 * 8 * 1514 / 1448 / condition.rate_mbit / 1000
        assert took[segment] == pytest.approx(must, rel=0.1), segment
    replay.run()
    since = replay.position
    until(lambda: replay.segment(replay.position) == 1, "the second segment")
    assert replay.segment(since) is None
    assert 30 <= one_way_ms(link) < 33


@relayed
@pytest.mark.must_run
def test_a_step_loses_nothing_and_keeps_the_order(link: Relayed) -> None:
    replay = apply(link, Timetable((0, 0.1), 0.2), Condition(delay_ms=60), Condition(delay_ms=5))
    replay.run()
    came = [number for number, _ in datagrams(*link.hosts, 400, 0.003)]
    assert came == list(range(400))


@relayed
@pytest.mark.must_run
def test_a_lease_that_runs_out_in_the_middle_of_a_trace_restores_the_link(link: Relayed) -> None:
    link.lease_s = 2
    replay = apply(link, Timetable((0, 0.1), 0.2), NEAR, FAR)
    replay.run()
    link.lease.touch()
    until(lambda: link.keepers() == [], "the keeper's end")
    assert link.show()[-1] == "root noqueue"
    assert not (link.state() / PIPE).exists()
    with pytest.raises(ReplayError, match="cannot be told"):
        replay.hold(0)


@relayed
@pytest.mark.must_run
def test_only_the_user_of_the_lease_may_command(link: Relayed) -> None:
    link.lease.touch()
    os.chown(link.lease, 65534, -1)
    apply(link, TWICE, NEAR, FAR)
    pipe = (link.state() / PIPE).stat()
    assert (pipe.st_uid, pipe.st_mode & 0o777) == (65534, 0o600)


@relayed
@pytest.mark.must_run
def test_a_trace_applied_again_begins_at_its_first_segment_if_it_was_to_change(
    link: Relayed,
) -> None:
    apply(link, TWICE, NEAR, FAR).hold(1)
    [keeper] = link.keepers()
    os.kill(keeper, signal.SIGKILL)
    replay = apply(link, TWICE, NEAR, FAR)
    assert replay.segment(replay.position) == 0
    assert 5 <= one_way_ms(link) < 8


@relayed
@pytest.mark.must_run
def test_a_recording_of_an_hour_is_longer_than_an_argument_and_followed(link: Relayed) -> None:
    times = Timetable(tuple(range(3600)), 3600)
    trace = [Condition(delay_ms=5 + n % 50, rate_mbit=20) for n in range(3600)]
    trace[9] = Condition(loss_percent=100)
    replay = apply(link, times, *trace)
    replay.hold(3549)
    assert replay.segment(replay.position) == 3549
    assert 54 <= one_way_ms(link) < 57
    replay.hold(9)
    assert datagrams(*link.hosts, 20, 0.003) == []
    replay.run()
    assert replay.segment(replay.position) == 0


# A session


@dataclass(frozen=True)
class Session:
    """A session over a relayed trace, and what came of it."""

    lab: Lab
    records: list[Record]
    run: Run


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """Measure a pipeline of waiting stages between two namespaces."""
    if REASON:
        pytest.skip(REASON)
    folder = tmp_path_factory.mktemp("traced")
    (folder / "near-far.csv").write_text("time_s,rate_mbit,delay_ms\n0,,5\n0.4,,30\n0.8,0,30\n")
    document = {
        "models": ["tests.helpers.synthetic:wait_5_ms"],
        "links": [{"name": "drive", "trace": str(folder / "near-far.csv"), "period_s": 1}],
        "splits": {"cuts": ["2"]},
        # Longer than a period, so that each leg meets all segments.
        "phases": {"min_items": 20, "min_s": 1.1, "max_s": 20, "retries": 0},
    }
    with shaped_link(folder) as made:
        link = Relayed(made.hosts, folder)
        states = {name: link.state(rank) for rank, name in enumerate(HOSTS)}
        planned = replace(lab(folder, document, **on_link(link.hosts)), link_states=states)
        [task] = resume.todo(planned.plan, planned.results)["sessions"]
        for rank, name in enumerate(HOSTS):
            asked = json.dumps(task["link"] | {"ways": task["link"]["ways"][name]})
            done = link.call("apply", *link.arguments(asked, rank=rank), rank=rank)
            assert isinstance(done, dict), done
        sides = [host.entered for host in link.hosts]
        done = planned.run(planned.plan.sessions[0], sides=sides)
    return Session(planned, done.lines[0], read(planned.results))


@pytest.mark.must_run
def test_every_segment_is_certified_before_and_after_the_points(session: Session) -> None:
    probes = of(Probe, session.records)
    count = len(session.lab.plan.points)
    assert [(probe.after_points, probe.segment) for probe in probes] == [
        (walked, segment) for walked in (0, count) for segment in (0, 1, 2)
    ]
    for probe in probes:
        if probe.segment == 2:  # nothing passes, and datagrams alone are sent to see that
            assert probe.datagrams and probe.datagrams.sent[0] > 500
            assert not any(probe.datagrams.received) and not probe.round_trip_ns
            continue
        delay_ms = (5, 30)[probe.segment or 0]
        assert len(probe.round_trip_ns) == BRIEF_ROUND_TRIPS
        assert {part.bytes for part in probe.transfers} == set(BRIEF_TRANSFER_BYTES)
        assert 2 * delay_ms <= min(probe.round_trip_ns) / 1e6 < 2 * delay_ms + 3
    table = points(session.run)
    said = "trace of 3 segments in 1 s: 5 to 30 ms one way, outages of up to 0.2 s"
    assert set(table["link_asked"]) == {said}
    for verdict in certificates(session.run).to_dict("records"):
        assert "segment 2" not in str(verdict["link_certificate"])
    assert table[["rate_mbit", "delay_ms", "link_round_trip_before_ms"]].isna().all(axis=None)


@pytest.mark.must_run
def test_every_item_has_the_segment_it_was_measured_in_or_none(session: Session) -> None:
    crossing = {point.id for point in session.lab.plan.points if point.hops[0]}
    every = of(Item, session.records)
    items = [item for item in every if item.point in crossing and item.phase == "latency"]
    assert {item.segment for item in items} == {0, 1, None}
    for item in items:
        assert item.latency_ns is not None
        if item.segment is not None:
            assert item.latency_ns / 1e6 >= 2 * (5, 30)[item.segment]
    for point in crossing:
        # Each leg begins with the trace: its first items, those of the warm-up, are in segment 0.
        assert next(item for item in every if item.point == point).segment == 0


@pytest.mark.must_run
def test_how_points_fared_in_each_segment_is_a_table(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pareto.main([str(session.lab.results)]) == 0
    table = pd.read_csv(session.lab.results / "segments.csv")
    assert list(table.columns) == [column.name for column in COLUMNS]
    assert f"  {session.lab.results / 'segments.csv'}" in capsys.readouterr().out
    cut = table[table["split"] == "2"].set_index("segment")
    assert list(cut["asked"]) == ["5 ms one way", "30 ms one way", "nothing passes"]
    assert list(cut["certified_as"]) == [0, 1, 2]
    assert cut.loc[2, "latency_items"] == 0 and np.isnan(cut.loc[2, "round_trip_after_ms"])
    assert list(cut["start_s"]) == [0, 0.4, 0.8]
    assert list(cut["duration_s"]) == pytest.approx([0.4, 0.4, 0.2])
    [point] = {point.id for point in session.lab.plan.points if point.split == ("2",)}
    every = of(Item, session.records)
    items = [item for item in every if (item.point, item.phase) == (point, "latency")]
    for segment in (0, 1):
        [after_ns] = [
            probe.round_trip_ns
            for probe in of(Probe, session.records)
            if (probe.after_points > 0, probe.segment) == (True, segment)
        ]
        latencies_ns = [item.latency_ns or 0 for item in items if item.segment == segment]
        found = cut.loc[segment]
        assert found["round_trip_after_ms"] == pytest.approx(statistics.median(after_ns) / 1e6)
        assert found["latency_items"] == len(latencies_ns)
        if len(latencies_ns) >= MIN_ITEMS:
            median_ms = statistics.median(latencies_ns) / 1e6
            assert found["latency_median_ms"] == pytest.approx(median_ms)
    assert len(table) == 3 * len(session.lab.plan.points)


@pytest.mark.must_run
def test_a_segment_that_was_not_as_asked_for_is_told_with_its_number(session: Session) -> None:
    probes = session.run.probes.copy()
    wrong = probes["segment"].eq(1) & probes["after_points"].gt(0)
    probes.loc[wrong, "round_trip_ns"] = pd.Series([(80_000_000,)], index=probes.index[wrong])
    verdict, *_ = certificates(replace(session.run, probes=probes)).to_dict("records")
    said = "segment 1: round trip 80.0 ms (asked: 60.0, at most 3.0 more) after the point"
    assert said in verdict["link_certificate"]
    passed = probes["segment"].eq(2) & probes["after_points"].eq(0)
    came = Datagrams(2_000_000, (600, 600), (600, 600), (60_000_000,) * 600)
    probes.loc[passed, "datagrams"] = pd.Series([came], index=probes.index[passed])
    verdict, *_ = certificates(replace(session.run, probes=probes)).to_dict("records")
    said = "segment 2: loss forward 0.0% (asked: 100.0% ± 0.2%) before the point"
    assert said in verdict["link_certificate"]
    probes = probes[~probes["segment"].eq(0)]
    verdict, *_ = certificates(replace(session.run, probes=probes)).to_dict("records")
    assert not verdict["link_certified"]
    assert "segment 0: not measured before the point" in verdict["link_certificate"]
