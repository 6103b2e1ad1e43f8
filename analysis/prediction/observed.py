"""What a run measured of the parts of its pipelines: stages, messages, and whole tries."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.measures import marks, portions
from analysis.measures.computing import computing
from analysis.measures.legs import TRY, that_count
from analysis.run import Run
from paretopipe_worker.plan.plan import Plan, Point

POOL = ("host", "model", "batch", "dtype", "runtime", "busy", "sources")
"""What all stages share whose times rest on one another."""

_DISTURBED = 0.25
"""Weight of what was measured on a disturbed host."""


@dataclass(frozen=True)
class Observed:
    """What was measured, by try and rank, and by try.

    Parameters
    ----------
    stages
        One row per try and rank that computes: those of :data:`POOL`, ``point``, ``session``,
        ``rank``, ``begin`` and ``end`` (places), ``weight``; ``waiting_ms`` and ``busy_ms``, what
        it took with one item in flight and with many; ``waiting_gap_ms`` and ``busy_gap_ms``, for
        how long it had not computed before; ``period_ms``, from item to item with many.
    tries
        One row per try that counts: ``point``, ``session``, ``weight``, what was measured of it,
        and ``computed_ms``, what all its stages took with one item in flight.
    units
        What hosts profiled, a row for each unit, or for the units between two waits: those of
        :data:`POOL`, ``session``, ``duty``, ``begin`` and ``end``, ``ms``, ``gap_ms``, for how
        long the host had waited before, and ``whole``, whether it begins after a wait, as a stage
        does.
    """

    stages: pd.DataFrame
    tries: pd.DataFrame
    units: pd.DataFrame


def observe(run: Run, measured: pd.DataFrame) -> Observed:
    """Gather what a run measured.

    Parameters
    ----------
    run
        The run.
    measured
        Its replicates, see :func:`analysis.measures.replicates.replicates`.
    """
    counted = measured[measured["status"] == "ok"]
    doubtful = marks.disturbed(counted) | marks.late(counted)
    tries = counted.assign(weight=np.where(doubtful, _DISTURBED, 1.0))
    batches = {point.id: point.batch for point in run.plan.points}
    images = tries["point"].map(batches).astype("float64")
    tries["period_ms"] = 1e3 * images / tries["throughput_images_s"]
    by_portion = [computing(that_count(part, counted[TRY])[0]) for part in portions.parts(run)]
    computed = pd.concat(by_portion, ignore_index=True)
    stages = computed[[*TRY, "rank", "compute_ms", "loaded_compute_ms"]]
    told = ["weight", "period_ms", "latency_median_ms"]
    stages = stages.merge(tries[[*TRY, *told]], on=TRY)
    stages = stages.merge(_places(run.plan), on=["point", "rank"])
    stages = stages.rename(columns={"compute_ms": "waiting_ms", "loaded_compute_ms": "busy_ms"})
    stages["waiting_gap_ms"] = stages["latency_median_ms"] - stages["waiting_ms"]
    stages["busy_gap_ms"] = stages["period_ms"] - stages["busy_ms"]
    ring = stages.groupby(TRY)["waiting_ms"].sum().rename("computed_ms")
    tries = tries.merge(ring.reset_index(), on=TRY, how="left")
    return Observed(stages, tries, _units(run))


def _units(run: Run) -> pd.DataFrame:
    """The profiles of attempts that are not damaged, where the plan has their places."""
    plan = run.plan
    damaged = {
        (session.id, attempt.number)
        for session in plan.sessions
        for attempt in run.attempts.of(session.id)
        if attempt.damage
    }
    rows: list[dict[str, object]] = []
    for found in run.profiles.to_dict("records"):
        session = plan.session(found["session"])
        if not found["unit_ns"] or (session.id, found["attempt"]) in damaged:
            continue
        begin = _begin(plan, session.model, found)
        if begin is None:
            continue
        stretched = plan.host(found["host"]).device_emulated
        values = (found["host"], session.model, found["batch"], found["dtype"], found["runtime"])
        about = dict(zip(POOL, (*values, session.busy, session.sources), strict=True))
        about |= {"session": session.id, "duty": found["duty"], "gap_ms": found["wait_ns"] / 1e6}
        times_ms = np.array(found["unit_ns"], dtype=np.float64) * stretched / 1e6
        pauses = found["pauses"] or ()
        rows += [
            about | {"begin": begin + first, "end": begin + last, "ms": ms, "whole": bool(pauses)}
            for first, last, ms in _between(times_ms, pauses)
        ]
    numbers = {"begin": "int64", "end": "int64", "ms": "float64", "gap_ms": "float64"}
    columns = [*POOL, "session", "duty", *numbers, "whole"]
    return pd.DataFrame(rows, columns=columns).astype(numbers | {"whole": "bool"})


def _begin(plan: Plan, model: str, found: Mapping[Hashable, Any]) -> int | None:
    """At which place of its model a profile begins; None where that has no such places."""
    batch, dtype, places = found["batch"], found["dtype"], tuple(found["places"])
    for table in plan.tables_of(model):
        if (table.batch, table.dtype) == (batch, dtype) and places[0] in table.order:
            begin = table.order.index(places[0])
            return begin if table.order[begin : begin + len(places)] == places else None
    return None


def _between(times_ms: NDArray[Any], pauses: Sequence[int]) -> Iterator[tuple[int, int, float]]:
    """What lies between two waits of each item; or, where there were none, units by the median."""
    if not pauses:
        for number, ms in enumerate(np.median(times_ms, axis=0).tolist()):
            yield number, number + 1, ms
        return
    for item, pause in zip(times_ms, pauses, strict=True):
        yield 0, pause, float(item[:pause].sum())
        yield pause, len(item), float(item[pause:].sum())


def _places(plan: Plan) -> pd.DataFrame:
    """The places between which the stages of each point lie, and what they share with others."""
    rows = []
    for point in plan.points:
        places = {name: place for place, name in enumerate(order_of(plan, point))}
        for rank in point.active_ranks:
            begin, end = (places[name] for name in point.ends(rank))
            about = pool_of(point, rank)
            rows.append({"point": point.id, "rank": rank, "begin": begin, "end": end} | about)
    return pd.DataFrame(rows, columns=["point", "rank", "begin", "end", *POOL])


def order_of(plan: Plan, point: Point) -> tuple[str, ...]:
    """The places of a point's model: its cuts in the order of the data, endpoints included."""
    return plan.table(point.model, point.batch, point.dtype).order


def pool_of(point: Point, rank: int) -> dict[str, object]:
    """What the stage of a rank shares with all whose times it rests on: :data:`POOL`."""
    values = point.placement[rank], point.model, point.batch, point.dtype
    return dict(zip(POOL, (*values, point.runtime(rank), point.busy, point.sources), strict=True))


Pools: TypeAlias = dict[tuple[object, ...], pd.DataFrame]
"""Rows by the values of columns that those share which rest on one another; none at ``()``."""


def by_pool(rows: pd.DataFrame, shared: Sequence[str]) -> Pools:
    """Rows by the values of what they share."""
    parts = {tuple(key): part for key, part in rows.groupby(list(shared), sort=False)}
    return parts | {(): rows.iloc[:0]}


Arrays: TypeAlias = dict[str, NDArray[Any]]
"""Columns as arrays, where frames would take most of the time."""


def arrays_by_pool(
    rows: pd.DataFrame, shared: Sequence[str], names: Sequence[str]
) -> dict[tuple[object, ...], Arrays]:
    """Some columns of the rows that :func:`by_pool` has, and their points."""
    return {
        key: {name: part[name].to_numpy() for name in ("point", *names)}
        for key, part in by_pool(rows, shared).items()
    }


def timed(stages: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
    """The times of stages, with one item in flight and with many, and of profiles."""
    whole = stages.assign(whole=True)
    kinds = [
        whole.assign(duty=kind, ms=stages[f"{kind}_ms"], gap_ms=stages[f"{kind}_gap_ms"])
        for kind in ("waiting", "busy")
    ]
    names = ["point", "session", "duty", "begin", "end", "ms", "gap_ms", "weight", "whole"]
    profiled = units.assign(point=None, weight=1.0)
    return pd.concat([part[names] for part in (*kinds, profiled) if len(part)] or [profiled[names]])
