"""Measure one point, as rank 0: gate, latency phase, throughput phase."""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

import torch

from paretopipe_worker.compute import Computed, compute
from paretopipe_worker.context import Context
from paretopipe_worker.control import Channel, ControlError, Message
from paretopipe_worker.health import Watch, disturbances
from paretopipe_worker.models import example_input
from paretopipe_worker.partition import (
    PartitionError,
    Stage,
    check_split,
    largest_error,
    split,
    whole,
)
from paretopipe_worker.plan import Point
from paretopipe_worker.records import Item, Phase, PhaseEnd
from paretopipe_worker.spec import MIN_ITEMS, PhaseSpec
from paretopipe_worker.transport import MARK, PHASES, ProtocolError, Tag

TOLERANCE = 1e-4
"""Largest relative error of an output that came by way of hosts of different processors."""

EndedBy = Literal["minimum", "maximum"]

References: TypeAlias = dict[int, list[tuple[torch.Tensor, ...]]]
"""What the whole model returns for each input, by batch size: computed once in a session."""

_INPUTS = 2
_WARMUP, _LATENCY, _THROUGHPUT = (PHASES.index(name) for name in PHASES[:3])


class PointFailed(Exception):
    """A point that cannot be measured; the session goes on with the next."""


class _Flight(NamedTuple):
    """A batch on its way around the ring."""

    tag: Tag
    ready_ns: int
    computed: Computed
    packed_ns: int | None
    sent_ns: int | None
    position: int | None


@dataclass
class _Check:
    """How the pipeline's outputs compare with the whole model's, worst over all items."""

    exact_wanted: bool
    output: Literal["exact", "close", "unchecked"] = "unchecked"
    error: float | None = None

    def add(self, outputs: tuple[torch.Tensor, ...], references: tuple[torch.Tensor, ...]) -> None:
        """Hold one item's output against the reference."""
        error = largest_error(outputs, references)
        if error > 0:
            self.output, self.error = "close", max(error, self.error or 0.0)
        elif self.output == "unchecked":
            self.output = "exact"

    def verdict(self) -> None:
        """Refuse outputs that differ by more than they may.

        Raises
        ------
        PointFailed
            Saying by how much.
        """
        if self.error is None:
            return
        if self.exact_wanted:
            raise PointFailed(
                f"the pipeline's output differs from the model's by {self.error:.2g} of its "
                "largest value; between equal processors it must be equal"
            )
        if not self.error <= TOLERANCE:
            raise PointFailed(
                f"the pipeline's output differs from the model's by {self.error:.2g} of its "
                f"largest value; allowed: {TOLERANCE:g}"
            )


@dataclass
class PhaseResult:
    """The counted items of one leg as they complete, and why it ended."""

    phase: Literal["latency", "throughput"]
    spec: PhaseSpec
    leg: int
    window: int
    start_ns: int = 0
    end_ns: int = 0
    latencies_ns: list[int] = field(default_factory=list)
    first_done_ns: int = 0

    def add(self, item: Item) -> EndedBy | None:
        """Count an item; say whether the phase is over."""
        assert item.done_ns is not None and item.latency_ns is not None
        if not self.latencies_ns:
            self.start_ns, self.first_done_ns = item.ready_ns, item.done_ns
        self.latencies_ns.append(item.latency_ns)
        self.end_ns = item.done_ns
        elapsed_s = (self.end_ns - self.start_ns) / 1e9
        if len(self.latencies_ns) >= self.spec.min_items and elapsed_s >= self.spec.min_s:
            return "minimum"
        return "maximum" if elapsed_s >= self.spec.max_s else None

    @property
    def rate_per_s(self) -> float:
        """Completions per second, for the progress line."""
        return (len(self.latencies_ns) - 1) * 1e9 / (self.end_ns - self.first_done_ns)


class PointRun:
    """One point being measured.

    Attributes
    ----------
    gate
        Whether the stages returned what the whole model returns; None before that was tried.
    check
        How the outputs that came back compare with the whole model's.
    """

    def __init__(
        self,
        context: Context,
        channels: Sequence[Channel],
        point: Point,
        references: References,
    ) -> None:
        self.context = context
        self.point = point
        self.gate: bool | None = None
        self._channels = channels
        self._crosses = bool(point.hops[0])
        ranks = {channel.hello["numerics"] for channel in channels}
        self.check = _Check(exact_wanted=not self._crosses or ranks == {self.context.numerics})
        table = self.context.plan.table(point.model, point.batch, point.dtype)
        seed = self.context.plan.experiment.seed
        self._inputs = [example_input(table.input, seed=seed, index=i) for i in range(_INPUTS)]
        self._masters = [tensor.clone() for tensor in self._inputs]
        self._references = references
        self._overwrites = False
        self._stage: Stage | None = None
        self._legs = 0
        self._launched = 0
        self._watch = Watch()

    def measure(self) -> tuple[PhaseResult, PhaseResult]:
        """Gate, then both legs, each behind its own warm-up.

        Raises
        ------
        PointFailed
            When the point cannot be measured, or what was measured cannot be used.
        """
        shares = self.context.shares
        self._tell({"do": "point", "point": self.point.id})
        failure: str | None = None
        with shares.kind("gate"):
            try:
                self._pass_gate()
            except PartitionError as error:
                failure = str(error)
        with shares.kind("switch"):
            if failure := self._gather(failure):
                raise PointFailed(failure)
        latency = self._leg(self._one_in_flight, "latency", window=1)
        throughput = self._leg(self._window_in_flight, "throughput", window=self.point.window)
        for result in (latency, throughput):
            if len(result.latencies_ns) < MIN_ITEMS:
                raise PointFailed(
                    f"{len(result.latencies_ns)} items in phase {result.phase} before its maximum "
                    f"time of {result.spec.max_s:g} s; a median needs {MIN_ITEMS}"
                )
        self.check.verdict()
        return latency, throughput

    def _tell(self, command: Message) -> None:
        """Send one command to every other rank."""
        for channel in self._channels:
            channel.send(command)

    def _gather(self, failure: str | None) -> str | None:
        """Wait until every rank has its stage; return the first failure, naming its rank."""
        for channel in self._channels:
            answer = channel.receive(self.point.deadline_s)
            if "failed" in answer:
                failure = failure or f"{channel.peer}: {answer['failed']}"
            elif "ready" not in answer:
                raise ControlError(f"{channel.peer}: sent {answer} where 'ready' was expected")
        return failure

    def _pass_gate(self) -> None:
        """Build the stages and see that one after the other they return what the model returns."""
        stages = split(self.context.traced(self.point), self.point.split)
        if self.point.batch not in self._references:
            self._references[self.point.batch] = [
                whole(self.context.model, tensor) for tensor in self._inputs
            ]
        gate = check_split(stages, self._inputs, self._references[self.point.batch])
        self.gate, self._overwrites = gate.exact, gate.overwrites_input
        if not gate.exact:
            raise PartitionError(
                "the stages, one after the other on this host, do not return what the model "
                f"returns: they differ by {gate.largest_error:.2g} of its largest value"
            )
        self._stage = stages[0]

    def _leg(
        self,
        drive: Callable[[PhaseResult], EndedBy],
        phase: Literal["latency", "throughput"],
        *,
        window: int,
    ) -> PhaseResult:
        """Run one leg: warm-up, phase, drain; record how it ended, here and on the other ranks."""
        context = self.context
        result = PhaseResult(phase, context.plan.experiment.phases, self._legs, window)
        self._legs += 1
        self._launched = 0
        with context.shares.kind("switch"):
            self._open(result)
        sent_before, self._watch = context.sent(), Watch()
        begin_ns = time.perf_counter_ns()
        ended_by = drive(result)
        if self._crosses:
            context.transport.send(MARK, ())
            if context.transport.recv().tag != MARK:
                raise ProtocolError("an item came back where the mark was expected")
        sent, health = context.sent(), self._watch.end()
        # The drain counts as the phase's, the warm-up is what came before.
        context.shares.ns["warmup"] += result.start_ns - begin_ns
        context.shares.ns[phase] += time.perf_counter_ns() - result.start_ns
        context.writer.write(
            PhaseEnd(
                point=self.point.id,
                phase=phase,
                items=len(result.latencies_ns),
                start_ns=result.start_ns,
                end_ns=result.end_ns,
                ended_by=ended_by,
                payload_sent_bytes=self._launched * self.point.hop_bytes[0],
                **sent.since(sent_before),
                leg=result.leg,
                window=window,
                health=health,
                disturbed=disturbances(health, torch.get_num_threads()),
            )
        )
        if self._crosses:
            with context.shares.kind("switch"):
                self._tell({"do": "report"})
                for channel in self._channels:
                    channel.receive(self.point.deadline_s)
        return result

    def _open(self, result: PhaseResult) -> None:
        """Have every rank ready for a leg."""
        if self._crosses:
            leg: Message = {"phase": result.phase, "leg": result.leg, "window": result.window}
            self._tell({"do": "leg", **leg})
            self.context.transport.configure(
                self.point.hops[-1],
                self.point.hops[0],
                window=result.window,
                deadline_s=self.point.deadline_s,
            )
            self.context.transport.begin(overlap=result.phase != "latency")
        self.context.replay()
        gc.collect()

    def _one_in_flight(self, result: PhaseResult) -> EndedBy:
        """Latency: the next batch is made when the last one's output is back."""
        begin_ns = time.perf_counter_ns()
        while self._is_warmup(result.spec.warmup_items, begin_ns, result.spec):
            self._complete(result, self._launch(_WARMUP))
        while True:
            if ended := result.add(self._complete(result, self._launch(_LATENCY))):
                return ended

    def _window_in_flight(self, result: PhaseResult) -> EndedBy:
        """Throughput: as many batches in flight as the window allows, all the time."""
        flights: deque[_Flight] = deque()
        items, begin_ns = result.spec.warmup_items + result.window, time.perf_counter_ns()
        while True:
            warmup = self._is_warmup(items, begin_ns, result.spec)
            flights.append(self._launch(_WARMUP if warmup else _THROUGHPUT))
            if len(flights) < result.window:
                continue
            item = self._complete(result, flights.popleft())
            if item.phase == "throughput" and (ended := result.add(item)):
                break
        while flights:
            self._complete(result, flights.popleft(), phase="drain")
        return ended

    def _is_warmup(self, items: int, begin_ns: int, spec: PhaseSpec) -> bool:
        """Whether the next item is still one of the first `items`, within the maximum time."""
        elapsed_s = (time.perf_counter_ns() - begin_ns) / 1e9
        return self._launched < items and elapsed_s < spec.max_s

    def _launch(self, phase: int) -> _Flight:
        """Make one batch's input ready, compute the first stage, hand its output over."""
        index = self._launched % _INPUTS
        tag = Tag(phase, self._launched)
        self._launched += 1
        if self._overwrites:
            self._inputs[index].copy_(self._masters[index])
        position, ready_ns = self.context.position(), time.perf_counter_ns()
        computed = compute(self._stage, (self._inputs[index],), self.context.host.device_emulated)
        packed_ns = sent_ns = None
        if self._crosses:
            packed_ns = self.context.transport.send(tag, computed.tensors)
            sent_ns = time.perf_counter_ns()
        return _Flight(tag, ready_ns, computed, packed_ns, sent_ns, position)

    def _complete(self, result: PhaseResult, flight: _Flight, phase: Phase | None = None) -> Item:
        """Wait for a batch's output, hold it against the reference, record the item."""
        outputs, done_ns = flight.computed.tensors, flight.computed.computed_ns
        departed_ns = None
        if self._crosses:
            message = self.context.transport.recv()
            if message.tag != flight.tag:
                raise ProtocolError(f"{message.tag} came back where {flight.tag} was expected")
            outputs, done_ns = message.tensors, message.received_ns
            departed_ns = message.departed_ns
        item = Item(
            point=self.point.id,
            phase=phase or _PHASE_NAMES[flight.tag.phase],
            seq=flight.tag.seq,
            ready_ns=flight.ready_ns,
            start_ns=flight.computed.start_ns,
            computed_ns=flight.computed.computed_ns,
            compute_ns=flight.computed.compute_ns,
            cpu_ns=flight.computed.cpu_ns,
            sent_ns=flight.sent_ns,
            done_ns=done_ns,
            latency_ns=done_ns - flight.ready_ns,
            leg=result.leg,
            packed_ns=flight.packed_ns,
            departed_ns=departed_ns,
            segment=self.context.segment(flight.position),
        )
        self.context.writer.write(item)
        if item.phase == result.phase:
            self._watch.add(item.compute_ns, item.cpu_ns)
        reference = self._references[self.point.batch][flight.tag.seq % _INPUTS]
        self.check.add(outputs, reference)
        return item


_PHASE_NAMES: tuple[Phase, ...] = ("warmup", "latency", "throughput")
