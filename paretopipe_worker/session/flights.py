"""Send single batches around the ring, as rank 0, and take them back."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NamedTuple

import torch

from paretopipe_worker.execution.api import Computed, Executor
from paretopipe_worker.records.lines import Item, Phase
from paretopipe_worker.session.check import Check
from paretopipe_worker.session.observation import Observation
from paretopipe_worker.transport.api import MARK, PHASES, ProtocolError, Tag


class Flight(NamedTuple):
    """A batch on its way around the ring."""

    tag: Tag
    phase: Phase
    ready_ns: int
    computed: Computed
    packed_ns: int | None
    sent_ns: int | None
    position: int | None


@dataclass
class Flights:
    """The batches of one leg.

    Parameters
    ----------
    observation
        The leg as the source sees it.
    executor
        Executes the source's part of the model.
    inputs, references
        Inputs, which are sent in turn, and the outputs that must come back for each.
    check
        Compares the outputs with the references.
    """

    observation: Observation
    executor: Executor
    inputs: list[tuple[torch.Tensor, ...]]
    references: list[tuple[torch.Tensor, ...]]
    check: Check
    launched: int = 0

    def __post_init__(self) -> None:
        self.context, self.point = self.observation.context, self.observation.point

    def launch(self, *, warmup: bool, arrived_ns: int | None = None) -> Flight:
        """Prepare the input of one batch, compute the first stage and send its output.

        Parameters
        ----------
        arrived_ns
            When the input was due to arrive; None where it is ready now.
        """
        phase: Phase = "warmup" if warmup else self.observation.phase
        tag = Tag(PHASES.index(phase), self.launched)
        given = self.inputs[tag.seq % len(self.inputs)]
        self.launched += 1
        position, ready_ns = self.context.position(), arrived_ns or time.perf_counter_ns()
        computed = self.executor.run(given)
        packed_ns = sent_ns = None
        if self.point.crosses:
            packed_ns = self.context.transport.send(tag, computed.tensors)
            sent_ns = time.perf_counter_ns()
        return Flight(tag, phase, ready_ns, computed, packed_ns, sent_ns, position)

    def complete(self, flight: Flight, phase: Phase | None = None) -> Item:
        """Wait for a batch's output, record the item and compare the output with the reference."""
        outputs, done_ns = flight.computed.tensors, flight.computed.computed_ns
        departed_ns = None
        if self.point.crosses:
            message = self.context.transport.recv()
            if message.tag != flight.tag:
                raise ProtocolError(f"{message.tag} came back where {flight.tag} was expected")
            outputs, done_ns = message.tensors, message.received_ns
            departed_ns = message.departed_ns
        item = Item(
            point=self.point.id,
            phase=phase or flight.phase,
            seq=flight.tag.seq,
            ready_ns=flight.ready_ns,
            start_ns=flight.computed.start_ns,
            computed_ns=flight.computed.computed_ns,
            compute_ns=flight.computed.compute_ns,
            cpu_ns=flight.computed.cpu_ns,
            sent_ns=flight.sent_ns,
            done_ns=done_ns,
            latency_ns=done_ns - flight.ready_ns,
            leg=self.observation.leg,
            packed_ns=flight.packed_ns,
            departed_ns=departed_ns,
            segment=self.context.segment(flight.position, flight.ready_ns),
            overslept_ns=flight.computed.overslept_ns,
            copy_in_ns=flight.computed.copy_in_ns,
            copy_out_ns=flight.computed.copy_out_ns,
        )
        self.context.writer.write(item)
        if item.phase == self.observation.phase:
            self.observation.add(flight.computed)
        self.check.add(outputs, self.references[flight.tag.seq % len(self.inputs)])
        return item

    def drain(self) -> None:
        """End the leg: once the mark is back, nothing is in flight anywhere."""
        if not self.point.crosses:
            return
        self.context.transport.send(MARK, ())
        if self.context.transport.recv().tag != MARK:
            raise ProtocolError("an item came back where the mark was expected")
