"""The energy that a host used during one leg, and at rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import with_config


@with_config(extra="forbid", allow_inf_nan=False)
@dataclass(frozen=True)
class Energy:
    """What the host used from just before a leg until just after it.

    That is what whatever runs on the host used, during the leg's warm-up and drain too.

    Parameters
    ----------
    joules
        Sum over the counters of `source`, or integral of the power that it told; null where it is
        not known.
    reason
        Why it is not known; null where it is.
    source
        The counters that were read, joined by ``+``, or what told the power; null where the host
        has neither.
    seconds
        Time between the two readings, or from the first sample to the last.
    items
        Items that this stage handled in that time, those of the warm-up and the drain included.
    scope
        Whose energy that is, in words; null where the host tells none, and in older records.
    rate_hz, samples
        Samples per second that were asked for, and samples that were taken; null where counters
        were read, and `samples` where a sample failed.
    """

    joules: float | None
    reason: str | None
    source: str | None
    seconds: float
    items: int
    scope: str | None = None
    rate_hz: float | None = None
    samples: int | None = None


@with_config(extra="forbid", allow_inf_nan=False)
@dataclass(frozen=True)
class Rest:
    """What the host used before the first point of a session, while all its ranks rested.

    `items` is 0. Where `busy` hosts are asked for, their background load ran already.
    """

    energy: Energy
    kind: Literal["rest"] = "rest"
