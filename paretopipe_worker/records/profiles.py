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
    pauses
        By item, the number of the unit before which the stage waited once more, for as long: what
        comes then begins as cold as a stage of its own. The first unit is 0. Empty where it did
        not.
    """

    batch: int
    dtype: str
    runtime: str
    places: tuple[str, ...]
    duty: Literal["busy", "waiting"]
    wait_ns: int
    unit_ns: tuple[tuple[int, ...], ...]
    reason: str | None = None
    pauses: tuple[int, ...] = ()
    kind: Literal["profile"] = "profile"

    def __post_init__(self) -> None:
        units = len(self.places) - 1
        if units < 0:
            raise ValueError("places must have the name of at least one")
        if any(len(each) != units or min(each, default=0) < 0 for each in self.unit_ns):
            raise ValueError(f"unit_ns must have {units} times of at least 0 for each item")
        if self.pauses and len(self.pauses) != len(self.unit_ns):
            raise ValueError("pauses must be empty, or have one for each item")
        if any(not 0 < each < units for each in self.pauses):
            raise ValueError(f"pauses must be numbers of units from 1 to {units - 1}")
