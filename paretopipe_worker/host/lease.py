"""The lease on a host: a file that the controller touches for as long as it runs.

A process on the host watches this file and ends whatever must not outlive the controller: a stage,
or a shaped link. Ctrl-C, SIGKILL and a lost network all look alike to it: the touches cease.
"""

from __future__ import annotations

import math
import time
from pathlib import Path


class Lease:
    """One consumer's view of the lease file.

    The lease's age is counted by the clock since boot, from the moment at which this consumer saw
    the file's time change, so that a step of the wall clock neither ends nor prolongs it. Only the
    first look has to trust the wall clock.

    Parameters
    ----------
    path
        The lease file.
    seconds
        How long the lease holds after a touch.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self.path = path
        self.seconds = seconds
        self._touched_ns: int | None = None
        self._seen_s = 0.0

    @property
    def poll_s(self) -> float:
        """Seconds between two looks: a consumer notices at most a tenth of the lease too late."""
        return min(1.0, self.seconds / 10)

    def lapse(self) -> str | None:
        """Why the lease no longer holds; None while it does."""
        age_s = self._age_s()
        if age_s <= self.seconds:
            return None
        if math.isinf(age_s):
            return f"lease {self.path} is gone"
        return f"lease {self.path} was last renewed {age_s:.1f} s ago; {self.seconds:g} s allowed"

    def _age_s(self) -> float:
        """Seconds since the file was last touched; infinite where there is none."""
        try:
            touched_ns = self.path.stat().st_mtime_ns
        except OSError:
            return math.inf
        now_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        if touched_ns != self._touched_ns:
            first = self._touched_ns is None
            self._seen_s = now_s - (max(0.0, time.time() - touched_ns / 1e9) if first else 0.0)
            self._touched_ns = touched_ns
        return now_s - self._seen_s
