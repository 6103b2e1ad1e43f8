"""A trace is stepped through at its times, or held, as the source commands."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from paretopipe_worker.link.replay import PIPE, Replay, ReplayError
from paretopipe_worker.link.state import LinkState
from paretopipe_worker.link.traces import Timetable
from paretopipe_worker.session import hold
from paretopipe_worker.session.control import Channel, ControlError
from paretopipe_worker.shaping.stepper import Stepper
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow


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


def test_a_trace_runs_from_its_beginning_at_its_times_and_again(stepping: Stepping) -> None:
    stepping.replay.hold(2)
    begun = time.monotonic()
    stepping.replay.run()
    until(lambda: len(stepping.changes) >= 8, "eight changes")
    times, segments = zip(*stepping.changes[:8], strict=True)
    assert segments == (2, 0, 1, 2, 0, 1, 2, 0)
    due = [begun + seconds for seconds in (0, 0.2, 0.3, 0.5, 0.7, 0.8, 1.0)]
    # Late by what this machine is busy with, and never early.
    assert all(at - when >= -0.001 for at, when in zip(times[1:], due, strict=True))
    stepping.replay.run()
    assert stepping.replay.segment(stepping.replay.position) == 0


def test_a_segment_is_held_until_further_notice(stepping: Stepping) -> None:
    stepping.replay.run()
    until(lambda: stepping.changes, "a change")
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
    made = Stepping(tmp_path, Timetable((0, 5), 10))
    made.end()
    os.close(made.stepper.fileno())
    with pytest.raises(
        ReplayError, match=r"trace\.pipe: the link's keeper cannot be told 'hold 1'"
    ):
        made.replay.hold(1)


def test_a_link_that_was_not_applied_with_its_trace_ends_the_session() -> None:
    here, there = socket.socketpair()
    rank0, rank1 = Channel(here, "rank 1"), Channel(there, "rank 0")
    unapplied = LinkState("none", {})
    with here, there, ThreadPoolExecutor(1) as pool:
        following = pool.submit(lambda: hold.answer(rank1.receive(30), unapplied, rank1))
        with pytest.raises(ReplayError, match="was not applied to this host with its trace"):
            hold.hold(0, unapplied, [rank0])
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
            hold.hold(1, link, [Channel(here, "rank 1")])


@pytest.mark.parametrize("segment", [-1, "1", None, True])
def test_a_segment_that_makes_no_sense_is_refused(segment: Any) -> None:
    here, there = socket.socketpair()
    with here, there, pytest.raises(ControlError, match=r"rank 0: sent .* as a segment"):
        hold.answer({"segment": segment}, LinkState("none", {}), Channel(here, "rank 0"))
