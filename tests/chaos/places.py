"""Faults of places: disks that are full or read-only, memory that runs out, clocks that step."""

from __future__ import annotations

import contextlib
import re
import resource
from pathlib import Path

from tests.chaos import clocks
from tests.chaos.strikes import Kind, Strike
from tests.helpers.disks import full, mount
from tests.helpers.waiting import until


def fill_host(strike: Strike) -> None:
    """Fill a host's disk until the session is over."""
    with full(strike.ground.checkout.root / ".lab" / strike.victim):
        strike.until(lambda: False, "the end of a session whose host's disk is full")


def fill_controller(strike: Strike) -> None:
    """Fill the disk of the results until the session is over."""
    with full(strike.ground.results):
        strike.until(lambda: False, "the end of a session whose results have no space")


def forbid_results(strike: Strike) -> None:
    """Let nobody write into the results until the session is over."""
    results = str(strike.ground.results)

    def locked() -> bool:
        # Refused while a file is being written there.
        with contextlib.suppress(AssertionError):
            mount("-o", "remount,ro", results)
            return True
        return False

    until(locked, f"{results} read-only", 10)
    try:
        strike.until(lambda: False, "the end of a session whose results are read-only")
    finally:
        mount("-o", "remount,rw", results)


def starve(strike: Strike) -> None:
    """Let a stage take no more memory than it has."""
    pid = strike.process("stage")
    status = Path(f"/proc/{pid}/status").read_text()
    [size_kb] = re.findall(r"^VmSize:\s+(\d+) kB", status, re.MULTILINE)
    resource.prlimit(pid, resource.RLIMIT_AS, (int(size_kb) << 10, int(size_kb) << 10))


def step_clock(strike: Strike) -> None:
    """Step the clock of a host's stage and supervisor, and back when the session is over."""
    root, seconds = strike.ground.checkout.root, strike.drawn.choice([-86400, -60, 60, 3600])
    strike.process("stage")
    clocks.step(root, strike.victim, seconds)
    try:
        strike.until(lambda: False, "the end of a session in which a clock was stepped")
    finally:
        clocks.step(root, strike.victim, 0)


NO_SPACE = r"No space left on device|stay free"
KINDS = (
    Kind("fill-host", "local", 8, fill_host, NO_SPACE),
    Kind("fill-controller", "local", 6, fill_controller, NO_SPACE),
    Kind("read-only-results", "local", 5, forbid_results, r"Read-only file system"),
    Kind("out-of-memory", "local", 8, starve, r"[Mm]emory|allocate|new thread|killed by SIG"),
    Kind("step-clock", "clocks", 10, step_clock, r"(?!)"),
)
