"""How the clocks of the hosts relate to the source's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from pydantic import with_config

Reading: TypeAlias = tuple[int, int, int]
"""Clocks of one host, read one right after the other: ``CLOCK_MONOTONIC``, which all records use
and NTP slews; ``CLOCK_MONOTONIC_RAW``, which nothing corrects; ``CLOCK_MONOTONIC`` again."""


@with_config(extra="forbid", allow_inf_nan=False)
@dataclass(frozen=True)
class Exchange:
    """A question and its answer: the source's clocks, the other rank's, the source's again."""

    sent: Reading
    theirs: Reading
    received: Reading


@with_config(extra="forbid", allow_inf_nan=False)
@dataclass(frozen=True)
class Clock:
    """A comparison of the clocks of rank `rank` with the source's.

    `exchanges` are the fastest of many on the control path. The other rank's clock is ahead of the
    source's by ``theirs - (sent + received) / 2``, give or take half of the time in between
    (Cristian, "Probabilistic clock synchronization", Distributed Computing 3, 1989). They were made
    before or after the session, or between its parts: before the first point and after each.
    """

    when: Literal["before", "between", "after"]
    rank: int
    exchanges: tuple[Exchange, ...]
    kind: Literal["clock"] = "clock"
