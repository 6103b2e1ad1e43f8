"""Drive a leg of each phase: decide when an item is sent, and when the leg is over."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from paretopipe_worker.host.timers import wait_until
from paretopipe_worker.plan import warmup, window
from paretopipe_worker.plan.experiment import PhaseSpec
from paretopipe_worker.plan.warmup import Warmup
from paretopipe_worker.records.lines import Item
from paretopipe_worker.session.control import ControlError, Message
from paretopipe_worker.session.flights import Flight, Flights
from paretopipe_worker.session.meeting import Lane
from paretopipe_worker.session.observation import LegPhase

EndedBy: TypeAlias = Literal["minimum", "maximum"]

_MOST = 1 << 62


@dataclass
class LegResult:
    """What the source knows of one leg: its counted items as they complete, and its warm-up.

    `disturbed` says whether the host of any rank was disturbed. `stage_s` holds the median seconds
    that a rank computed and packed an item, and `message_bytes` the mean bytes of what it sent, of
    each rank that took part, in their order.
    """

    phase: LegPhase
    spec: PhaseSpec
    leg: int
    window: int
    offered_per_s: float | None = None
    start_ns: int = 0
    end_ns: int = 0
    latencies_ns: list[int] = field(default_factory=list)
    ready_ns: list[int] = field(default_factory=list)
    done_ns: list[int] = field(default_factory=list)
    warmup_items: int = 0
    warmup_ended_by: warmup.EndedBy | None = None
    disturbed: bool = False
    stage_s: tuple[float, ...] = ()
    message_bytes: tuple[float, ...] = ()

    def count(self, item: Item) -> None:
        """Count an item."""
        assert item.done_ns is not None and item.latency_ns is not None
        if not self.latencies_ns:
            self.start_ns = item.ready_ns
        self.latencies_ns.append(item.latency_ns)
        self.ready_ns.append(item.ready_ns)
        self.done_ns.append(item.done_ns)
        self.end_ns = item.done_ns

    def ended(self) -> EndedBy | None:
        """Why the leg is over, where completions decide that; None while it goes on."""
        elapsed_s = (self.end_ns - self.start_ns) / 1e9
        least = max(self.spec.min_items, window.needed(self.window))
        if len(self.latencies_ns) >= least and elapsed_s >= self.spec.min_s:
            return "minimum"
        return "maximum" if elapsed_s >= self.spec.max_s else None

    def hear(self, report: Message, peer: str) -> None:
        """Take another rank's report of the leg.

        Raises
        ------
        ControlError
            When it is no report, or that of another leg.
        """
        leg, disturbed = report.get("leg"), report.get("disturbed")
        busy_ns, sent_bytes = report.get("busy_ns"), report.get("message_bytes")
        if (
            leg != self.leg
            or type(busy_ns) is not int
            or not 0 <= busy_ns < _MOST
            or type(sent_bytes) is not int
            or not 0 <= sent_bytes < _MOST
            or not isinstance(disturbed, list)
            or not all(isinstance(words, str) for words in disturbed)
        ):
            raise ControlError(f"{peer}: sent {report} as its report of leg {self.leg}")
        self.disturbed |= bool(disturbed)
        self.stage_s += (busy_ns / 1e9,)
        self.message_bytes += (sent_bytes,)

    @property
    def rate_per_s(self) -> float | None:
        """Completed batches per second; None where the leg holds too few."""
        return window.rate_per_s(self.done_ns, self.window)


MINIMUM = "minimum"
"""The step at which lanes meet that have what they need of a leg."""


def one_in_flight(flights: Flights, result: LegResult, others: Lane) -> EndedBy:
    """Drive a leg of latency: each batch is sent when the output of the last one is back.

    It goes on, and no longer counts, until the other lanes have what they need.
    """
    warming = Warmup(result.spec)
    while not warming.ended_by:
        item = flights.complete(flights.launch(warmup=True))
        warming.add(item.latency_ns or 0)
    result.warmup_items, result.warmup_ended_by = flights.launched, warming.ended_by
    while True:
        result.count(flights.complete(flights.launch(warmup=False)))
        others.check()
        if ended := result.ended():
            break
    others.announce(MINIMUM)
    while others.missing:
        flights.complete(flights.launch(warmup=True), phase="drain")
    others.heard()
    return ended


def window_in_flight(flights: Flights, result: LegResult, others: Lane) -> EndedBy:
    """Drive a leg of throughput: at all times the window is full of batches in flight.

    It goes on, and no longer counts, until the other lanes have what they need.
    """
    flying: deque[Flight] = deque()
    warming = Warmup(result.spec, filling=result.window)
    while True:
        flying.append(flights.launch(warmup=not warming.ended_by))
        if len(flying) < result.window:
            continue
        item = flights.complete(flying.popleft())
        if item.phase != "warmup":
            result.count(item)
            others.check()
            if ended := result.ended():
                break
        elif not warming.ended_by:
            warming.add(item.latency_ns or 0)
            if warming.ended_by:
                result.warmup_items, result.warmup_ended_by = flights.launched, warming.ended_by
    others.announce(MINIMUM)
    while others.missing:
        # The other ranks are not to count it either.
        flying.append(flights.launch(warmup=True))
        flights.complete(flying.popleft(), phase="drain")
    others.heard()
    while flying:
        flights.complete(flying.popleft(), phase="drain")
    return ended


def arriving(flights: Flights, result: LegResult, arrivals_ns: Sequence[int]) -> EndedBy:
    """Drive a leg of offered load: each batch is sent when due, or once the window has room.

    The receiving thread notes when each output came. So outputs may lie there until their place in
    the window is needed, and this thread never has to wait for an arrival and an output at once.

    Parameters
    ----------
    arrivals_ns
        When each item is due, from now; the first `result.warmup_items` do not count.
    """
    flying: deque[Flight] = deque()
    begin_ns = time.perf_counter_ns()
    limit_ns = arrivals_ns[result.warmup_items] + round(result.spec.max_s * 1e9)
    ended: EndedBy = "minimum"
    for number, offset_ns in enumerate(arrivals_ns):
        if len(flying) == result.window:
            _collect(flights, result, flying.popleft())
        now_ns = time.perf_counter_ns() - begin_ns
        if max(offset_ns, now_ns) > limit_ns and number > result.warmup_items:
            ended = "maximum"
            break
        wait_until(begin_ns + offset_ns)
        warming = number < result.warmup_items
        flying.append(flights.launch(warmup=warming, arrived_ns=begin_ns + offset_ns))
    while flying:
        _collect(flights, result, flying.popleft())
    return ended


def _collect(flights: Flights, result: LegResult, flight: Flight) -> None:
    """Take one batch back, and count it unless it belongs to the warm-up."""
    item = flights.complete(flight)
    if item.phase != "warmup":
        result.count(item)
