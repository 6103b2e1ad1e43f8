"""The parts of pipelines, as a run measured them: what predictions are added up from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import pandas as pd

from analysis.prediction import messages
from analysis.prediction.costs import Array, Costs, Hop
from analysis.prediction.energy import Powers
from analysis.prediction.observed import (
    POOL,
    Arrays,
    arrays_by_pool,
    by_pool,
    observe,
    order_of,
    pool_of,
    timed,
)
from analysis.prediction.unit_times import Duty, Solved, UnitTimes
from analysis.run import Run
from analysis.tables.front import GROUP
from paretopipe_worker.cuts import FIRST, PLAIN, CutTable
from paretopipe_worker.plan.labels import placement_label, runtimes_label
from paretopipe_worker.plan.plan import Point, message_sizes

NOBODY: frozenset[str] = frozenset()
_HELD = 0.9
"""Largest share of the time from item to item that may be a wire's or the window's, where what is
left is to be a stage's."""

_SOFTWARE = ("placement", "link", "backend", "wire", "busy", "sources")
_BESIDE = ("placement", "model", "backend", "batch", "dtype", "runtimes", "wire", "sources")


class PredictionError(ValueError):
    """Nothing can be predicted: the text says of what, and what was not measured."""


def costs(run: Run, measured: pd.DataFrame, group: Mapping[str, object]) -> Costs:
    """The parts of the pipeline that a group of comparable points shares.

    Parameters
    ----------
    run
        The run.
    measured
        Its replicates, see :func:`analysis.measures.replicates.replicates`.
    group
        Values of the columns :data:`analysis.tables.front.GROUP`.

    Raises
    ------
    PredictionError
        When no point is in the group, its link follows a trace, or a host was not measured.
    """
    points = [
        point
        for point in run.plan.points
        if all(value == group[name] for name, value in group_of(point).items())
    ]
    if not points:
        told = ", ".join(f"{name} {group[name]}" for name in GROUP)
        raise PredictionError(f"the run has no points of {told}")
    parts = Parts(run, measured)
    made = parts.costs(points[0], parts.sessions_of(points))
    return made.with_usual_waits(made.index([point.split for point in points]))


def _alike(
    pools: Mapping[tuple[object, ...], Arrays],
    point: Point,
    shared: Sequence[str],
    left_out: frozenset[str],
) -> Arrays:
    """The rows on which a point's parts may rest."""
    about = group_of(point)
    rows = pools.get(tuple(about[name] for name in shared), pools[()])
    kept = np.array([id not in left_out for id in rows["point"]], dtype=np.bool_)
    return {name: values[kept] for name, values in rows.items()}


def hop(rate_mbit: float | None, delay_ms: float, software: Hop) -> Hop:
    """The hop of a link that was never measured, by what is asked of it.

    Parameters
    ----------
    rate_mbit
        Rate of the wire, Mbit/s; None for that of `software`.
    delay_ms
        One-way delay, milliseconds.
    software
        A hop of the run's :func:`costs`, whose software takes as much.
    """
    return messages.by_profile(rate_mbit, delay_ms, software)


def _scaled(
    found: Sequence[Solved], sessions: Collection[str], duty: Duty
) -> tuple[Array, list[float]]:
    """Prefix times by rank, and what each stage takes beside, as fast as sessions are."""
    factors = [each.factor(sessions, duty) for each in found]
    pairs = list(zip(found, factors, strict=True))
    prefixes = np.array([each.prefix_ms * factor for each, factor in pairs])
    return prefixes, [each.beside_ms * factor for each, factor in pairs]


def group_of(point: Point) -> dict[str, object]:
    """The columns that a point shares with those that are compared with it."""
    own = {name: getattr(point, name) for name in GROUP if name not in ("placement", "runtimes")}
    labels = {
        "placement": placement_label(point.placement),
        "runtimes": runtimes_label(point.runtimes),
    }
    return {name: (own | labels)[name] for name in GROUP}


class Parts:
    """The parts of all pipelines of a run.

    Parameters
    ----------
    run
        The run.
    measured
        Its replicates, see :func:`analysis.measures.replicates.replicates`.
    """

    def __init__(self, run: Run, measured: pd.DataFrame) -> None:
        self.run = run
        self.observed = observed = observe(run, measured)
        self._stages, self._units = (
            by_pool(rows, POOL) for rows in (observed.stages, observed.units)
        )
        self.powers = Powers(run, observed)
        self._points = {point.id: point for point in run.plan.points}
        self._sessions: dict[str, list[str]] = {}
        for session in run.plan.sessions:
            for point in session.points:
                self._sessions.setdefault(point, []).append(session.id)
        self._pools: dict[tuple[object, ...], UnitTimes] = {}
        self._solved: dict[tuple[object, ...], Solved | None] = {}
        self._wires: dict[tuple[str, tuple[str, ...]], messages.Ring] = {}
        self._sizes: dict[tuple[object, ...], Array] = {}

    def sessions_of(self, points: Collection[Point]) -> tuple[str, ...]:
        """The sessions that measure points, each once."""
        return tuple(dict.fromkeys(name for point in points for name in self._sessions[point.id]))

    def profiled(self, point: Point) -> bool:
        """Whether all hosts that compute at a point have a profile of its model."""
        ends = [(rank, *point.ends(rank)) for rank in range(len(point.hops))]
        return all(self._pool(point, rank).profiled for rank, begin, end in ends if begin != end)

    def costs(
        self, point: Point, sessions: Collection[str], left_out: frozenset[str] = NOBODY
    ) -> Costs:
        """The parts of the pipeline of a point, and of all that share it.

        Parameters
        ----------
        point
            One of the points.
        sessions
            Those whose processes run it: the mean of their speeds counts.
        left_out
            Points that nothing rests on.

        Raises
        ------
        PredictionError
            When its link follows a trace, or a host was not measured.
        """
        plan = self.run.plan
        if plan.link(point.link).timetable is not None:
            raise PredictionError(f"link {point.link} follows a trace, so that parts change")
        table = plan.table(point.model, point.batch, point.dtype)
        found = [self._solve(point, rank, left_out) for rank in range(len(point.placement))]
        waiting, beside = _scaled(found, sessions, "waiting")
        busy, handing = _scaled(found, sessions, "busy")
        # That of rank 0, whose stage begins at place 0; that of others goes with their message.
        waiting[0, 1:] = np.maximum(waiting[0, 1:] + beside[0], 0.0)
        hops, back = self._messages(point, beside, left_out)
        items = self._items(point, left_out)
        return Costs(
            places=table.order,
            hosts=point.placement,
            waiting_ms=waiting,
            busy_ms=busy,
            forward_bytes=self._forward_bytes(point, table, left_out),
            return_bytes=float(message_sizes(PLAIN, (table.output,))[0][-1]),
            hops=hops,
            back=back,
            item_ms=tuple(map(sum, zip(items, handing, strict=True))),
            slowing=tuple(each.slowing for each in found),
        )

    def _pool(self, point: Point, rank: int) -> UnitTimes:
        """Times of all stages on which that of a rank of a point rests."""
        about = pool_of(point, rank)
        key = tuple(about.values())
        if key not in self._pools:
            places = len(order_of(self.run.plan, point))
            stages, units = (pools.get(key, pools[()]) for pools in (self._stages, self._units))
            self._pools[key] = UnitTimes(timed(stages, units), places)
        return self._pools[key]

    def _solve(self, point: Point, rank: int, left_out: frozenset[str]) -> Solved:
        """What the host of a rank takes for the model, see :class:`UnitTimes`."""
        key = (*pool_of(point, rank).values(), left_out)
        if key not in self._solved:
            self._solved[key] = self._pool(point, rank).solve(left_out)
        found = self._solved[key]
        if found is None:
            raise PredictionError(
                f"host {point.placement[rank]} was not measured with {point.model}, batch "
                f"{point.batch}, {point.dtype}, {point.runtime(rank)}"
            )
        return found

    def _ring(self, point: Point) -> messages.Ring:
        """The wires of a placement on a link."""
        key = point.link, point.placement
        if key not in self._wires:
            link = self.run.plan.link(point.link)
            self._wires[key] = messages.wires(self.run, link, point.placement)
        return self._wires[key]

    def _messages(
        self, point: Point, beside: list[float], left_out: frozenset[str]
    ) -> messages.Ring:
        """Hops and ways back with what the software takes; and, with its message, the stage's."""
        hops, back = self._ring(point)
        kept = _alike(self._crossing, point, _SOFTWARE, left_out)
        byte_ms = float(np.mean([each.ms_per_byte for each in hops]))
        message_ms, more_ms = messages.software(kept, byte_ms)
        with_software = [replace(each, message_ms=message_ms, byte_ms=more_ms) for each in hops]
        return (
            tuple(
                replace(each, message_ms=each.message_ms + stage_ms)
                for each, stage_ms in zip(with_software, beside[1:], strict=True)
            ),
            tuple(each and replace(each, message_ms=message_ms, byte_ms=more_ms) for each in back),
        )

    @cached_property
    def _crossing(self) -> dict[tuple[object, ...], Arrays]:
        """The tries at which something crossed, with what is left of their latency."""
        about = {id: self._sent(point) | group_of(point) for id, point in self._points.items()}
        sent = pd.DataFrame.from_dict(about, orient="index").rename_axis("point").reset_index()
        tries = self.observed.tries
        names = ["point", "session", "weight", "computed_ms", "latency_median_ms", "period_ms"]
        table = tries[names].merge(sent[sent["messages"] > 0], on="point")
        table["left_ms"] = table["latency_median_ms"] - table["computed_ms"] - table["wire_ms"]
        kept = ("left_ms", "messages", "bytes", "latency_median_ms", "weight")
        return arrays_by_pool(table.dropna(subset="left_ms"), _SOFTWARE, kept)

    def _sent(self, point: Point) -> dict[str, float]:
        """The messages of an item of a point: number, bytes, and what their wires take."""
        ways = self._ways(point)
        took = sum(float(way.crossing_ms(np.array(size))) for way, size in ways)
        return {"messages": len(ways), "bytes": sum(size for _, size in ways), "wire_ms": took}

    def _ways(self, point: Point) -> list[tuple[Hop, float]]:
        """The wires that an item of a point crosses, and its bytes; none known on a trace."""
        if self.run.plan.link(point.link).timetable is not None or not point.crosses:
            return []
        hops, back = self._ring(point)
        sizes = [float(each[-1]) for each in point.message_sizes]
        share = self._shares.get(point.id, 1.0)
        sizes[:-1] = [size * share for size in sizes[:-1]]
        ways = (*hops[: len(point.hops) - 1], back[len(point.hops) - 1])
        return [(way, size) for way, size in zip(ways, sizes, strict=True) if way is not None]

    @cached_property
    def _shares(self) -> dict[str, float]:
        """By point, what was sent forward of the most that there can be, where it was packed."""
        tries = self.observed.tries
        sent = tries.groupby("point")["wire_bytes"].mean().dropna()
        return {
            id: float(sent[id] / most)
            for id, point in self._points.items()
            if id in sent.index
            and point.wire != PLAIN
            and (most := sum(each[-1] for each in point.message_sizes[:-1]))
        }

    def _forward_bytes(self, point: Point, table: CutTable, left_out: frozenset[str]) -> Array:
        """What crosses at each place; where messages are compressed, by a typical share."""
        alike = [
            share
            for id, share in self._shares.items()
            if id not in left_out
            and (other := self._points[id]).wire == point.wire
            and (other.model, other.dtype) == (point.model, point.dtype)
        ]
        return self._most_forward(point, table) * float(np.median(alike) if alike else 1.0)

    def _most_forward(self, point: Point, table: CutTable) -> Array:
        """The most bytes that cross at each place, in the wire format of a point."""
        key = (point.model, point.batch, point.dtype, point.wire)
        if key not in self._sizes:
            tensors = [table.crossing(place) for place in table.order if place != FIRST]
            sent = [message_sizes(point.wire, (each, table.output))[0][-1] for each in tensors]
            self._sizes[key] = np.array([*sent, 0], dtype=np.float64)
        return self._sizes[key]

    def _items(self, point: Point, left_out: frozenset[str]) -> list[float]:
        """What each rank takes for an item beside its stage, where items follow each other.

        That shows where one stage holds up all others: how much longer than its computation it
        takes from item to item. A rank that never does is expected to be like the others.
        """
        kept = _alike(self._at_work, point, _BESIDE, left_out)
        ranks, beside_ms, crosses = (kept[name] for name in ("rank", "beside_ms", "crosses"))
        ranks = np.where(crosses, ranks, -1)
        each = {rank: float(np.median(beside_ms[ranks == rank])) for rank in np.unique(ranks)}
        alone = each.pop(-1, 0.0)
        usual = float(np.median(list(each.values()))) if each else alone
        return [max(0.0, each.get(rank, usual)) for rank in range(len(point.placement))]

    @cached_property
    def _at_work(self) -> dict[tuple[object, ...], Arrays]:
        """The busiest stage of each try at which neither a wire nor the window holds it up."""
        keys = ["session", "attempt", "point"]
        stages = self.observed.stages.sort_values("busy_ms", kind="stable")
        rows = stages.drop_duplicates(keys, keep="last")
        windows = self.observed.tries.set_index(keys)["window_used"].astype("float64")
        window = windows.reindex(pd.MultiIndex.from_frame(rows[keys])).to_numpy()
        # On a trace wires change, so that its points tell nothing of stages here.
        busy = {
            id: max((size * way.ms_per_byte for way, size in self._ways(each)), default=unknown)
            for id, each in self._points.items()
            for unknown in (np.nan if each.crosses else 0.0,)
        }
        wire_ms = rows["point"].map(busy)
        held_ms = np.maximum(wire_ms, rows["latency_median_ms"] / window)
        rows = rows[np.less(held_ms, _HELD * rows["period_ms"])]
        about = [group_of(self._points[id]) for id in rows["point"]]
        shared = pd.DataFrame(about, index=rows.index, columns=list(GROUP))[list(_BESIDE)]
        crosses = rows["point"].map({id: each.crosses for id, each in self._points.items()})
        rows = rows[["point", "rank"]].assign(
            beside_ms=rows["period_ms"] - rows["busy_ms"], crosses=crosses.astype("bool")
        )
        return arrays_by_pool(rows.join(shared), _BESIDE, ("rank", "beside_ms", "crosses"))
