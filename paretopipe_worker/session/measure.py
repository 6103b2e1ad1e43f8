"""Measure one point as rank 0: check its stages, then measure its phases one after the other.

Each phase is measured in a leg; a leg that was disturbed is followed by another of the same phase.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import torch

from paretopipe_worker.execution.api import Executor
from paretopipe_worker.model.inputs import items
from paretopipe_worker.model.partition import check_split, split
from paretopipe_worker.model.program import PartitionError
from paretopipe_worker.plan import arrivals, window
from paretopipe_worker.plan.experiment import MIN_ITEMS, LoadSpec
from paretopipe_worker.plan.plan import Point
from paretopipe_worker.session import executing
from paretopipe_worker.session.check import Check, PointFailed, allowed
from paretopipe_worker.session.context import Context
from paretopipe_worker.session.control import Channel, ControlError, Message
from paretopipe_worker.session.flights import Flights
from paretopipe_worker.session.legs import (
    EndedBy,
    LegResult,
    arriving,
    one_in_flight,
    window_in_flight,
)
from paretopipe_worker.session.observation import LegPhase, Observation

References: TypeAlias = dict[int, list[tuple[torch.Tensor, ...]]]
"""What the whole model returns for each input, by batch size: computed once in a session."""

Driver: TypeAlias = Callable[[Flights, LegResult], EndedBy]
"""Sends and takes back the batches of one leg, and says what ended it (:mod:`.legs`)."""


class PointMeasurement:
    """Measures one point.

    Attributes
    ----------
    gate
        Whether the stages returned exactly what the whole model returns; None before they were
        compared, and where the source does not have the whole model.
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
        ranks = {channel.hello["numerics"] for channel in channels}
        # Where the references are the controller's, it may compute in another way.
        alike = context.model(point).complete and ranks == {context.numerics}
        hosts = [context.plan.host(name) for name in context.session.placement]
        self.check = Check(allowed(point, hosts, alike=alike))
        table = self.context.plan.table(point.model, point.batch, point.dtype)
        seed = self.context.plan.experiment.seed
        self._inputs = items(table.inputs, seed=seed, images=context.images)
        self._references = references
        self._executor: Executor | None = None
        self._legs_run = 0

    def measure(self) -> tuple[LegResult, LegResult]:
        """Pass the gate, then measure latency, throughput and, where asked for, offered loads.

        Returns
        -------
        The last leg of the phase latency, and that of throughput: the legs that count.

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
                self._executor = executing.built(self.context, self.point)
            except Exception as error:
                # Nothing has crossed yet, so whatever the model raises fails only this point.
                failure = executing.failure(error)
        with shares.kind("switch"):
            if failure := self._stages_built(failure):
                raise PointFailed(failure)
            self._meet("built")
        others = self.context.others
        latency = self._measure_phase(partial(one_in_flight, others=others), "latency", in_flight=1)
        in_flight = self._window(latency)
        driver = partial(window_in_flight, others=others)
        throughput = self._measure_phase(driver, "throughput", in_flight=in_flight)
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

    def close(self) -> None:
        """Close what executed this rank's stage."""
        if self._executor is not None:
            self._executor.close()

    def _meet(self, step: str, **said: object) -> list[Message]:
        """Wait until all lanes have come to a step of the point; what each said there.

        Raises
        ------
        PointFailed
            When another lane has failed at the point.
        """
        heard = self.context.others.meet(step, **said)
        if failure := self.context.others.failure(heard):
            raise PointFailed(failure)
        return heard

    def _tell(self, command: Message) -> None:
        """Send one command to every other rank."""
        for channel in self._channels:
            channel.send(command)

    def _stages_built(self, failure: str | None) -> str | None:
        """Wait until every rank has built its stage; return the first failure, naming its rank."""
        for channel in self._channels:
            answer = channel.receive(self.point.deadline_s)
            if "failed" in answer:
                failure = failure or f"{channel.peer}: {answer['failed']}"
            elif "ready" not in answer:
                raise ControlError(f"{channel.peer}: sent {answer} where 'ready' was expected")
        return failure

    def _pass_gate(self) -> None:
        """Check that torch's stages, in sequence, return what the whole program returns here.

        It proves the split, whatever executes the stages. It needs all of the model's tensors.
        """
        model = self.context.model(self.point)
        if not model.complete:
            return
        stages = split(model, self.point.split)
        if self.point.batch not in self._references:
            with torch.inference_mode():
                outputs = [model.whole(*tensors) for tensors in self._inputs]
            self._references[self.point.batch] = outputs
        gate = check_split(stages, self._inputs, self._references[self.point.batch])
        self.gate = gate.exact
        if not gate.exact:
            raise PartitionError(
                "the stages, run one after the other on this host, do not return what the whole "
                f"program returns: they differ by {gate.largest_error:.2g} of its largest value"
            )

    def _window(self, latency: LegResult) -> int:
        """Batches in flight for throughput: as asked for, or what fills the path just measured.

        Where nothing crosses it is 1: a batch is done before the next begins.
        """
        if not self.point.crosses:
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
        """Offer growing shares of the throughput, up to the knee or the largest share."""
        seed = f"{self.context.plan.experiment.seed} {self.context.session.replicate}"
        idle_ns = statistics.median(latency.latencies_ns)
        for share in load.shares:
            rate = share * most_per_s
            times = arrivals.poisson(f"{seed} {self.point.id} {share}", rate, load, in_flight)
            driver = partial(arriving, arrivals_ns=times)
            result = self._measure_phase(driver, "load", in_flight=in_flight, offered_per_s=rate)
            if arrivals.beyond_knee(result.ready_ns, result.done_ns, idle_ns):
                return

    def _measure_phase(
        self,
        driver: Driver,
        phase: LegPhase,
        *,
        in_flight: int,
        offered_per_s: float | None = None,
    ) -> LegResult:
        """Run legs of a phase until one was not disturbed or no retry is left; the last counts.

        A leg that was disturbed in one lane is measured again in all, for a lane has the others'
        load only while they measure.
        """
        phases = self.context.plan.experiment.phases
        for retry in range(phases.retries + 1):
            if retry:
                with self.context.shares.kind("cool-down"):
                    time.sleep(phases.cool_down_s)
            result = LegResult(phase, phases, self._legs_run, in_flight, offered_per_s)
            self._legs_run += 1
            self._run_leg(driver, result)
            heard = self._meet(f"leg {result.leg}", disturbed=result.disturbed)
            if not any(each.get("disturbed") for each in heard):
                break
        return result

    def _run_leg(self, driver: Driver, result: LegResult) -> None:
        """Run one leg: warm-up, counted items, drain; record it; hear how it went elsewhere."""
        context = self.context
        with context.shares.kind("switch"):
            seen = self._open_leg(result)
        assert self._executor is not None
        flights = Flights(
            observation=seen,
            executor=self._executor,
            inputs=self._inputs,
            references=self._references[self.point.batch],
            check=self.check,
        )
        if result.phase == "load":
            # How long such items take depends on chance: there is no steadiness to wait for.
            result.warmup_items = result.window
        begin_ns = time.perf_counter_ns()
        ended_by = driver(flights, result)
        flights.drain()
        end = seen.end(flights.launched, result.start_ns, result.end_ns)
        # The drain counts as the phase's time; the warm-up is what came before the first item.
        context.shares.ns["warmup"] += result.start_ns - begin_ns
        context.shares.ns[result.phase] += time.perf_counter_ns() - result.start_ns
        context.writer.write(
            replace(
                end,
                ended_by=ended_by,
                warmup_items=result.warmup_items,
                warmup_ended_by=result.warmup_ended_by,
                offered_per_s=result.offered_per_s,
            )
        )
        result.disturbed = bool(end.disturbed)
        result.stage_s = (seen.busy_ns / 1e9,)
        if self.point.crosses:
            with context.shares.kind("switch"):
                self._hear_reports(result)

    def _open_leg(self, result: LegResult) -> Observation:
        """Have every rank that takes part ready for a leg; from then on this one is observed."""
        phase, window = result.phase, result.window
        assert self._executor is not None
        self._executor.begin(window)
        if self.point.crosses:
            self._tell({"do": "leg", "phase": phase, "leg": result.leg, "window": window})
            self.context.ready(self.point, window=window, overlap=phase != "latency")
        self.context.replay()
        return Observation(self.context, self.point, phase, result.leg, window)

    def _hear_reports(self, result: LegResult) -> None:
        """Have the other ranks report the leg: what disturbed them, and how busy they were."""
        self._tell({"do": "report"})
        for channel in self._channels:
            result.hear(channel.receive(self.point.deadline_s), channel.peer)
