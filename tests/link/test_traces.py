"""Traces are read or refused, and become profiles."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest

from paretopipe_worker.link import profiles, samples, traces
from paretopipe_worker.link.conditions import Condition
from paretopipe_worker.link.profiles import Hop, ProfileError
from paretopipe_worker.link.traces import MAX_SEGMENTS, Timetable, TraceError
from tests.helpers.egress import FAST, OPEN, SLOW, TIMES

DRIVE = "time_s,rate_mbit,delay_ms,loss_percent\n0,20,10,\n5,,40,0\n7.5,2,80,1.5\n"


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
        (
            "time_s,rate_mbit\n0,1\n5,0.0005\n",
            ":3: rate_mbit: a number from 0.001 to 100000; got 0.0005; write 0 for an outage",
        ),
        (
            "time_s,rate_mbit\n0,1\n5,0\n700,1\n",
            ": nothing passes for 695 s; allowed: at most 600 s without a break",
        ),
        # Where it begins again, an outage goes on.
        ("time_s,rate_mbit\n0,0\n400,5\n500,0\n900,0\n", ": nothing passes for 1200 s"),
        ("time_s,rate_mbit\n0,0\n5,0\n", ": nothing passes ever"),
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
        ("time_s,delay_ms\n0,1\n50102,2\n", ": period_s: at least 0.1 s after the one before"),
        (
            "time_s,delay_ms\n" + "".join(f"{n},1\n" for n in range(MAX_SEGMENTS + 1)),
            f":{MAX_SEGMENTS + 2}: a trace has at most {MAX_SEGMENTS} segments",
        ),
    ],
    ids=range(25),
)
def test_what_is_no_trace_is_refused_with_line_and_column(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(TraceError) as refused:
        read(tmp_path, text)
    assert str(refused.value).startswith(f"traces/drive.csv{said}")


@pytest.mark.parametrize(
    ("content", "said"), [(None, "No such file"), (b"\xff\xfe\x00", "is no UTF-8 but UTF-16")]
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


def test_a_rate_of_zero_lets_nothing_pass_while_it_lasts(tmp_path: Path) -> None:
    times, conditions = read(tmp_path, "time_s,rate_mbit,delay_ms\n0,20,10\n5,0,30\n7,0,\n9,5,\n")
    assert [each.outage for each in conditions] == [False, True, True, False]
    assert conditions[1] == Condition(delay_ms=30, loss_percent=100)
    assert traces.outage_s(times, conditions) == 4
    again = traces.write(times, conditions).splitlines()
    assert traces.parse(again, "again", times.period_s) == (times, conditions)


def test_of_a_recording_of_an_hour_a_sample_is_certified() -> None:
    rates = [abs(40 * math.sin(n / 50) + 10 * math.sin(n)) for n in range(3600)]
    conditions = [
        Condition(loss_percent=100) if rate < 0.5 else Condition(rate_mbit=round(rate, 3))
        for rate in rates
    ]
    conditions[99] = Condition(rate_mbit=20, loss_percent=3)
    conditions[77] = Condition(rate_mbit=20, delay_ms=80)
    chosen = samples.certified(conditions)
    assert len(chosen) == samples.MOST and list(chosen) == sorted(set(chosen))
    taken = [conditions[number] for number in chosen]
    carried = sorted(each.rate_mbit for each in conditions if each.rate_mbit)
    there = sorted(each.rate_mbit for each in taken if each.rate_mbit)
    assert (there[0], there[-1]) == (carried[0], carried[-1])
    assert {conditions[99], conditions[77], Condition(loss_percent=100)} <= set(taken)
    # Evenly over the rates: no stretch of them is left out.
    places = [carried.index(rate) / len(carried) for rate in there]
    assert max(b - a for a, b in itertools.pairwise(places)) < 0.15
    # Each stands for all segments of its condition.
    known = samples.alike(conditions, chosen)
    assert len([n for n, number in known.items() if conditions[number].outage]) > 10
    assert all(conditions[n] == conditions[number] for n, number in known.items())


def test_few_conditions_are_all_certified_each_once() -> None:
    assert samples.certified([FAST, SLOW, FAST, OPEN, SLOW] * 100) == (0, 1, 3)


def test_the_hardest_segments_are_those_that_none_is_as_slow_far_and_lossy_as() -> None:
    far, lossy = Condition(delay_ms=90), Condition(rate_mbit=50, loss_percent=2)
    out = Condition(loss_percent=100)
    assert samples.hardest([FAST, OPEN, SLOW, far, lossy, out, SLOW, FAST]) == (2, 3, 4)


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
        ({"period_s": "60"}, ("period_s",), "seconds after which the trace begins again; got '60'"),
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
    with pytest.raises(ProfileError, match="belongs to a trace"):
        profiles.parse({"name": "x", "delay_ms": 5, "period_s": 5})
