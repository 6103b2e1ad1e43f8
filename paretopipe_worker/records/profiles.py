"""How long a host takes for each unit of a model, measured before the points of a session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import with_config


@with_config(extra="forbid", allow_inf_nan=False)
@dataclass(frozen=True)
class Profile:
    """The units of one stage, item by item, without messages.

    A unit is what lies between two neighbouring places of the model's cut table.

    Parameters
    ----------
    batch, dtype, runtime
        What computed, as points have them; the model is the session's.
    places
        Names of the cuts, endpoints included, between which the units lie: one more than units.
    duty
        How the stage was kept busy: `busy`, an item followed the one before; `waiting`, the stage
        had waited before each item.
    wait_ns
        For how long; 0 where `busy`.
    unit_ns
        By item, the time of each unit, in order. Stretching is not in it.
    reason
        Why there are no items, in words; null where there are some.
    """

    batch: int
    dtype: str
    runtime: str
    places: tuple[str, ...]
    duty: Literal["busy", "waiting"]
    wait_ns: int
    unit_ns: tuple[tuple[int, ...], ...]
    reason: str | None = None
    kind: Literal["profile"] = "profile"
