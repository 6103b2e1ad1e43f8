"""Link profiles: what a spec says of a network, resolved to a condition for every way.

A spec gives a profile as ``none``, as the name of a preset, or as a mapping. The mapping has a name
and one of these: a single condition (with ``direction: both``, ``forward`` or ``back``), or a
condition each for ``forward`` and ``back``, or ``hops``, a list of such mappings. It may also have
``return``, the condition of the way from the sink to the source. Forward is from rank i to i + 1.

Instead of conditions, the mapping may have a ``trace``: the path of a file of conditions that
follow one another (see `traces`), or its lines. A ``direction`` and a ``period_s`` may go with it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from paretopipe_worker.link import samples, traces
from paretopipe_worker.link.conditions import Condition
from paretopipe_worker.link.presets import PRESETS
from paretopipe_worker.link.traces import Timetable, TraceError
from paretopipe_worker.usertext import located, shown

UNSHAPED = "none"
"""Name of the link profile that leaves the link as it is."""

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,62}"
_CONDITION = tuple(field.name for field in fields(Condition))
_DIRECTIONS = ("both", "forward", "back")
_HOP = (*_CONDITION, "direction", "forward", "back")
_TRACE = ("trace", "direction", "period_s")
_LINK = ("name", *_HOP, "hops", "return", "trace", "period_s")
_OPEN = Condition()
_MOST_LOSS = 0.9
"""With more loss, not even a connection succeeds within the two minutes that stages wait for it."""


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
        One for each pair of neighbours, or one that holds for all pairs.
    return_way
        Condition from the sink to the source, whichever rank is the sink; None to use the `back` of
        the hop that leads to it.
    trace, timetable
        If the link follows a trace: what happens on every hop in each segment, and when each
        segment begins. `hops` then holds the first segment.
    certified
        Numbers of the segments that sessions certify, which is to measure whether the link is as
        asked for.
    """

    name: str
    hops: tuple[Hop, ...] = (_OPEN_HOP,)
    return_way: Condition | None = None
    trace: tuple[Hop, ...] = ()
    timetable: Timetable | None = None
    certified: tuple[int, ...] = ()

    @property
    def segments(self) -> tuple[LinkSpec, ...]:
        """The link as it is in each segment of its trace; the link itself if it has no trace."""
        return tuple(map(self.segment, range(len(self.trace)))) or (self,)

    def segment(self, number: int) -> LinkSpec:
        """The link as it is in a segment of its trace."""
        return LinkSpec(self.name, (self.trace[number],))

    @property
    def probed(self) -> dict[int | None, LinkSpec]:
        """The links that sessions certify: certified segments by number, or itself under None."""
        if self.timetable is None:
            return {None: self}
        return {number: self.segment(number) for number in self.certified}

    @property
    def hardest(self) -> tuple[LinkSpec, ...]:
        """The segments that none exceeds in slowness, delay and loss; itself without a trace."""
        numbers = samples.hardest(self.conditions) if self.timetable else ()
        return tuple(map(self.segment, numbers)) or (self,)

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """The condition in each segment of its trace, on the ways on which the trace holds."""
        forward = any(hop.forward.shaped for hop in self.trace)
        return tuple(hop.forward if forward else hop.back for hop in self.trace)

    @property
    def shaped(self) -> bool:
        """Whether any host has to shape for this profile."""
        ways = [way for hop in (*self.hops, *self.trace) for way in (hop.forward, hop.back)]
        return any(way.shaped for way in (*ways, self.return_way or _OPEN))

    def misfit(self, ranks: int) -> str | None:
        """Return why it does not fit placements of this many hosts: key and reason, or None.

        It then fits the ring of their first hosts as well, where the other hosts idle.
        """
        if len(self.hops) not in (1, ranks - 1):
            return f"hops: {len(self.hops)} hops, but pipelines of {ranks} stages have {ranks - 1}"
        if ranks == 2 and self.return_way is not None and self.hops[0].back.shaped:
            return "return: is the same way as back in pipelines of two stages; give only one"
        return None

    def ways(self, ranks: int) -> dict[tuple[int, int], Condition]:
        """Return conditions by (from rank, to rank), without those that change nothing.

        `ranks` is the number of ranks in the ring, the last of which is the sink. With more than
        two, only acknowledgements go from the source to the sink; that way stays unshaped.
        """
        ways = self._every_way(ranks)
        return {pair: condition for pair, condition in ways.items() if condition.shaped}

    def traced_ways(self, ranks: int) -> dict[tuple[int, int], tuple[Condition, ...]]:
        """Return conditions by segment for each way on which some segment changes something."""
        each = [segment._every_way(ranks) for segment in self.segments]
        ways = {pair: tuple(ways[pair] for ways in each) for pair in each[0]}
        return {pair: way for pair, way in ways.items() if any(part.shaped for part in way)}

    def forward_path(self, ranks: int) -> tuple[Condition, ...]:
        """Return the conditions around the ring: rank 0 to 1 and so on, then the last to rank 0."""
        return (*(self._hop(rank).forward for rank in range(ranks - 1)), self._return(ranks))

    def round_trips_s(self, ranks: int) -> tuple[float, ...]:
        """Return the seconds of delay for data and acknowledgement on each way of `forward_path`.

        Acknowledgements of the answers go from the source to the sink.
        """
        ways = self._every_way(ranks)
        ring = [(rank, (rank + 1) % ranks) for rank in range(ranks)]
        return tuple(
            (ways[here, there].delay_ms + ways.get((there, here), _OPEN).delay_ms) / 1e3
            for here, there in ring
        )

    def _every_way(self, ranks: int) -> dict[tuple[int, int], Condition]:
        """Conditions by (from rank, to rank)."""
        ways = {}
        for rank in range(ranks - 1):
            ways[rank, rank + 1] = self._hop(rank).forward
            ways[rank + 1, rank] = self._hop(rank).back
        ways[ranks - 1, 0] = self._return(ranks)
        return ways

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
        Keys and indices that lead to the part that was refused.
    """

    def __init__(self, path: Iterable[str | int], reason: str) -> None:
        super().__init__(reason)
        self.path = tuple(path)


def parse(written: Any, folder: Path = Path()) -> LinkSpec:
    """Resolve one entry of a spec's ``links``.

    Parameters
    ----------
    written
        The entry, as YAML gives it.
    folder
        Folder to which paths of traces are relative, see
        :func:`paretopipe_worker.usertext.located`.

    Raises
    ------
    ProfileError
        When the entry is not allowed: the key path inside it, and what is allowed.
    """
    if isinstance(written, str):
        written = {"name": written}
    if not isinstance(written, dict):
        raise ProfileError((), f"a name, or a mapping of {', '.join(_LINK)}; got {shown(written)}")
    _refuse_unknown((), written, _LINK)
    name, given = written.get("name"), {k: v for k, v in written.items() if k != "name"}
    if not isinstance(name, str) or not re.fullmatch(_NAME, name):
        said = (
            "is required" if name is None else f"must match the pattern {_NAME}; got {shown(name)}"
        )
        raise ProfileError(("name",), said)
    if name == UNSHAPED:
        if given:
            raise ProfileError((), f"'{UNSHAPED}' names the unshaped link and takes no parameters")
        return LinkSpec(name)
    if not given:
        return _resolved(name, _preset(name))
    if name in PRESETS:
        raise ProfileError(
            ("name",), f"'{name}' is a preset; a profile of your own needs another name"
        )
    return _traced(name, given, folder) if "trace" in given else _resolved(name, given)


def _preset(name: str) -> dict[str, Any]:
    """Mapping of the preset of this name."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise ProfileError(
            (),
            f"{shown(name)} is no preset{hint}; presets: {', '.join(PRESETS)}. A profile of your "
            f"own needs conditions; only '{UNSHAPED}' is unshaped",
        )
    return PRESETS[name].profile


def _resolved(name: str, given: dict[str, Any]) -> LinkSpec:
    """Resolve a profile without a trace from what was written beside its name."""
    parts = {key: value for key, value in given.items() if key in _HOP}
    if "period_s" in given:
        raise ProfileError(("period_s",), "belongs to a trace; this profile has none")
    if "hops" in given:
        if parts:
            raise ProfileError((), f"hops excludes {', '.join(parts)}: write these for each hop")
        if not isinstance(given["hops"], list) or not given["hops"]:
            raise ProfileError(("hops",), f"a list of at least one hop; got {shown(given['hops'])}")
        hops = tuple(_hop(("hops", rank), hop) for rank, hop in enumerate(given["hops"]))
    else:
        hops = (_hop((), parts),)
    back = _condition(("return",), given["return"]) if "return" in given else None
    link = LinkSpec(name, hops, back)
    if not link.shaped:
        raise ProfileError((), f"changes nothing; only '{UNSHAPED}' is unshaped")
    return link


def _hop(path: tuple[str | int, ...], given: Any) -> Hop:
    """Make a hop of one condition with a direction, or of a condition for each direction."""
    _refuse_unknown(path, given, _HOP)
    each = {key: given[key] for key in ("forward", "back") if key in given}
    same = {key: value for key, value in given.items() if key not in each}
    if each and same:
        raise ProfileError(
            path, f"{', '.join(same)} excludes {', '.join(each)}: write it for each direction"
        )
    if not each:
        direction = same.pop("direction", "both")
        return _directed(path, _condition(path, same), direction)
    return Hop(**{key: _condition((*path, key), value) for key, value in each.items()})


def _directed(path: tuple[str | int, ...], condition: Condition, direction: Any) -> Hop:
    """Make a hop of a condition that holds in one direction or both."""
    if direction not in _DIRECTIONS:
        raise ProfileError(
            (*path, "direction"), f"one of {', '.join(_DIRECTIONS)}; got {shown(direction)}"
        )
    return Hop(
        condition if direction != "back" else _OPEN,
        condition if direction != "forward" else _OPEN,
    )


def _traced(name: str, given: dict[str, Any], folder: Path) -> LinkSpec:
    """Resolve a profile that follows a trace, which holds on every hop alike."""
    if others := [key for key in given if key not in _TRACE]:
        raise ProfileError(
            (), f"trace excludes {', '.join(others)}: the file of the trace says what happens"
        )
    trace, period_s = given["trace"], given.get("period_s")
    if not isinstance(trace, str) or not trace:
        raise ProfileError(("trace",), f"the path of a CSV file; got {shown(trace)}")
    if period_s is not None and type(period_s) not in (int, float):
        raise ProfileError(
            ("period_s",), f"seconds after which the trace begins again; got {shown(period_s)}"
        )
    try:
        if "\n" in trace:  # the lines of the trace, as a manifest has them
            called = "lines"
            timetable, conditions = traces.parse(trace.splitlines(), called, period_s)
        else:
            called = trace if len(trace) <= 200 else shown(trace)
            timetable, conditions = traces.read(located(trace, folder), called, period_s)
    except TraceError as error:
        raise ProfileError(("trace",), str(error)) from error
    except ValueError as error:
        raise ProfileError(("period_s",), str(error).removeprefix("period_s: ")) from error
    hops = tuple(_directed((), each, given.get("direction", "both")) for each in conditions)
    chosen = samples.certified(conditions)
    link = LinkSpec(name, hops[:1], trace=hops, timetable=timetable, certified=chosen)
    if not link.shaped:
        raise ProfileError(("trace",), f"{called}: changes nothing; only '{UNSHAPED}' is unshaped")
    return link


def _condition(path: tuple[str | int, ...], given: Any) -> Condition:
    """Make a condition; its errors carry their key path."""
    _refuse_unknown(path, given, _CONDITION)
    try:
        condition = Condition.parse(given)
    except ValueError as error:
        key, _, reason = str(error).partition(": ")
        if key in _CONDITION:
            raise ProfileError((*path, key), reason) from error
        raise ProfileError(path, str(error)) from error
    if condition.mean_loss > _MOST_LOSS:
        key = "loss_percent" if condition.loss_percent else "burst_loss_percent"
        raise ProfileError(
            (*path, key),
            f"loses {100 * condition.mean_loss:.4g} % of all packets, so that nothing can be "
            f"measured; allowed: a mean of at most {100 * _MOST_LOSS:g} % on a link without a "
            "trace (in a trace, segments in which nothing passes are allowed, too)",
        )
    return condition


def _refuse_unknown(path: tuple[str | int, ...], given: Any, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is no mapping, or has a key that is not allowed."""
    if not isinstance(given, dict):
        raise ProfileError(path, f"a mapping of {', '.join(allowed)}; got {shown(given)}")
    for key in given:
        if key not in allowed:
            near = [each for each in allowed if each.startswith(str(key))]
            near = near or difflib.get_close_matches(str(key), allowed, n=1)
            hint = f" (did you mean '{near[0]}'?)" if near else ""
            raise ProfileError(
                (*path, str(key)), f"unknown key{hint}; allowed: {', '.join(allowed)}"
            )
