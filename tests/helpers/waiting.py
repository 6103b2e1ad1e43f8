"""Wait for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable
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
