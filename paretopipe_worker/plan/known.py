"""What a sweep has found out about its hosts when it lists what is left to measure."""

from __future__ import annotations

from dataclasses import field

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from paretopipe_worker.plan.abilities import Abilities
from paretopipe_worker.plan.plan import PlanError


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Known:
    """What is known of the hosts, by their names, and of the links.

    Parameters
    ----------
    torch
        Public version of torch, where it is known.
    memory
        Bytes that are free for new processes, null where a host cannot tell. Points whose stages
        do not fit are refused; none are if it is null as a whole.
    abilities
        What hosts can do. Points that need more are refused; none are if it is null.
    uncertified
        Points by session that count but are to be measured again, since their link was off.
    """

    torch: dict[str, str] = field(default_factory=dict)
    memory: dict[str, int | None] | None = None
    abilities: dict[str, Abilities] | None = None
    uncertified: dict[str, tuple[str, ...]] = field(default_factory=dict)


_ADAPTER = TypeAdapter(Known)


def parse(document: str) -> Known:
    """Read it from JSON.

    Raises
    ------
    PlanError
        When it is something else, naming the key.
    """
    try:
        return _ADAPTER.validate_json(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise PlanError(f"what is known of the hosts: {where}: {first['msg']}") from error
