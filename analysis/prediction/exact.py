"""Exact fronts of latency and throughput over all splits of a pipeline, and over orders of hosts.

There are too many splits of long pipelines to look at each. But what happens behind a cut depends
on the cut alone: of two ways to it, the one that is no better in latency so far nor in the busiest
part so far is no better at the end. So the search goes from host to host and keeps, at each cut,
only the ways that no other dominates. That is dynamic programming for two objectives (Daellenbach
and De Kluyver, "Note on multiple objective dynamic programming", J. Operational Research Society
31, 1980), and exact: one objective is a sum of parts, the other a maximum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.prediction.costs import Array, Costs, Hop, Places
from analysis.tables.front import is_nondominated


@dataclass(frozen=True)
class Choice:
    """A split of a front.

    Parameters
    ----------
    hosts
        The hosts in the order of the pipeline, source first.
    cuts
        Places between them, one fewer than hosts; they do not fall.
    latency_ms
        Response latency with one item in flight.
    throughput_per_s
        Items per second with a window of them in flight.
    """

    hosts: tuple[str, ...]
    cuts: tuple[int, ...]
    latency_ms: float
    throughput_per_s: float


@dataclass(frozen=True)
class Fleet:
    """Hosts that may follow one another in any order; each is used at most as often as it is there.

    Parameters
    ----------
    places, forward_bytes, return_bytes
        As in :class:`analysis.prediction.costs.Costs`.
    hosts
        Kinds of hosts, length h.
    available
        How many there are of each kind.
    waiting_ms, busy_ms
        Arrays (h, m), as in ``Costs``, by kind.
    item_ms
        As in ``Costs``, by kind.
    hop
        From one kind to another.
    back
        From a kind to the source.
    sources
        Kinds at which the input is born, and to which the output returns.
    fits
        Array of bool (h, m, m): whether a kind has memory for what lies between two places; None
        where all have it for all.
    """

    places: tuple[str, ...]
    hosts: tuple[str, ...]
    available: tuple[int, ...]
    waiting_ms: Array
    busy_ms: Array
    item_ms: tuple[float, ...]
    forward_bytes: Array
    return_bytes: float
    hop: Callable[[int, int], Hop]
    back: Callable[[int, int], Hop]
    sources: tuple[int, ...]
    fits: NDArray[np.bool_] | None = None


def front(costs: Costs, window: int) -> list[Choice]:
    """The front of all splits of a pipeline whose hosts stand in a given order.

    Parameters
    ----------
    costs
        What the parts of the pipeline cost; a stage may be empty anywhere. Its parts only add up:
        it has no `slowing`.
    window
        Items in flight, at least 1.

    Returns
    -------
    One split for each pair of objectives on the front, the lowest latency first. Where several
    splits have both in common, which of them is returned is not said.
    """
    items = costs.item_ms or (0.0,) * len(costs.hosts)
    stages = [
        _Stage(host, costs.waiting_ms[rank], costs.busy_ms[rank], item_ms, back, may_be_empty=True)
        for rank, (host, item_ms, back) in enumerate(
            zip(costs.hosts, items, costs.back, strict=True)
        )
    ]
    for rank, hop in enumerate(costs.hops):
        stages[rank].onward = ((rank + 1, hop),)
    ended = _search(stages, costs.forward_bytes, costs.return_bytes)
    last, most = len(costs.places) - 1, len(costs.hops)
    cuts = [
        np.pad(rows.cuts, ((0, 0), (0, most - rows.cuts.shape[1])), constant_values=last)
        for rows in ended
    ]
    splits = np.vstack(cuts)
    # As the sums of all other predictions are rounded.
    latency, throughput = costs.latency_ms(splits), costs.throughput_per_s(splits, window)
    return [
        Choice(costs.hosts, tuple(map(int, splits[at])), float(latency[at]), float(throughput[at]))
        for at in _best(latency, throughput)
    ]


def front_of_orders(fleet: Fleet, window: int) -> list[Choice]:
    """The front over all splits, orders and subsets of hosts.

    Every host of a choice computes something, but for a source, which may only send the input on.

    Returns
    -------
    As :func:`front` does.
    """
    found: list[Choice] = []
    for source in fleet.sources:
        stages = _lattice(fleet, source)
        for rows in _search(stages, fleet.forward_bytes, fleet.return_bytes):
            period = np.maximum(rows.busiest_ms, rows.total_ms / window)
            with np.errstate(divide="ignore"):
                throughput = 1000.0 / period
            for at in _best(rows.total_ms, throughput):
                hosts = tuple(stages[stage].host for stage in rows.route[at])
                cuts = tuple(map(int, rows.cuts[at]))
                found.append(Choice(hosts, cuts, float(rows.total_ms[at]), float(throughput[at])))
    latency = np.array([choice.latency_ms for choice in found])
    throughput = np.array([choice.throughput_per_s for choice in found])
    return [found[at] for at in _best(latency, throughput)]


@dataclass
class _Stage:
    """A host in an order of hosts: what it takes, and which stages may follow it.

    `onward` names later stages by their number, and the hop to each. `back` is None where the
    output is already at the source. `fits` is a kind's of :class:`Fleet`.
    """

    host: str
    waiting_ms: Array
    busy_ms: Array
    item_ms: float
    back: Hop | None
    may_be_empty: bool
    fits: NDArray[np.bool_] | None = None
    onward: tuple[tuple[int, Hop], ...] = ()


@dataclass(frozen=True)
class _Rows:
    """Ways to places, n of them: how long they take, and how long their busiest part.

    `place` and the times have shape (n,). `cuts` (n, d) holds the places of the d cuts behind them,
    `route` (n, d) the numbers of the stages that were passed, without the one they are at.
    """

    place: Places
    total_ms: Array
    busiest_ms: Array
    cuts: Places
    route: Places

    def only(self, at: Places) -> _Rows:
        """Some of the ways."""
        return _Rows(*(getattr(self, name)[at] for name in self.__dataclass_fields__))


_START = _Rows(
    np.zeros(1, dtype=np.int64),
    np.zeros(1),
    np.zeros(1),
    np.zeros((1, 0), dtype=np.int64),
    np.zeros((1, 0), dtype=np.int64),
)


def _lattice(fleet: Fleet, source: int) -> list[_Stage]:
    """All stages of all orders: one for each number of hosts of each kind used so far, and kind."""
    first = tuple(int(kind == source) for kind in range(len(fleet.hosts)))
    numbers = {(first, source): 0}
    stages = []
    # Stages are added while they are walked, those with fewer hosts before those with more.
    for used, kind in (queue := [(first, source)]):
        back = fleet.back(kind, source) if numbers[used, kind] else None
        onward = []
        for other, count in enumerate(fleet.available):
            if used[other] < count:
                then = (*used[:other], used[other] + 1, *used[other + 1 :])
                if (then, other) not in numbers:
                    numbers[then, other] = len(numbers)
                    queue.append((then, other))
                onward.append((numbers[then, other], fleet.hop(kind, other)))
        times = fleet.waiting_ms[kind], fleet.busy_ms[kind], fleet.item_ms[kind]
        fits = None if fleet.fits is None else fleet.fits[kind]
        stages.append(_Stage(fleet.hosts[kind], *times, back, back is None, fits, tuple(onward)))
    return stages


def _search(stages: Sequence[_Stage], forward_bytes: Array, return_bytes: float) -> Iterator[_Rows]:
    """All ways to the end that no other way to the same end dominates, the way back included.

    The first stage has the input. The `route` of what is returned ends with the last stage.
    """
    arrived: list[list[_Rows]] = [[_START], *([] for _ in stages[1:])]
    last = len(forward_bytes) - 1
    for number, stage in enumerate(stages):
        done = _computed(_merged(arrived[number]), stage, number)
        ended = done.only(np.flatnonzero(done.place == last))
        if stage.back is not None:
            back = np.full(len(ended.place), float(return_bytes))
            ended = _crossed(ended, stage.back, back)
        yield ended
        left = done.only(np.flatnonzero(done.place < last))
        left = _Rows(
            left.place,
            left.total_ms,
            left.busiest_ms,
            np.column_stack((left.cuts, left.place)),
            left.route,
        )
        for following, hop in stage.onward:
            arrived[following].append(_crossed(left, hop, forward_bytes[left.place]))
        arrived[number].clear()


def _computed(rows: _Rows, stage: _Stage, number: int) -> _Rows:
    """The ways to each place behind those of `rows` when a stage computes what lies between."""
    rows = rows.only(np.argsort(rows.total_ms - stage.waiting_ms[rows.place], kind="stable"))
    before_ms = rows.total_ms - stage.waiting_ms[rows.place]
    begun_ms = stage.busy_ms[rows.place]
    kept, places, totals, busiest = [], [], [], []
    for place in range(len(stage.waiting_ms)):
        within = rows.place <= place if stage.may_be_empty else rows.place < place
        if stage.fits is not None:
            within &= stage.fits[rows.place, place]
        at = np.flatnonzero(within)
        computing = stage.busy_ms[place] - begun_ms[at]
        computing += np.where(computing > 0, stage.item_ms, 0.0)
        slowest = np.maximum(rows.busiest_ms[at], computing)
        # They are in the order of their latency: whatever is not less busy than all before is
        # dominated.
        ahead = np.minimum.accumulate(np.concatenate(([np.inf], slowest)))[:-1]
        better = slowest < ahead
        at = at[better]
        kept.append(at)
        places.append(np.full(len(at), place, dtype=np.int64))
        totals.append(before_ms[at] + stage.waiting_ms[place])
        busiest.append(slowest[better])
    chosen = np.concatenate(kept)
    route = np.column_stack((rows.route[chosen], np.full(len(chosen), number)))
    return _Rows(
        np.concatenate(places),
        np.concatenate(totals),
        np.concatenate(busiest),
        rows.cuts[chosen],
        route,
    )


def _crossed(rows: _Rows, hop: Hop, sent: Array) -> _Rows:
    """The same ways after a message of so many bytes each."""
    total = rows.total_ms + hop.crossing_ms(sent)
    busiest = np.maximum(rows.busiest_ms, hop.busy_ms(sent))
    return _Rows(rows.place, total, busiest, rows.cuts, rows.route)


def _merged(arrived: Sequence[_Rows]) -> _Rows:
    """The ways to one stage by several others, in one."""
    fields = _Rows.__dataclass_fields__
    return _Rows(*(np.concatenate([getattr(rows, name) for rows in arrived]) for name in fields))


def _best(latency_ms: Array, throughput_per_s: Array) -> Places:
    """Which rows are on the front, one of each pair of values, by latency."""
    values = np.column_stack((latency_ms, throughput_per_s))
    on_front = np.flatnonzero(is_nondominated(values, ["min", "max"]))
    _, first = np.unique(values[on_front], axis=0, return_index=True)
    chosen: Places = on_front[first]
    return chosen
