"""Wait until a given time, as precisely as a process that shares its host can."""

from __future__ import annotations

import ctypes
import select
import time

SPIN_NS = 100_000
"""How long before the given time a wait stops sleeping and keeps its core: sleeps ended up to 90 us
late, on an idle machine and without slack. A wait takes no more than this from the others."""

_PR_SET_TIMERSLACK = 29


def be_exact() -> None:
    """Have the kernel end this thread's sleeps on time instead of up to 50 us late.

    The threads that this one starts inherit it (``PR_SET_TIMERSLACK`` in prctl(2)).
    """
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)


def wait_until(due_ns: int) -> int:
    """Sleep, and spin at the end, until ``perf_counter_ns`` is `due_ns`; return the time then.

    It is later than `due_ns` by what the kernel or other processes of the host took.
    """
    left_ns = due_ns - time.perf_counter_ns()
    if left_ns > SPIN_NS:
        time.sleep((left_ns - SPIN_NS) / 1e9)
    while (now_ns := time.perf_counter_ns()) < due_ns:
        # This releases the interpreter, which the threads that receive and send need meanwhile.
        select.select((), (), (), 0)
    return now_ns
