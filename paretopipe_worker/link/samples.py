"""The choice of segments that stand for all segments of a trace; the standard library alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from paretopipe_worker.link.conditions import Condition

MOST = 20
"""How many segments of a trace a session certifies at most: each takes seconds, twice a session."""


def certified(conditions: Sequence[Condition]) -> tuple[int, ...]:
    """Choose the segments that a session holds and measures.

    If there are few different conditions, each is chosen once. Else the slowest and the fastest
    are chosen, the one with the longest delay, the lossiest, one in which nothing passes, and
    others evenly over the rates.

    Parameters
    ----------
    conditions
        The condition in each segment.

    Returns
    -------
    Rising numbers of segments; each is the first segment with its condition.
    """
    first: dict[Condition, int] = {}
    for number, condition in enumerate(conditions):
        first.setdefault(condition, number)
    if len(first) <= MOST:
        return tuple(first.values())
    passing = sorted((each for each in first if not each.outage), key=_rate)
    chosen = {
        passing[0],
        passing[-1],
        max(passing, key=lambda each: each.delay_ms),
        max(passing, key=lambda each: each.mean_loss),
        *[each for each in first if each.outage][:1],
    }
    rest = [each for each in passing if each not in chosen]
    places = MOST - len(chosen)
    chosen |= {rest[(2 * place + 1) * len(rest) // (2 * places)] for place in range(places)}
    return tuple(sorted(first[each] for each in chosen))


def alike(conditions: Sequence[Condition], chosen: Iterable[int]) -> dict[int, int]:
    """Map each segment to the chosen one with the same condition, if there is one."""
    known = {conditions[number]: number for number in chosen}
    return {n: known[each] for n, each in enumerate(conditions) if each in known}


def hardest(conditions: Sequence[Condition]) -> tuple[int, ...]:
    """Return the segments that no other segment equals or exceeds in slowness, delay and loss.

    Segments in which nothing passes are left out. Of equal segments the first is returned.
    """
    kept: list[tuple[tuple[float, ...], int]] = []
    for number, each in enumerate(conditions):
        burden = (-_rate(each), each.delay_ms, each.mean_loss)
        if each.outage or any(_at_least(other, burden) for other, _ in kept):
            continue
        kept = [entry for entry in kept if not _at_least(burden, entry[0])]
        kept.append((burden, number))
    return tuple(number for _, number in kept)


def _rate(condition: Condition) -> float:
    """The rate; infinite if there is no limit."""
    return condition.rate_mbit or math.inf


def _at_least(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether each number of one is at least that of the other."""
    return all(a >= b for a, b in zip(one, other, strict=True))
