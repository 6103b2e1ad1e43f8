"""Link profiles: what a spec says of a network, resolved to a condition for every way.

A spec names a profile as ``none``, as a preset, or as a mapping: a name with either one condition
(``direction: both``, ``forward`` or ``back``), or ``forward`` and ``back``, or ``hops``, a list of
such; and ``return``, the way from the sink to the source. Forward is from rank i to i + 1.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from paretopipe_worker.link.conditions import Condition
from paretopipe_worker.link.presets import PRESETS

UNSHAPED = "none"
"""Name of the link profile that leaves the link as it is."""

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,62}"
_CONDITION = tuple(field.name for field in fields(Condition))
_DIRECTIONS = ("both", "forward", "back")
_HOP = (*_CONDITION, "direction", "forward", "back")
_LINK = ("name", *_HOP, "hops", "return")
_OPEN = Condition()


@dataclass(frozen=True)
class Hop:
    """What happens between two neighbouring stages: forward is away from the source."""

    forward: Condition = _OPEN
    back: Condition = _OPEN


_OPEN_HOP = Hop()


@dataclass(frozen=True)
class LinkSpec:
    """A link profile, resolved.

    Parameters
    ----------
    hops
        One for each pair of neighbours, or one that holds for all.
    return_way
        From the sink to the source; None for the last hop's back.
    """

    name: str
    hops: tuple[Hop, ...] = (_OPEN_HOP,)
    return_way: Condition | None = None

    @property
    def shaped(self) -> bool:
        """Whether anything has to be applied to a host for this profile."""
        ways = [way for hop in self.hops for way in (hop.forward, hop.back)]
        return any(way.shaped for way in (*ways, self.return_way or _OPEN))

    def misfit(self, ranks: int) -> str | None:
        """Why it cannot be applied to pipelines of this many stages: key and reason, or None."""
        if len(self.hops) not in (1, ranks - 1):
            return f"hops: {len(self.hops)} hops, but pipelines of {ranks} stages have {ranks - 1}"
        if ranks == 2 and self.return_way is not None and self.hops[0].back.shaped:
            return "return: is the same way as back in pipelines of two stages; give only one"
        return None

    def ways(self, ranks: int) -> dict[tuple[int, int], Condition]:
        """Conditions by (from rank, to rank), less those that change nothing.

        With more than two stages, source to sink is a way on which only acknowledgements go:
        it stays unshaped.
        """
        ways = {}
        for rank in range(ranks - 1):
            ways[rank, rank + 1] = self._hop(rank).forward
            ways[rank + 1, rank] = self._hop(rank).back
        ways[ranks - 1, 0] = self._return(ranks)
        return {pair: condition for pair, condition in ways.items() if condition.shaped}

    def forward_path(self, ranks: int) -> tuple[Condition, ...]:
        """Conditions around the ring: rank 0 to 1, and so on, and from the last back to rank 0."""
        return (*(self._hop(rank).forward for rank in range(ranks - 1)), self._return(ranks))

    def _hop(self, rank: int) -> Hop:
        """The hop from this rank to the next."""
        return self.hops[rank] if len(self.hops) > 1 else self.hops[0]

    def _return(self, ranks: int) -> Condition:
        """The way from the sink to the source."""
        return self.return_way or self._hop(ranks - 2).back


class ProfileError(ValueError):
    """A profile was refused.

    Parameters
    ----------
    path
        Keys and indices that lead to what was refused.
    """

    def __init__(self, path: Iterable[str | int], reason: str) -> None:
        super().__init__(reason)
        self.path = tuple(path)


def parse(written: Any) -> LinkSpec:
    """Resolve one entry of a spec's ``links``.

    Raises
    ------
    ProfileError
        When it is not allowed: the key path inside the entry, and what is.
    """
    if isinstance(written, str):
        written = {"name": written}
    if not isinstance(written, dict):
        raise ProfileError((), f"a name, or a mapping of {', '.join(_LINK)}; got {written!r}")
    _refuse_unknown((), written, _LINK)
    name, given = written.get("name"), {k: v for k, v in written.items() if k != "name"}
    if not isinstance(name, str) or not re.fullmatch(_NAME, name):
        said = "is required" if name is None else f"must match the pattern {_NAME}; got {name!r}"
        raise ProfileError(("name",), said)
    if name == UNSHAPED:
        if given:
            raise ProfileError((), f"'{UNSHAPED}' names the unshaped link and takes no parameters")
        return LinkSpec(name)
    if not given:
        return _resolved(name, _preset(name))
    if name in PRESETS:
        raise ProfileError(("name",), f"'{name}' is a preset; a profile of your own needs another")
    return _resolved(name, given)


def _preset(name: str) -> dict[str, Any]:
    """What a preset says."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise ProfileError(
            (),
            f"'{name}' is no preset{hint}; presets: {', '.join(PRESETS)}. A profile of your own "
            f"needs conditions; only '{UNSHAPED}' is unshaped",
        )
    return PRESETS[name].profile


def _resolved(name: str, given: dict[str, Any]) -> LinkSpec:
    """A profile of all that was written beside its name."""
    parts = {key: value for key, value in given.items() if key in _HOP}
    if "hops" in given:
        if parts:
            raise ProfileError((), f"hops excludes {', '.join(parts)}: say it for each hop")
        if not isinstance(given["hops"], list) or not given["hops"]:
            raise ProfileError(("hops",), f"a list of at least one hop; got {given['hops']!r}")
        hops = tuple(_hop(("hops", rank), hop) for rank, hop in enumerate(given["hops"]))
    else:
        hops = (_hop((), parts),)
    back = _condition(("return",), given["return"]) if "return" in given else None
    link = LinkSpec(name, hops, back)
    if not link.shaped:
        raise ProfileError((), f"changes nothing; only '{UNSHAPED}' is unshaped")
    return link


def _hop(path: tuple[str | int, ...], given: Any) -> Hop:
    """A hop of a condition with a direction, or of a condition for each direction."""
    _refuse_unknown(path, given, _HOP)
    each = {key: given[key] for key in ("forward", "back") if key in given}
    same = {key: value for key, value in given.items() if key not in each}
    if each and same:
        raise ProfileError(
            path, f"{', '.join(same)} excludes {', '.join(each)}: say it for each direction"
        )
    if not each:
        direction = same.pop("direction", "both")
        if direction not in _DIRECTIONS:
            raise ProfileError(
                (*path, "direction"), f"one of {', '.join(_DIRECTIONS)}; got {direction!r}"
            )
        condition = _condition(path, same)
        return Hop(
            condition if direction != "back" else _OPEN,
            condition if direction != "forward" else _OPEN,
        )
    return Hop(**{key: _condition((*path, key), value) for key, value in each.items()})


def _condition(path: tuple[str | int, ...], given: Any) -> Condition:
    """A condition, its errors with their key path."""
    _refuse_unknown(path, given, _CONDITION)
    try:
        return Condition.parse(given)
    except ValueError as error:
        key, _, reason = str(error).partition(": ")
        if key in _CONDITION:
            raise ProfileError((*path, key), reason) from error
        raise ProfileError(path, str(error)) from error


def _refuse_unknown(path: tuple[str | int, ...], given: Any, allowed: tuple[str, ...]) -> None:
    """Refuse what is no mapping, or has a key that is not allowed."""
    if not isinstance(given, dict):
        raise ProfileError(path, f"a mapping of {', '.join(allowed)}; got {given!r}")
    for key in given:
        if key not in allowed:
            near = difflib.get_close_matches(str(key), allowed, n=1)
            hint = f" (did you mean '{near[0]}'?)" if near else ""
            raise ProfileError(
                (*path, str(key)), f"unknown key{hint}; allowed: {', '.join(allowed)}"
            )
