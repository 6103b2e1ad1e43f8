"""What an experiment may say of what a session measures beside its points."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, PlainValidator, TypeAdapter
from pydantic.dataclasses import dataclass

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True, config=_STRICT)
class CertifySpec:
    """When the path of a session is measured again between its points.

    That is after points with a predicted time of `every_min` minutes together, but of at least ten
    times as long as measuring the path takes; or after `every_points` points, whichever comes
    first.
    """

    every_min: Annotated[float, Field(gt=0, le=10_000)] = 10.0
    every_points: Annotated[int, Field(ge=1, le=1_000_000)] | None = None


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class ProfileSpec:
    """How each rank of a session measures its program, unit by unit, before the points.

    It does so with `items` that follow each other, and with as many that it waits between, so long
    as that takes no more than a share of the session (:mod:`paretopipe_worker.session.profile`).
    """

    items: Annotated[int, Field(ge=4, le=1000, strict=True)] = 10


_PROFILE = TypeAdapter(ProfileSpec)


def _profile(value: object) -> Literal[False] | ProfileSpec:
    """Accept false or a mapping."""
    if value is False or isinstance(value, ProfileSpec):
        return value
    if not isinstance(value, dict):
        raise ValueError("must be false, or a mapping such as {items: 10}")
    return _PROFILE.validate_python(value)


Profiling = Annotated[Literal[False] | ProfileSpec, PlainValidator(_profile)]
