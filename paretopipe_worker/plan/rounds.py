"""Which pairs of a fleet are measured when, for a table of links, and how long that takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from paretopipe_worker.plan import faults
from paretopipe_worker.plan.fleet import Host
from paretopipe_worker.records.pairs import (
    LEAST_IDLE_S,
    LONGEST_GOODPUT,
    MOST_IDLE_S,
    PATIENCE_S,
    SLOWEST_DATAGRAMS_S,
    WARM_S,
    Place,
    Settings,
    Table,
)

LEAST_LEFT_S = 10
"""Seconds that a pair gets at least beyond what its steps are allowed."""

_START_S = 3.0

_Seconds = Annotated[float, Field(gt=0, le=3600)]
_Repeats = Annotated[int, Field(ge=1, le=1000)]


class SettingsError(ValueError):
    """What is to be measured of each pair was refused: the variable, and what is allowed."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class _Asked:
    """The settings with their bounds, as the role's variables give them."""

    goodput_s: _Seconds
    goodput_mb: Annotated[float, Field(gt=0, le=100_000)]
    transfer_bytes: Annotated[
        list[Annotated[int, Field(ge=1, le=100_000_000)]], Field(min_length=1, max_length=32)
    ]
    warm_repeats: _Repeats
    idle_repeats: _Repeats
    transfer_s: Annotated[float, Field(gt=0, le=20)]
    datagrams: Annotated[int, Field(ge=1, le=600)]
    datagram_interval_s: Annotated[float, Field(ge=0.001, le=1)]
    patience_s: _Seconds


def parse(written: dict[str, Any]) -> Settings:
    """Read the settings from the variables of role ``links``, without the role's prefix.

    Raises
    ------
    SettingsError
        One line for each value that is not allowed.
    """
    try:
        asked = TypeAdapter(_Asked).validate_python(written)
    except ValidationError as error:
        allowed = list(Settings.__dataclass_fields__)
        lines = [
            f"links_{faults.key_path(fault['loc'])}: {faults.said(fault, allowed, 'variable')}"
            for fault in error.errors()
        ]
        raise SettingsError("\n".join(lines)) from error
    sizes = tuple(sorted(set(asked.transfer_bytes)))
    return Settings(**{**vars(asked), "transfer_bytes": sizes})


def table(hosts: Sequence[Host], settings: Settings, *, side_by_side: bool) -> Table:
    """Choose the rounds of a table of links that begins now."""
    rounds = tournament([host.name for host in hosts])
    if not side_by_side:
        rounds = [[pair] for pairs in rounds for pair in pairs]
    return Table(
        hosts=tuple(Place(host.name, host.data_address, host.data_port) for host in hosts),
        rounds=tuple(map(tuple, rounds)),
        settings=settings,
        started_unix_ns=time.time_ns(),
    )


def tournament(names: Sequence[str]) -> list[list[tuple[str, str]]]:
    """Let every two of `names` meet once, in rounds in which each meets at most one other.

    One name stays in its place, and the others move around it: the circle method of tournaments.

    Examples
    --------
    >>> tournament(["a", "b", "c"])
    [[('b', 'c')], [('a', 'c')], [('a', 'b')]]
    """
    order: list[str | None] = [*names, *([None] if len(names) % 2 else [])]
    place = {name: number for number, name in enumerate(names)}
    rounds = []
    for _ in range(len(order) - 1):
        met = zip(order[: len(order) // 2], reversed(order[len(order) // 2 :]), strict=True)
        pairs = [(one, two) for one, two in met if one is not None and two is not None]
        # Of two hosts the first in the inventory measures first, whoever is on which side.
        rounds.append([(a, b) if place[a] < place[b] else (b, a) for a, b in pairs])
        order = [order[0], order[-1], *order[1:-1]]
    return rounds


def usual_s(settings: Settings) -> float:
    """Seconds that a pair usually takes, both ways, on a path that is not slow."""
    idle_s = len(settings.transfer_bytes) * settings.idle_repeats * LEAST_IDLE_S
    datagrams_s = settings.datagrams * settings.datagram_interval_s
    return _START_S + 2 * (settings.goodput_s + idle_s + datagrams_s)


def longest_s(settings: Settings) -> float:
    """Seconds after which measuring a pair is ended, whatever the path."""
    each_s = settings.idle_repeats * (MOST_IDLE_S + settings.transfer_s)
    each_s += 2 * settings.transfer_s + WARM_S
    interval_s = max(SLOWEST_DATAGRAMS_S, settings.datagram_interval_s)
    way_s = LONGEST_GOODPUT * settings.goodput_s + PATIENCE_S
    way_s += len(settings.transfer_bytes) * each_s + settings.datagrams * interval_s
    return LEAST_LEFT_S + settings.patience_s + 2 * way_s


def most_mb(settings: Settings) -> float:
    """MB that measuring a pair sends at most, both ways, without headers."""
    repeats = settings.idle_repeats + settings.warm_repeats + 1
    return 2 * (settings.goodput_mb + repeats * sum(settings.transfer_bytes) / 1e6)


def told(made: Table) -> str:
    """What is going to be measured, and how long it will take, for people."""
    pairs = sum(map(len, made.rounds))
    how = (
        f"in {len(made.rounds)} rounds, the pairs of a round side by side"
        if made.side_by_side
        else "one after the other"
    )
    usual, longest = usual_s(made.settings), longest_s(made.settings)
    return (
        f"{len(made.hosts)} hosts, {pairs} pairs, {how}: about {_time(usual * len(made.rounds))}.\n"
        f"A pair takes about {usual:.0f} s, at most {longest:.0f} s, and sends at most "
        f"{most_mb(made.settings):.0f} MB."
    )


def _time(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
