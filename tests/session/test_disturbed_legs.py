"""Legs that are measured again because something disturbed them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from paretopipe_worker.records.lines import End, LegEnd, PointEnd
from tests.helpers.sessions import lab

pytestmark = pytest.mark.slow

SECOND = 1_000_000_000


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Have processes that are started meanwhile run on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def hog(core: int) -> Iterator[None]:
    """Keep one core busy; bounded in time whatever becomes of this process."""
    code = f"import os, time\nos.sched_setaffinity(0, {{{core}}})\nend = time.monotonic() + 120\n"
    code += "print(flush=True)\nwhile time.monotonic() < end: pass"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as started:
        try:
            assert started.stdout
            started.stdout.readline()
            yield
        finally:
            started.kill()


def test_a_leg_disturbed_by_another_process_is_marked_and_measured_again(tmp_path: Path) -> None:
    phases = {"min_items": 6, "min_s": 0, "max_s": 30, "warmup_items": 1}
    phases |= {"retries": 1, "cool_down_s": 0.1}
    experiment = {
        "models": ["tests.helpers.synthetic:burning"],
        "splits": {"cuts": ["0"]},
        "phases": phases,
    }
    made = lab(tmp_path, experiment)
    [session] = made.plan.sessions
    core = min(os.sched_getaffinity(0))
    with hog(core):
        found = made.run(session, sides=[lambda: on_core(core)] * 2)
    assert {end.status for end in found.of(PointEnd)} == {"ok"}
    # At @first only the source computes, at @last only the other, which reports it.
    for cut, busy in {"@first": (0,), "@last": (1,), "0": (0, 1)}.items():
        for rank in busy:
            ends = [leg for leg in found.of(LegEnd, rank) if leg.point == found.point(cut)]
            assert [(end.phase, end.leg) for end in ends] == [
                *(("latency", leg) for leg in range(2)),
                *(("throughput", leg) for leg in range(2, 4)),
            ]
            for end in ends:
                assert "something else had the core" in end.disturbed[0]
                assert end.items >= 6
    [last] = found.of(End)
    # A retry of two phases of three points.
    assert last.shares_ns["cool-down"] >= 6 * 0.1 * SECOND
