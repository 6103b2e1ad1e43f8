"""Wait until a moment, as exactly as a process that shares its host may."""

from __future__ import annotations

import ctypes
import select
import time

SPIN_NS = 100_000
"""Before what is waited for, the core is kept: a sleep ended up to 90 us late, on an idle machine
and without slack. What one waits for costs the others no more than this."""

_PR_SET_TIMERSLACK = 29


def be_exact() -> None:
    """Have the kernel end this thread's sleeps when they are over, not up to 50 us later.

    The threads that this one starts inherit it (``PR_SET_TIMERSLACK`` in prctl(2)).
    """
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)


def wait_until(due_ns: int) -> int:
    """Sleep, and spin at the end, until ``perf_counter_ns`` shows a time; return what it shows.

    That is later than asked for by what the kernel or others of the host took.
    """
    left_ns = due_ns - time.perf_counter_ns()
    if left_ns > SPIN_NS:
        time.sleep((left_ns - SPIN_NS) / 1e9)
    while (now_ns := time.perf_counter_ns()) < due_ns:
        # Threads that receive and send need the interpreter meanwhile: this lets go of it.
        select.select((), (), (), 0)
    return now_ns
