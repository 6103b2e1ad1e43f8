"""Each rank measures its program unit by unit, before the points of a session.

The ranks take turns, so that hosts on one machine do not disturb each other. A rank runs the widest
of its stages, so that it needs no more memory than a point does. In each of a few rounds some items
follow each other, and some come after a wait as long as the pipeline makes a stage wait: a stage
that waits runs more slowly. A runtime or a device that does not tell the times of units has no
profile.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from paretopipe_worker.cuts import EAGER, LAST, CutTable
from paretopipe_worker.execution.runtimes import kind
from paretopipe_worker.model import inputs
from paretopipe_worker.model.flat import Marked
from paretopipe_worker.model.partition import marked
from paretopipe_worker.plan.plan import Point
from paretopipe_worker.records.profiles import Profile
from paretopipe_worker.session import executing
from paretopipe_worker.session.context import Context
from paretopipe_worker.session.control import Channel, ControlError
from paretopipe_worker.session.stretching import stretch

COMMAND = "profile"

_SHARE = 0.05
"""Largest share of the predicted time of a session's points that its profiles take, together."""

_ROUND, _LEAST_ROUNDS = 2, 2
"""Items of each duty in a round, and rounds that are run however long they take."""

_LONGEST_WAIT_S = 0.1
_PATIENCE_S, _PATIENCE_ITEMS = 60.0, 20


def lead(context: Context, channels: Sequence[Channel]) -> None:
    """Have all ranks profile their programs one after the other, as rank 0.

    Raises
    ------
    ControlError
        When a rank is lost, or answers something else.
    """
    # Sources that share a host would disturb each other there.
    if not context.plan.experiment.profile or context.session.sources > 1:
        return
    points = [context.plan.point(id) for id in context.session.points]
    # As for the deadline of a message, hosts may be ten times as slow as their hint.
    slowest_s = max((10 * point.predicted_latency_s for point in points), default=0.0)
    _profile(context)
    for channel in channels:
        channel.send({"do": COMMAND})
        answer = channel.receive(_PATIENCE_S + _PATIENCE_ITEMS * slowest_s)
        if answer.get("profiled") is not True:
            raise ControlError(f"{channel.peer}: sent {answer} where 'profiled' was expected")


def answer(context: Context, channel: Channel) -> None:
    """Profile this rank's program, as another rank."""
    _profile(context)
    channel.send({"profiled": True})


def _profile(context: Context) -> None:
    """Measure and record every program of this rank."""
    stages = _widest(context)
    points = [context.plan.point(id) for id in context.session.points]
    session_s = _SHARE * sum(point.predicted_s for point in points)
    each_s = session_s / len(context.session.placement) / max(1, len(stages))
    with context.shares.kind("profile"):
        for point in stages:
            for found in _measured(context, point, each_s):
                context.writer.write(found)


def _widest(context: Context) -> list[Point]:
    """For each of a rank's programs the point whose stage has the most units."""
    found: dict[tuple[int, str], tuple[int, Point]] = {}
    for id in context.session.points:
        point = context.plan.point(id)
        if point.runtime(context.rank) != EAGER or kind(context.host.device) != "cpu":
            continue
        table = context.plan.table(point.model, point.batch, point.dtype)
        width = len(table.parts(point.split, context.rank))
        key = point.batch, point.dtype
        if width > found.get(key, (0, None))[0]:
            found[key] = width, point
    return [point for _, point in found.values()]


def _measured(context: Context, point: Point, limit_s: float) -> Iterator[Profile]:
    """Measure the stage of a point: one record for each duty."""
    table = context.plan.table(point.model, point.batch, point.dtype)
    units = table.parts(point.split, context.rank)
    places = table.order[units.start : units.stop + 1]
    wait_s = _wait_s(context)
    busy = Profile(point.batch, point.dtype, EAGER, places, "busy", 0, ())
    waiting = replace(busy, duty="waiting", wait_ns=round(wait_s * 1e9))
    try:
        stage = marked(context.model(point), places[0], places[-1], places[1:-1])
        given = _inputs(context, table, places[0])
        times = _rounds(context, stage, given, wait_s, limit_s)
    except Exception as error:
        # Whatever is wrong with the program shows at its points.
        reason = executing.failure(error)
        yield from (replace(each, reason=reason) for each in (busy, waiting))
        return
    for each, found in zip((busy, waiting), times, strict=True):
        yield replace(each, unit_ns=tuple(found))


def _wait_s(context: Context) -> float:
    """For how long a stage of the session waits between two items, with one in flight."""
    points = [context.plan.point(id) for id in context.session.points]
    latencies = [point.predicted_latency_s for point in points if point.crosses]
    ranks = len(context.session.placement)
    usual_s = statistics.median(latencies) * (ranks - 1) / ranks if latencies else 0.0
    return min(_LONGEST_WAIT_S, usual_s)


def _inputs(context: Context, table: CutTable, before: str) -> tuple[torch.Tensor, ...]:
    """An input of a stage: the source's own, or numbers from 0 to 1."""
    if before == LAST:
        seed = context.plan.experiment.seed
        return inputs.items(table.inputs, seed=seed, images=context.images)[0]
    specs = table.crossing(before)
    return tuple(torch.rand(each.shape).to(getattr(torch, each.dtype)) for each in specs)


def _rounds(
    context: Context,
    stage: Marked,
    given: tuple[torch.Tensor, ...],
    wait_s: float,
    limit_s: float,
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """The times of units, by item: of items that follow each other, and of those after a wait."""
    spec = context.plan.experiment.profile
    assert spec
    busy: list[tuple[int, ...]] = []
    waiting: list[tuple[int, ...]] = []
    end = time.monotonic() + limit_s
    while len(busy) < spec.items:
        late = time.monotonic() >= end
        if late and len(busy) >= _ROUND * _LEAST_ROUNDS:
            break
        # The first comes after a wait, or after the stage was built.
        _item(context, stage, given)
        busy += [_item(context, stage, given) for _ in range(_ROUND)]
        for _ in range(_ROUND):
            time.sleep(wait_s)
            waiting.append(_item(context, stage, given))
    return busy, waiting


def _item(context: Context, stage: Marked, given: tuple[torch.Tensor, ...]) -> tuple[int, ...]:
    """Run a stage once, stretched as the host is; the time of each unit without that."""
    cpu_ns, start_ns = time.thread_time_ns(), time.perf_counter_ns()
    _, marks = stage(*given)
    end_ns = time.perf_counter_ns()
    cpu_ns = time.thread_time_ns() - cpu_ns
    if context.host.device_emulated > 1:
        stretch(end_ns, context.host.device_emulated, end_ns - start_ns, cpu_ns)
    return tuple(end - begin for begin, end in itertools.pairwise((start_ns, *marks, end_ns)))
