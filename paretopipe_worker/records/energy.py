"""The energy that a host used during one leg."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import with_config


@with_config(extra="forbid")
@dataclass(frozen=True)
class Energy:
    """What the host's counters of energy counted from just before a leg until just after it.

    They count whatever runs on the host, and the leg's warm-up and drain.

    Parameters
    ----------
    joules
        Sum over the counters of `source`; null where it is not known.
    reason
        Why it is not known; null where it is.
    source
        The counters that were read, joined by ``+``; null where the host has none.
    seconds
        Time between the two readings.
    items
        Items that this stage handled in that time, those of the warm-up and the drain included.
    """

    joules: float | None
    reason: str | None
    source: str | None
    seconds: float
    items: int
