"""Measure one point, as rank 0: gate, then legs in their order, each again if it was disturbed."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import torch

from paretopipe_worker.host.health import Watch, disturbances
from paretopipe_worker.model.partition import PartitionError, Stage, check_split, split, whole
from paretopipe_worker.model.zoo import example_input
from paretopipe_worker.plan import arrivals, window
from paretopipe_worker.plan.experiment import MIN_ITEMS, LoadSpec
from paretopipe_worker.plan.plan import Point
from paretopipe_worker.records.lines import LegEnd
from paretopipe_worker.session import compute
from paretopipe_worker.session.check import Check, PointFailed
from paretopipe_worker.session.context import Context
from paretopipe_worker.session.control import Channel, ControlError, Message
from paretopipe_worker.session.flights import Flights
from paretopipe_worker.session.legs import (
    EndedBy,
    LegPhase,
    LegResult,
    arriving,
    one_in_flight,
    window_in_flight,
)

References: TypeAlias = dict[int, list[tuple[torch.Tensor, ...]]]
"""What the whole model returns for each input, by batch size: computed once in a session."""

Drive: TypeAlias = Callable[[Flights, LegResult], EndedBy]

_INPUTS = 2


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
        self.check = Check(exact_wanted=not self._crosses or ranks == {self.context.numerics})
        table = self.context.plan.table(point.model, point.batch, point.dtype)
        seed = self.context.plan.experiment.seed
        self._inputs = [example_input(table.input, seed=seed, index=i) for i in range(_INPUTS)]
        self._overwrites_input = False
        self._references = references
        self._stage: Stage | None = None
        self._legs = 0

    def measure(self) -> tuple[LegResult, LegResult]:
        """Gate, then every leg, each behind its own warm-up.

        Returns
        -------
        The legs of latency and throughput that count.

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
            except Exception as error:
                # Nothing has crossed yet: what the model raises, is this point's.
                failure = compute.failure(error)
        with shares.kind("switch"):
            if failure := self._gather(failure):
                raise PointFailed(failure)
        latency = self._phase(one_in_flight, "latency", in_flight=1)
        in_flight = self._window(latency)
        throughput = self._phase(window_in_flight, "throughput", in_flight=in_flight)
        for result in (latency, throughput):
            if len(result.latencies_ns) < MIN_ITEMS:
                raise PointFailed(
                    f"{len(result.latencies_ns)} items in phase {result.phase} before its maximum "
                    f"time of {result.spec.max_s:g} s; a median needs {MIN_ITEMS}"
                )
        load, rate_per_s = throughput.spec.load, throughput.rate_per_s
        if load and rate_per_s:
            self._offer(load, rate_per_s, latency, throughput.window)
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
        stages = split(self.context.captured(self.point), self.point.split)
        if self.point.batch not in self._references:
            self._references[self.point.batch] = [
                whole(self.context.model, tensor) for tensor in self._inputs
            ]
        gate = check_split(stages, self._inputs, self._references[self.point.batch])
        self.gate = gate.exact
        self._overwrites_input = gate.overwrites_input
        if not gate.exact:
            raise PartitionError(
                "the stages, one after the other on this host, do not return what the model "
                f"returns: they differ by {gate.largest_error:.2g} of its largest value"
            )
        self._stage = stages[0]

    def _window(self, latency: LegResult) -> int:
        """Batches in flight for throughput: as asked, or what fills the path just measured.

        Where nothing crosses, one batch is done before the next begins.
        """
        if not self._crosses:
            return 1
        if self.point.window != "auto":
            return self.point.window
        probe = self.context.probe
        goodput = probe.goodput_mbit if probe else ()
        hops = zip(self.point.hop_bytes, goodput, strict=False)
        wire_s = [size * 8 / (rate * 1e6) for size, rate in hops if size]
        latency_s = statistics.median(latency.latencies_ns) / 1e9
        return window.filling(latency_s, max((*latency.stage_s, *wire_s)))

    def _offer(self, load: LoadSpec, most_per_s: float, latency: LegResult, in_flight: int) -> None:
        """Offer growing shares of the throughput, until the knee or the last of them."""
        seed = f"{self.context.plan.experiment.seed} {self.context.session.replicate}"
        idle_ns = statistics.median(latency.latencies_ns)
        for share in load.shares:
            rate = share * most_per_s
            times = arrivals.poisson(f"{seed} {self.point.id} {share}", rate, load, in_flight)
            drive = partial(arriving, arrivals_ns=times)
            result = self._phase(drive, "load", in_flight=in_flight, offered_per_s=rate)
            if arrivals.beyond_knee(result.ready_ns, result.done_ns, idle_ns):
                return

    def _phase(
        self,
        drive: Drive,
        phase: LegPhase,
        *,
        in_flight: int,
        offered_per_s: float | None = None,
    ) -> LegResult:
        """Run a leg, and again while it is disturbed and may be: the last one counts."""
        phases = self.context.plan.experiment.phases
        for again in range(phases.retries + 1):
            if again:
                with self.context.shares.kind("cool-down"):
                    time.sleep(phases.cool_down_s)
            result = LegResult(phase, phases, self._legs, in_flight, offered_per_s)
            self._legs += 1
            self._leg(drive, result)
            if not result.disturbed:
                break
        return result

    def _leg(self, drive: Drive, result: LegResult) -> None:
        """Run one leg: warm-up, phase, drain; record how it ended, here and on the other ranks."""
        context = self.context
        with context.shares.kind("switch"):
            self._open(result)
        sent_before, watch = context.sent(), Watch(by_sums=result.phase != "latency")
        flights = Flights(
            context=context,
            point=self.point,
            leg=result.leg,
            phase=result.phase,
            stage=self._stage,
            inputs=self._inputs,
            references=self._references[self.point.batch],
            overwrites_input=self._overwrites_input,
            window=result.window,
            check=self.check,
            watch=watch,
        )
        if result.phase == "load":
            # How long such items take depends on chance: there is no steadiness to wait for.
            result.warmup_items = result.window
        begin_ns = time.perf_counter_ns()
        ended_by = drive(flights, result)
        flights.drain()
        sent, health = context.sent(), watch.end()
        disturbed = disturbances(health, torch.get_num_threads())
        # The drain counts as the phase's, the warm-up is what came before.
        context.shares.ns["warmup"] += result.start_ns - begin_ns
        context.shares.ns[result.phase] += time.perf_counter_ns() - result.start_ns
        context.writer.write(
            LegEnd(
                point=self.point.id,
                phase=result.phase,
                items=len(result.latencies_ns),
                start_ns=result.start_ns,
                end_ns=result.end_ns,
                ended_by=ended_by,
                payload_sent_bytes=flights.launched * self.point.hop_bytes[0],
                **sent.since(sent_before),
                leg=result.leg,
                window=result.window,
                warmup_items=result.warmup_items,
                warmup_ended_by=result.warmup_ended_by,
                offered_per_s=result.offered_per_s,
                health=health,
                disturbed=disturbed,
            )
        )
        result.disturbed = bool(disturbed)
        result.stage_s = (statistics.median(result.busy_ns) / 1e9,)
        if self._crosses:
            with context.shares.kind("switch"):
                self._hear(result)

    def _open(self, result: LegResult) -> None:
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

    def _hear(self, result: LegResult) -> None:
        """Have the other ranks report a leg: whether they were disturbed, and how busy."""
        self._tell({"do": "report"})
        for channel in self._channels:
            result.hear(channel.receive(self.point.deadline_s), channel.peer)
