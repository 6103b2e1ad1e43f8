"""Stretching: a stage's computation takes its factor longer, exactly, and nothing else does."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from paretopipe_worker.execution.api import Computed
from paretopipe_worker.execution.eager import Eager
from paretopipe_worker.host import timers
from paretopipe_worker.model.flat import Stage
from paretopipe_worker.session.executing import Stretched

WAIT_NS = 20_000_000


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Compute on one thread, and put back what there was."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def burning(cpu_ns: int) -> Stage:
    """A stage that takes so much CPU time."""

    def burn(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        end_ns = time.thread_time_ns() + cpu_ns
        while time.thread_time_ns() < end_ns:
            pass
        return (x,)

    return cast(Stage, burn)


def waiting(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """A stage that others keep from its core."""
    time.sleep(WAIT_NS / 1e9)
    return (x,)


def stretched(stage: Any, factor: float) -> Computed:
    """One batch through a stage that is stretched."""
    return Stretched(Eager(cast(Stage, stage)), factor).run((torch.zeros(1),))


@pytest.mark.alone
@pytest.mark.parametrize("cpu_us", [100, 500])
def test_a_short_stage_is_stretched_by_its_factor_and_no_more(cpu_us: int) -> None:
    done = [stretched(burning(cpu_us * 1000), 2.0) for _ in range(400)]
    # Those that had their core to themselves, and of them most: others wake up late at times.
    alone = [each for each in done if each.compute_ns < 1.05 * each.cpu_ns]
    assert len(alone) > 40, "others had the core nearly all of the time"
    ratios = [(each.computed_ns - each.start_ns) / each.compute_ns for each in alone]
    lower, *_ = statistics.quantiles(ratios, n=4)
    assert 1.95 <= lower <= 2.1


def test_what_others_took_of_the_core_is_not_stretched() -> None:
    done = [stretched(waiting, 4.0) for _ in range(3)]
    longer_ns = [each.computed_ns - each.start_ns - each.compute_ns for each in done]
    assert min(longer_ns) < 0.2 * WAIT_NS
    assert all(each.compute_ns >= WAIT_NS for each in done)


def test_of_several_threads_the_wall_time_is_stretched() -> None:
    torch.set_num_threads(2)
    done = stretched(waiting, 4.0)
    assert done.asked_ns == 4 * done.compute_ns


def test_how_late_stretching_ended_is_told() -> None:
    done = stretched(burning(100_000), 3.0)
    assert done.overslept_ns is not None and done.overslept_ns >= 0 and done.cpu_ns is not None
    own_ns = min(done.cpu_ns, done.compute_ns)
    lasted_ns = done.computed_ns - done.start_ns
    assert lasted_ns - done.overslept_ns == done.compute_ns + 2 * own_ns
    assert Eager(burning(1000)).run((torch.zeros(1),)).overslept_ns is None


@pytest.mark.alone
def test_a_wait_lets_other_threads_work_to_its_end() -> None:
    """A thread that receives stamps what comes: it may not wait for the interpreter."""
    stop, seen_ns = threading.Event(), list[int]()

    def receive() -> None:
        while not stop.is_set():
            time.sleep(0)
            seen_ns.append(time.perf_counter_ns())

    receiver = threading.Thread(target=receive)
    receiver.start()
    try:
        inside = 0
        for _ in range(200):
            due_ns = time.perf_counter_ns() + timers.SPIN_NS
            timers.wait_until(due_ns)
            inside += any(due_ns - timers.SPIN_NS < at < due_ns for at in seen_ns[-10:])
    finally:
        stop.set()
        receiver.join()
    assert inside > 10


def test_an_exact_thread_has_no_slack_in_its_timers() -> None:
    found = []

    def look() -> None:
        timers.be_exact()
        task = Path(f"/proc/{threading.get_native_id()}/timerslack_ns")
        found.append(int(task.read_text()))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [1]
