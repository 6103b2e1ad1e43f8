"""Wait for what another thread or process does, or look at it meanwhile."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any


def until(
    condition: Callable[[], Any], what: str, deadline_s: float = 60, every_s: float = 0.005
) -> Any:
    """Wait for something to be there or true, and return it.

    Raises
    ------
    AssertionError
        When it was not by the deadline; the text says `what`.
    """
    end = time.monotonic() + deadline_s
    while not (found := condition()):
        assert time.monotonic() < end, f"within {deadline_s:g} s there was never: {what}"
        time.sleep(every_s)
    return found


@contextlib.contextmanager
def repeatedly(look: Callable[[], None], every_s: float) -> Iterator[None]:
    """Look at something again and again, in a thread, while the block runs."""
    over = threading.Event()

    def go() -> None:
        while not over.wait(every_s):
            look()

    thread = threading.Thread(target=go)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
