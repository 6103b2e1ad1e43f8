"""Traces: read or refused, replayed on a link, held for certificates, seen by every item."""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import pareto
from analysis.certificate import certificates
from analysis.load import Run, load
from analysis.points import points
from analysis.segments import COLUMNS, throughput
from paretopipe_worker import records, resume, segments
from paretopipe_worker.control import Channel, ControlError
from paretopipe_worker.link import profiles, tc, traces
from paretopipe_worker.link.conditions import Condition, Way
from paretopipe_worker.link.profiles import Hop, ProfileError
from paretopipe_worker.link.relay import TUN
from paretopipe_worker.link.replay import PIPE, Replay, ReplayError
from paretopipe_worker.link.state import LinkState
from paretopipe_worker.link.stepper import Stepper
from paretopipe_worker.link.tc import Shaping, ShapingError
from paretopipe_worker.link.traces import MAX_SEGMENTS, Timetable, TraceError
from paretopipe_worker.probe import BRIEF_ROUND_TRIPS, BRIEF_TRANSFER_BYTES
from paretopipe_worker.records import Item, Probe, Record
from paretopipe_worker.spec import MIN_ITEMS
from tests.namespaces import reason_without_namespaces
from tests.sessions import Lab, lab
from tests.shaped_link import (
    DATA_PORT,
    Relayed,
    connect,
    datagrams,
    serve,
    shaped_link,
    traced,
    transfer_ms,
    without_netem,
)

REASON = reason_without_namespaces() or ("" if os.access(TUN, os.W_OK) else f"no {TUN} here")
relayed = pytest.mark.skipif(bool(REASON), reason=REASON)

pytestmark = pytest.mark.alone

DRIVE = "time_s,rate_mbit,delay_ms,loss_percent\n0,20,10,\n5,,40,0\n7.5,2,80,1.5\n"
FAST, OPEN, SLOW = (
    Condition(rate_mbit=20, delay_ms=10),
    Condition(delay_ms=40),
    Condition(rate_mbit=2, delay_ms=80, loss_percent=1.5),
)
TIMES = Timetable((0, 5, 7.5), 10)


# Files


def read(folder: Path, text: str, period_s: float | None = None) -> Any:
    """Read a trace of this text."""
    (folder / "drive.csv").write_text(text)
    return traces.read(folder / "drive.csv", "traces/drive.csv", period_s)


def test_a_trace_has_a_segment_for_each_row_of_its_file(tmp_path: Path) -> None:
    assert read(tmp_path, DRIVE) == (TIMES, (FAST, OPEN, SLOW))
    # As a spreadsheet writes it, its columns in another order, with blank lines.
    text = "\ufeffdelay_ms, time_s\r\n10,0\r\n\r\n40,5\r\n"
    assert read(tmp_path, text) == (Timetable((0, 5), 10), (Condition(delay_ms=10), OPEN))


def test_the_last_segment_lasts_as_long_as_the_one_before_unless_a_period_is_given(
    tmp_path: Path,
) -> None:
    assert read(tmp_path, DRIVE)[0].durations_s == (5, 2.5, 2.5)
    assert read(tmp_path, DRIVE, 60)[0].durations_s == (5, 2.5, 52.5)


def test_a_trace_begins_again_after_its_period() -> None:
    assert [(TIMES.segment(step), TIMES.due_s(step)) for step in range(6)] == [
        (0, 0),
        (1, 5),
        (2, 7.5),
        (0, 10),
        (1, 15),
        (2, 17.5),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("time_s,delay_ms\n0,1\n5,2\n4,1\n", ":4: time_s: at least 0.1 s after the one before (5)"),
        ("time_s,delay_ms\n0,1\n5,2\n5,1\n", ":4: time_s: at least 0.1 s after the one before (5)"),
        ("time_s,delay_ms\n-1,1\n5,2\n", ":2: time_s: the first segment begins at 0; got -1"),
        (
            "time_s,delay_ms\n0,1\n1e9,2\n",
            ":3: time_s: at least 0.1 s after the one before (0), at",
        ),
        ("time_s,delay_ms\n0,1\n,2\n", ":3: time_s: must be a number; got ''"),
        ("time_s,delay_ms\n0,1\n\n5,-2\n", ":4: delay_ms: a number from 0 to 10000; got -2"),
        ("time_s,rate_mbit\n0,1\n5,0\n", ":3: rate_mbit: a number from 0.001 to 100000; got 0"),
        ("time_s,loss_percent\n0,1\n5,101\n", ":3: loss_percent: a number from 0 to 100; got 101"),
        ("time_s,delay_ms\n0,1\n5,nan\n", ":3: delay_ms: must be a finite number; got 'nan'"),
        ("time_s,delay_ms\n0,1\n5,2 ms\n", ":3: delay_ms: must be a number; got '2 ms'"),
        ("time_s,delay_ms\n0,1\n5,2,3\n", ":3: 3 cells; the first line names 2"),
        ("time_s,delay\n0,1\n5,2\n", ":1: unknown column 'delay'; allowed: time_s and any of rate"),
        ("0,1\n5,2\n", ":1: unknown column '0'"),
        ("time_s,delay_ms,delay_ms\n0,1,1\n", ":1: columns are time_s, delay_ms, delay_ms"),
        ("delay_ms\n1\n", ":1: columns are delay_ms; allowed: time_s and any of rate_mbit, delay"),
        ("time_s\n0\n1\n", ":1: columns are time_s; allowed"),
        ("", ":1: columns are ; allowed"),
        ("time_s,delay_ms\n", ": a trace has at least 2 segments, a row each; got 0"),
        ("time_s,delay_ms\n0,1\n", ": a trace has at least 2 segments, a row each; got 1"),
        ('time_s,delay_ms\n0,"1\n', ": cannot be read as a CSV file: "),
        (
            "time_s,delay_ms\n" + "".join(f"{n},1\n" for n in range(MAX_SEGMENTS + 1)),
            f":{MAX_SEGMENTS + 2}: a trace has at most {MAX_SEGMENTS} segments",
        ),
    ],
    ids=range(21),
)
def test_what_is_no_trace_is_refused_with_line_and_column(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(TraceError) as refused:
        read(tmp_path, text)
    assert str(refused.value).startswith(f"traces/drive.csv{said}")


@pytest.mark.parametrize(
    ("content", "said"), [(None, "No such file"), (b"\xff\xfe\x00", "'utf-8' codec")]
)
def test_a_file_that_cannot_be_read_is_refused(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    if content:
        (tmp_path / "drive.csv").write_bytes(content)
    with pytest.raises(TraceError, match=f"drive.csv: cannot be read as a CSV file: .*{said}"):
        traces.read(tmp_path / "drive.csv", "drive.csv", None)
    with pytest.raises(TraceError, match="cannot be read as a CSV file: Is a directory"):
        traces.read(tmp_path, "drive.csv", None)


# Profiles


def profile(folder: Path, **keys: Any) -> profiles.LinkSpec:
    """A profile that follows the drive."""
    (folder / "drive.csv").write_text(DRIVE)
    return profiles.parse({"name": "x", "trace": "drive.csv", **keys}, folder)


def test_a_profile_holds_its_traces_content(tmp_path: Path) -> None:
    link = profile(tmp_path)
    assert link.timetable == TIMES
    assert link.hops == link.trace[:1] == (Hop(FAST, FAST),)
    assert [part.forward_path(2) for part in link.segments] == [
        (each, each) for each in (FAST, OPEN, SLOW)
    ]
    assert link.traced_ways(2) == dict.fromkeys([(0, 1), (1, 0)], (FAST, OPEN, SLOW))
    assert set(profile(tmp_path, direction="forward").traced_ways(2)) == {(0, 1)}
    assert not any(part.timetable for part in link.segments)


def test_a_profile_without_a_trace_is_its_only_segment() -> None:
    link = profiles.parse("paper-delay200")
    assert link.segments == (link,)
    assert link.traced_ways(2) == {(0, 1): (Condition(delay_ms=200),)}


@pytest.mark.parametrize(
    ("keys", "path", "said"),
    [
        ({"trace": "no.csv"}, ("trace",), "no.csv: cannot be read"),
        ({"trace": 7}, ("trace",), "the path of a CSV file; got 7"),
        ({"period_s": 7.5}, ("period_s",), "at least 0.1 s after the one before (7.5)"),
        ({"period_s": "60"}, ("period_s",), "seconds after which it begins again; got '60'"),
        ({"direction": "up"}, ("direction",), "one of both, forward, back; got 'up'"),
        ({"delay_ms": 5}, (), "trace excludes delay_ms"),
        ({"hops": []}, (), "trace excludes hops"),
    ],
    ids=range(7),
)
def test_a_profile_of_a_trace_that_makes_no_sense_is_refused(
    tmp_path: Path, keys: Any, path: Any, said: str
) -> None:
    with pytest.raises(ProfileError) as refused:
        profile(tmp_path, **keys)
    assert refused.value.path == path
    assert said in str(refused.value)


def test_a_trace_that_changes_nothing_and_a_period_without_a_trace_are_refused(
    tmp_path: Path,
) -> None:
    (tmp_path / "still.csv").write_text("time_s,delay_ms\n0,0\n5,\n")
    with pytest.raises(ProfileError, match=r"still\.csv: changes nothing"):
        profiles.parse({"name": "x", "trace": "still.csv"}, tmp_path)
    with pytest.raises(ProfileError, match="is of a trace"):
        profiles.parse({"name": "x", "delay_ms": 5, "period_s": 5})


# Commands


def shaping(engine: Any = "netem") -> Shaping:
    """What a host of a traced link does."""
    return Shaping("x", (Way("10.0.0.2", FAST, (FAST, OPEN, SLOW)),), (DATA_PORT,), engine, TIMES)


def test_netem_is_changed_in_place_to_all_of_a_segment() -> None:
    [command] = tc.step_commands(shaping(), "eth0", 1500, 2)
    assert " ".join(command) == (
        "tc qdisc change dev eth0 parent 7070:1 handle 7071: netem limit 1014 delay 80000us "
        "loss random 1.5% rate 2000kbit"
    )
    assert tc.step_commands(shaping(), "eth0", 1500, 1)[0][-2:] == ["rate", "10000000kbit"]


def test_a_traced_profile_is_read_from_json() -> None:
    text = traced(TIMES, (FAST, OPEN, SLOW), "10.0.0.2")
    assert Shaping.parse(text, (DATA_PORT,), "netem") == replace(shaping(), name="traced")


@pytest.mark.parametrize(
    ("starts_s", "period_s", "said"),
    [
        ([0, 5], 4, "timetable: period_s: at least 0.1 s after"),
        ([0, 5, 3], 9, "timetable: time_s: at least 0.1 s after the one before (5)"),
        ([1, 5], 9, "timetable: time_s: the first segment begins at 0"),
        ([0], 9, "timetable: a trace has 2 to 200 segments; got 1"),
        ([0, "5"], 9, "starts_s is a list of seconds"),
        ([0, float("nan")], 9, "starts_s is a list of seconds"),
        (5, 9, "starts_s is a list of seconds"),
        ([0, 5], 9, "ways[0].trace: 3 conditions for 2 segments"),
    ],
    ids=range(8),
)
def test_a_timetable_that_makes_no_sense_is_refused(
    starts_s: Any, period_s: Any, said: str
) -> None:
    good = traced(TIMES, (FAST, OPEN, SLOW), "10.0.0.2")
    times = str({"starts_s": starts_s, "period_s": period_s}).replace("'", '"')
    text = good.partition('"timetable": ')[0] + f'"timetable": {times.replace("nan", "NaN")}}}'
    with pytest.raises(ShapingError) as refused:
        Shaping.parse(text, (DATA_PORT,))
    assert said in str(refused.value)


# Steps


class Stepping:
    """A stepper in a thread, which notes what it changes and when."""

    def __init__(self, folder: Path, timetable: Timetable) -> None:
        self.changes: list[tuple[float, int]] = []
        self.stepper = Stepper(timetable, self._change, folder, os.getuid())
        self.replay = Replay(folder)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _change(self, segment: int) -> None:
        self.changes.append((time.monotonic(), segment))

    def _run(self) -> None:
        while not self._ended.wait(self.stepper.wait_s(0.001)):
            self.stepper.advance()

    def end(self) -> None:
        """Step no more."""
        self._ended.set()
        self._thread.join()


@pytest.fixture
def stepping(tmp_path: Path) -> Iterator[Stepping]:
    made = Stepping(tmp_path, Timetable((0, 0.2, 0.3), 0.5))
    yield made
    made.end()


def wait_for(condition: Any, deadline_s: float = 20) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.002)


def test_a_trace_runs_from_its_beginning_at_its_times_and_again(stepping: Stepping) -> None:
    stepping.replay.hold(2)
    begun = time.monotonic()
    stepping.replay.run()
    wait_for(lambda: len(stepping.changes) >= 8)
    times, segments = zip(*stepping.changes[:8], strict=True)
    assert segments == (2, 0, 1, 2, 0, 1, 2, 0)
    due = [begun + seconds for seconds in (0, 0.2, 0.3, 0.5, 0.7, 0.8, 1.0)]
    # Late by what this machine is busy with, and never early.
    assert all(at - when >= -0.001 for at, when in zip(times[1:], due, strict=True))
    stepping.replay.run()
    assert stepping.replay.segment(stepping.replay.position) == 0


def test_a_segment_is_held_until_further_notice(stepping: Stepping) -> None:
    stepping.replay.run()
    wait_for(lambda: stepping.changes)
    stepping.replay.hold(1)
    held = len(stepping.changes)
    since = stepping.replay.position
    time.sleep(0.7)  # more than a period
    assert len(stepping.changes) == held
    assert stepping.replay.segment(since) == 1


def test_what_saw_a_change_was_in_no_segment_even_if_it_is_the_same_again(
    stepping: Stepping,
) -> None:
    stepping.replay.hold(0)
    since = stepping.replay.position
    assert stepping.replay.segment(since) == 0
    stepping.replay.hold(1)
    stepping.replay.hold(0)
    assert stepping.replay.segment(since) is None


def test_what_had_been_waiting_when_the_segment_began_was_not_in_it_alone(
    stepping: Stepping,
) -> None:
    before = time.perf_counter_ns()
    stepping.replay.hold(1)
    since, after = stepping.replay.position, time.perf_counter_ns()
    assert stepping.replay.segment(since, after) == 1
    assert stepping.replay.segment(since, before) is None


def test_what_is_no_command_is_passed_over(
    stepping: Stepping, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / PIPE).open("wb", buffering=0) as pipe:
        pipe.write(
            b"hold 3 1\nhold -1 1\nrun\nreboot 1\n\xff\nhold 1\nhold 1 99999999999999999999\n"
        )
    stepping.replay.hold(2)
    assert [segment for _, segment in stepping.changes] == [2]
    assert capfd.readouterr().out.count("trace: no command") == 7


def test_a_keeper_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match=r"trace\.bin: No such file or directory; apply the link"):
        Replay(tmp_path)
    made = Stepping(tmp_path, TIMES)
    made.end()
    os.close(made.stepper.fileno())
    with pytest.raises(
        ReplayError, match=r"trace\.pipe: the link's keeper cannot be told 'hold 1'"
    ):
        made.replay.hold(1)


# A link


NEAR, FAR = Condition(delay_ms=5, rate_mbit=20), Condition(delay_ms=30, rate_mbit=5)
TWICE = Timetable((0, 1), 2)


@pytest.fixture
def link(tmp_path: Path) -> Iterator[Relayed]:
    with shaped_link(tmp_path) as made:
        yield Relayed(made.hosts, made.folder)


def apply(link: Relayed, timetable: Timetable, *conditions: Condition, rank: int = 0) -> Replay:
    """Shape a host's link by a trace."""
    asked = traced(timetable, conditions, link.hosts[1 - rank].address)
    lacking = without_netem(link.folder / "bin")
    done = link.call("apply", *link.arguments(asked, rank=rank), rank=rank, **lacking)
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
    wait_for(lambda: replay.segment(replay.position) == 1)
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
    wait_for(lambda: link.keepers() == [])
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


# A session


@dataclass(frozen=True)
class Session:
    """A session over a relayed trace, and what came of it."""

    lab: Lab
    records: list[Record]
    run: Run


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """Measure a pipeline of waiting stages between two namespaces."""
    if REASON:
        pytest.skip(REASON)
    folder = tmp_path_factory.mktemp("traced")
    (folder / "near-far.csv").write_text("time_s,delay_ms\n0,5\n0.4,30\n")
    document = {
        "models": ["tests.synthetic:wait_5_ms"],
        "links": [{"name": "drive", "trace": str(folder / "near-far.csv")}],
        "splits": {"cuts": ["2"]},
        "phases": {"min_items": 20, "min_s": 1.6, "max_s": 20},
    }
    with shaped_link(folder) as made:
        link = Relayed(made.hosts, folder)
        hosts = {
            name: {"data_address": host.address, "data_port": DATA_PORT}
            for name, host in zip(("edge", "server"), link.hosts, strict=True)
        }
        states = {name: link.state(rank) for rank, name in enumerate(hosts)}
        planned = replace(lab(folder, document, **hosts), link_states=states)
        [task] = resume.todo(planned.plan, planned.results)["sessions"]
        for rank, name in enumerate(hosts):
            asked = json.dumps(task["link"] | {"ways": task["link"]["ways"][name]})
            lacking = without_netem(folder / "bin")
            done = link.call("apply", *link.arguments(asked, rank=rank), rank=rank, **lacking)
            assert isinstance(done, dict), done
        [session] = planned.plan.sessions
        stages = []
        for host, name in zip(link.hosts, hosts, strict=True):
            with host.entered():
                stages.append(planned.start(session, name))
        texts = [stage.communicate(timeout=120)[1] for stage in stages]
        assert [stage.returncode for stage in stages] == [0, 0], "\n".join(texts)
    file = planned.results / "records" / "edge" / records.file_name(session.id, 1)
    yield Session(planned, list(records.read(file)), load(planned.results))


@pytest.mark.must_run
def test_every_segment_is_certified_before_and_after_the_points(session: Session) -> None:
    probes = [line for line in session.records if isinstance(line, Probe)]
    assert [(probe.when, probe.segment) for probe in probes] == [
        (when, segment) for when in ("before", "after") for segment in (0, 1)
    ]
    for probe in probes:
        delay_ms = (5, 30)[probe.segment or 0]
        assert len(probe.round_trip_ns) == BRIEF_ROUND_TRIPS
        assert {part.bytes for part in probe.transfers} == set(BRIEF_TRANSFER_BYTES)
        assert 2 * delay_ms <= min(probe.round_trip_ns) / 1e6 < 2 * delay_ms + 3
    table = points(session.run)
    assert set(table["link_asked"]) == {"trace of 2 segments in 0.8 s: 5 to 30 ms one way"}
    assert table[["rate_mbit", "delay_ms", "link_round_trip_before_ms"]].isna().all(axis=None)


@pytest.mark.must_run
def test_every_item_has_the_segment_it_was_measured_in_or_none(session: Session) -> None:
    crossing = {point.id for point in session.lab.plan.points if point.hops[0]}
    items = [
        line
        for line in session.records
        if isinstance(line, Item) and line.point in crossing and line.phase == "latency"
    ]
    assert {item.segment for item in items} == {0, 1, None}
    for item in items:
        assert item.latency_ns is not None
        if item.segment is not None:
            assert item.latency_ns / 1e6 >= 2 * (5, 30)[item.segment]
    for point in crossing:
        # Each leg begins with the trace: its first items, those of the warm-up, are in segment 0.
        first = next(
            line for line in session.records if isinstance(line, Item) and line.point == point
        )
        assert first.segment == 0


@pytest.mark.must_run
def test_how_points_fared_in_each_segment_is_a_table(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pareto.main([str(session.lab.results)]) == 0
    table = pd.read_csv(session.lab.results / "segments.csv")
    assert list(table.columns) == [column.name for column in COLUMNS]
    assert f"  {session.lab.results / 'segments.csv'}" in capsys.readouterr().out
    cut = table[table["split"] == "2"].set_index("segment")
    assert list(cut["asked"]) == ["5 ms one way", "30 ms one way"]
    assert list(cut["start_s"]) == [0, 0.4] and list(cut["duration_s"]) == [0.4, 0.4]
    [point] = {point.id for point in session.lab.plan.points if point.split == ("2",)}
    items = [
        line
        for line in session.records
        if isinstance(line, Item) and (line.point, line.phase) == (point, "latency")
    ]
    for segment in (0, 1):
        # Of the last leg: one may have been measured again, where it was disturbed.
        [after_ns] = [
            line.round_trip_ns
            for line in session.records
            if isinstance(line, Probe) and (line.when, line.segment) == ("after", segment)
        ]
        latencies_ns = [
            item.latency_ns or 0
            for item in items
            if (item.leg, item.segment) == (items[-1].leg, segment)
        ]
        found = cut.loc[segment]
        assert found["round_trip_after_ms"] == pytest.approx(statistics.median(after_ns) / 1e6)
        assert found["latency_items"] == len(latencies_ns)
        if len(latencies_ns) >= MIN_ITEMS:
            median_ms = statistics.median(latencies_ns) / 1e6
            assert found["latency_median_ms"] == pytest.approx(median_ms)
    assert len(table) == 2 * len(session.lab.plan.points)


@pytest.mark.must_run
def test_a_segment_that_was_not_as_asked_for_is_told_with_its_number(session: Session) -> None:
    probes = session.run.probes.copy()
    wrong = probes["segment"].eq(1) & probes["when"].eq("after")
    probes.loc[wrong, "round_trip_ns"] = pd.Series([(80_000_000,)], index=probes.index[wrong])
    [verdict] = certificates(replace(session.run, probes=probes)).to_dict("records")
    said = "segment 1: round trip 80.0 ms (asked: 60.0, at most 3.0 more) after the session"
    assert said in verdict["link_certificate"]
    probes = probes[~probes["segment"].eq(0)]
    [verdict] = certificates(replace(session.run, probes=probes)).to_dict("records")
    assert not verdict["link_certified"]
    assert "segment 0: not measured before the session" in verdict["link_certificate"]


def test_a_link_that_was_not_applied_with_its_trace_ends_the_session() -> None:
    here, there = socket.socketpair()
    rank0, rank1 = Channel(here, "rank 1"), Channel(there, "rank 0")
    unapplied = LinkState("none", {})
    with here, there, ThreadPoolExecutor(1) as pool:
        following = pool.submit(lambda: segments.answer(rank1.receive(30), unapplied, rank1))
        with pytest.raises(ReplayError, match="was not applied to this host with its trace"):
            segments.hold(0, unapplied, [rank0])
        with pytest.raises(ReplayError):
            following.result(timeout=30)
        assert "was not applied" in rank0.receive(30)["failed"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"failed": "keeper gone"}, "rank 1: keeper gone"),
        ({"held": 0}, "rank 1: {'held': 0}"),
    ],
    ids=range(2),
)
def test_a_rank_that_does_not_hold_the_segment_ends_the_session(
    stepping: Stepping, answer: Any, said: str
) -> None:
    here, there = socket.socketpair()
    with here, there:
        Channel(there, "rank 0").send(answer)
        link = LinkState("none", {}, replay=stepping.replay)
        with pytest.raises(ControlError, match=said):
            segments.hold(1, link, [Channel(here, "rank 1")])


@pytest.mark.parametrize("segment", [-1, "1", None, True])
def test_a_segment_that_makes_no_sense_is_refused(segment: Any) -> None:
    here, there = socket.socketpair()
    with here, there, pytest.raises(ControlError, match=r"rank 0: sent .* as a segment"):
        segments.answer({"segment": segment}, LinkState("none", {}), Channel(here, "rank 0"))


# Tables


def test_items_between_segments_end_a_stretch_and_count_for_none() -> None:
    ms = 1_000_000
    places = [0] * 5 + [None] + [1] * 6 + [None] + [0] * 4
    items = pd.DataFrame(
        {
            "session": "s",
            "attempt": 1,
            "point": "p",
            "phase": "throughput",
            "seq": range(len(places)),
            "segment": pd.array(places, dtype="Int64"),
            # One each 10 ms in segment 0, one each 40 ms in segment 1.
            "done_ns": [10 * n * ms for n in range(6)]
            + [(50 + 40 * n) * ms for n in range(1, 7)]
            + [(300 + 10 * n) * ms for n in range(5)],
        }
    )
    found = throughput(items, {"p": 2}).reset_index().set_index("segment")
    assert list(found["throughput_items"]) == [9, 6]
    assert list(found["throughput_images_s"]) == pytest.approx([200, 50])
