"""Each rank measures its program unit by unit, before the points of a session.

The ranks take turns, so that hosts on one machine do not disturb each other. A rank runs the widest
of its stages, so that it needs no more memory than a point does. In each of a few rounds some items
follow each other, and some come after a wait as long as the pipeline makes a stage wait: a stage
that waits runs more slowly. The latter wait once more at a place inside them, another one each
time, since a stage that begins there begins cold, too: MobileNetV2's from the middle on then took
0.2 to 0.6 ms more. A runtime or a device that does not tell the times of units has no profile.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from paretopipe_worker.cuts import EAGER, LAST, CutTable
from paretopipe_worker.execution.runtimes import kind
from paretopipe_worker.model import inputs
from paretopipe_worker.model.flat import Stage
from paretopipe_worker.model.partition import noting
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

_GOLDEN = 0.618034
"""Share of a stage by which the pause of an item lies behind that of the last one: however many
there are, they are spread evenly."""

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
    notes = _Notes(wait_s)
    try:
        stage = noting(context.model(point), places[0], places[-1], places[1:-1], notes.note)
        given = _inputs(context, table, places[0])
        yield from _rounds(context, _Noting(stage, given, notes), busy, waiting, limit_s)
    except Exception as error:
        # Whatever is wrong with the program shows at its points.
        reason = executing.failure(error)
        yield from (replace(each, reason=reason) for each in (busy, waiting))


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


class _Notes:
    """When an item comes to each place inside its stage, and how long it pauses there."""

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._pause: int | None = None
        self.came_ns: list[int] = []
        self.went_on_ns: list[int] = []

    def begin(self, pause: int | None) -> None:
        """Begin an item, which is to pause before a unit."""
        self._pause = pause
        self.came_ns, self.went_on_ns = [], []

    def note(self) -> None:
        """Note that the item comes to the next place."""
        came_ns = went_on_ns = time.perf_counter_ns()
        self.came_ns.append(came_ns)
        if len(self.came_ns) == self._pause:
            time.sleep(self._wait_s)
            went_on_ns = time.perf_counter_ns()
        self.went_on_ns.append(went_on_ns)


@dataclass(frozen=True)
class _Noting:
    """A stage that calls `notes` at the places inside it, and what it is given."""

    stage: Stage
    given: tuple[torch.Tensor, ...]
    notes: _Notes


def _rounds(
    context: Context, noting: _Noting, busy: Profile, waiting: Profile, limit_s: float
) -> tuple[Profile, Profile]:
    """Both profiles with their items."""
    spec = context.plan.experiment.profile
    assert spec
    inside = len(busy.places) - 2
    following: list[tuple[int, ...]] = []
    waited: list[tuple[int, ...]] = []
    pauses: list[int] = []
    end = time.monotonic() + limit_s
    while len(following) < spec.items:
        late = time.monotonic() >= end
        if late and len(following) >= _ROUND * _LEAST_ROUNDS:
            break
        # The first comes after a wait, or after the stage was built.
        _item(context, noting)
        following += [_item(context, noting) for _ in range(_ROUND)]
        for _ in range(_ROUND):
            time.sleep(waiting.wait_ns / 1e9)
            pause = 1 + int(_GOLDEN * (len(waited) + 1) % 1 * inside)
            waited.append(_item(context, noting, pause))
            pauses += [pause] if inside else []
    return (
        replace(busy, unit_ns=tuple(following)),
        replace(waiting, unit_ns=tuple(waited), pauses=tuple(pauses)),
    )


def _item(context: Context, noting: _Noting, pause: int | None = None) -> tuple[int, ...]:
    """Run a stage once, stretched as the host is; the time of each unit without that."""
    notes, factor = noting.notes, context.host.device_emulated
    notes.begin(pause)
    cpu_ns, start_ns = time.thread_time_ns(), time.perf_counter_ns()
    noting.stage(*noting.given)
    end_ns = time.perf_counter_ns()
    cpu_ns = time.thread_time_ns() - cpu_ns
    begins, ends = (start_ns, *notes.went_on_ns), (*notes.came_ns, end_ns)
    units = tuple(end - begin for begin, end in zip(begins, ends, strict=True))
    if factor > 1:
        stretch(end_ns, factor, sum(units), cpu_ns)
    return units
