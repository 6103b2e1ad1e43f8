"""What the tests of a host share: nothing that one test found out is kept for the next."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from paretopipe_worker.host import counters, powers


@pytest.fixture(autouse=True)
def looking_anew() -> Iterator[None]:
    """What tells energy is looked for once in a process: here, once in each test."""
    powers.power.cache_clear()
    counters.counters.cache_clear()
    yield
    powers.power.cache_clear()
    counters.counters.cache_clear()
