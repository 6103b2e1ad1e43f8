"""How long a rank waits for the others."""

from __future__ import annotations

import threading
import time

_POLL_S = 0.2


class Patience:
    """How long to wait for the other ranks: until the deadline, or until a thread gives up."""

    def __init__(self, deadline_s: float) -> None:
        self._until = time.monotonic() + deadline_s
        self._given_up = threading.Event()

    @property
    def left_s(self) -> float:
        """Seconds until the deadline; 0 after :meth:`give_up`."""
        return 0.0 if self._given_up.is_set() else max(0.0, self._until - time.monotonic())

    def give_up(self) -> None:
        """End all waits, each within a fraction of a second."""
        self._given_up.set()

    def wait(self, seconds: float) -> None:
        """Sleep for so long, but no longer than the patience lasts."""
        self._given_up.wait(min(seconds, self.left_s))

    def slice(self) -> float:
        """Seconds that one call may block before it checks again whether a thread gave up."""
        return max(0.001, min(_POLL_S, self.left_s))
