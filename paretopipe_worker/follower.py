"""Every rank but the first: do what rank 0 says, item by item."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass

from paretopipe_worker.compute import compute
from paretopipe_worker.context import Context, Sent
from paretopipe_worker.control import Channel, ControlError
from paretopipe_worker.partition import PartitionError, Stage, split
from paretopipe_worker.plan import Point
from paretopipe_worker.probe import COMMANDS, answer
from paretopipe_worker.records import Item, Phase, PhaseEnd
from paretopipe_worker.transport import MARK, PHASES


@dataclass
class _Leg:
    """What was seen of a leg whose bytes may still be on their way."""

    point: Point
    phase: Phase
    sent_before: Sent
    messages: int = 0
    items: int = 0
    start_ns: int = 0
    end_ns: int = 0


class Follower:
    """Runs this rank's stage of every point of one session."""

    def __init__(self, context: Context, channel: Channel) -> None:
        self.context = context
        self.channel = channel
        self._open_leg: _Leg | None = None

    def run(self) -> None:
        """Follow rank 0's commands until it ends the session.

        Raises
        ------
        TransportError, ControlError
            When a link or rank 0 is lost.
        """
        while True:
            # No deadline of its own: whoever launched this stage bounds the session.
            command = self.channel.receive(None)
            self._close_leg()
            match command.get("do"):
                case step if step in COMMANDS:
                    context = self.context
                    answer(
                        command, context.rank, context.transport, self.channel, context.addresses
                    )
                case "point":
                    self._point(self.context.plan.point(str(command.get("point"))))
                case "end":
                    return
                case _:
                    raise ControlError(f"{self.channel.peer}: unknown command {command}")

    def _point(self, point: Point) -> None:
        """Build this rank's stage, and run both legs once rank 0 says so."""
        rank, stage = self.context.rank, None
        with self.context.shares.kind("switch"):
            try:
                stage = split(self.context.traced(point), point.split)[rank]
                self.context.transport.configure(
                    point.hops[rank - 1],
                    point.hops[rank],
                    window=point.window,
                    deadline_s=point.deadline_s,
                )
                self.channel.send({"ready": True})
            except PartitionError as error:
                self.channel.send({"failed": str(error)})
            gc.collect()
            go = self.channel.receive(point.deadline_s).get("do") == "go"
        if go and stage is not None:
            self._leg(point, stage, "latency")
            self._leg(point, stage, "throughput")

    def _leg(self, point: Point, stage: Stage, phase: Phase) -> None:
        """Receive, compute and send until the mark comes by."""
        transport, writer = self.context.transport, self.context.writer
        leg = _Leg(point, phase, self.context.sent())
        transport.begin(overlap=phase == "throughput")
        while True:
            message = transport.recv()
            if leg.messages == 0:
                # Rank 0 has all outputs of the leg before, so their bytes are all counted now.
                self._close_leg()
                leg.sent_before = self.context.sent()
            if message.tag == MARK:
                break
            leg.messages += 1
            computed = compute(stage, message.tensors, self.context.host.device_emulated)
            transport.send(message.tag, computed.tensors)
            sent_ns = time.perf_counter_ns()
            name = PHASES[message.tag.phase]
            if name == phase:
                leg.items += 1
                leg.start_ns = leg.start_ns or message.received_ns
                leg.end_ns = sent_ns
            writer.write(
                Item(
                    point=point.id,
                    phase="warmup" if name != phase else phase,
                    seq=message.tag.seq,
                    ready_ns=message.received_ns,
                    start_ns=computed.start_ns,
                    computed_ns=computed.computed_ns,
                    compute_ns=computed.compute_ns,
                    cpu_ns=computed.cpu_ns,
                    sent_ns=sent_ns,
                )
            )
        self._open_leg = leg
        transport.send(MARK, ())

    def _close_leg(self) -> None:
        """Record the leg before, once all it sent has arrived."""
        leg, self._open_leg = self._open_leg, None
        if leg is None:
            return
        sent = self.context.sent()
        self.context.writer.write(
            PhaseEnd(
                point=leg.point.id,
                phase=leg.phase,
                items=leg.items,
                start_ns=leg.start_ns,
                end_ns=leg.end_ns,
                ended_by=None,
                payload_sent_bytes=leg.messages * leg.point.hop_bytes[self.context.rank],
                **sent.since(leg.sent_before),
            )
        )
