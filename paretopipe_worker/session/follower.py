"""Every rank but the first: carry out what rank 0 commands, and compute its stage."""

from __future__ import annotations

import time
from dataclasses import dataclass

from paretopipe_worker.execution.api import Executor
from paretopipe_worker.plan.plan import Point
from paretopipe_worker.records.lines import COUNTED_PHASES, Item
from paretopipe_worker.session import clocks, executing, hold
from paretopipe_worker.session.context import Context
from paretopipe_worker.session.control import Channel, ControlError, Message, bounded
from paretopipe_worker.session.observation import Observation
from paretopipe_worker.session.probe import COMMANDS, answer
from paretopipe_worker.transport.api import MARK, PHASES

_MOST = 1 << 20
"""Largest number of a leg, and largest window, that rank 0 may send."""


@dataclass
class _Leg:
    """One leg of a point, as it goes on here."""

    observation: Observation
    executor: Executor
    messages: int = 0
    start_ns: int = 0
    end_ns: int = 0


class Follower:
    """Runs this rank's stage of every point of one session."""

    def __init__(self, context: Context, channel: Channel) -> None:
        self.context = context
        self.channel = channel
        self._point: Point | None = None
        self._executor: Executor | None = None
        self._ran: _Leg | None = None

    def run(self) -> None:
        """Follow rank 0's commands until it ends the session.

        Raises
        ------
        TransportError, ControlError
            When a link or rank 0 is lost.
        """
        context, shares = self.context, self.context.shares
        while True:
            # Without a deadline, since whoever launched this stage bounds the session's time.
            command = self.channel.receive(None)
            match command.get("do"):
                case step if step in COMMANDS:
                    answer(command, context.rank, context.path, self.channel, context.addresses)
                case clocks.COMMAND:
                    clocks.answer(self.channel)
                case hold.COMMAND:
                    hold.answer(command, context.link, self.channel)
                case "point":
                    with shares.kind("switch"):
                        self._take(context.plan.point(str(command.get("point"))))
                case "leg":
                    with shares.kind("switch"):
                        leg = self._open(command)
                    self._run(leg)
                case "report":
                    with shares.kind("switch"):
                        self._report()
                case "end":
                    self._close()
                    return
                case _:
                    raise ControlError(f"{self.channel.peer}: unknown command {command}")

    def _take(self, point: Point) -> None:
        """Build this rank's stage of a point, and tell rank 0 whether that went well."""
        self._close()
        self._point, self._ran = point, None
        try:
            self._executor = executing.built(self.context, point)
        except Exception as error:
            self.channel.send({"failed": executing.failure(error)})
        else:
            self.channel.send({"ready": True})

    def _close(self) -> None:
        """Close what executed the last point's stage."""
        if self._executor is not None:
            self._executor.close()
        self._executor = None

    def _open(self, command: Message) -> _Leg:
        """Get ready for a leg of the point."""
        phase, point, context = command.get("phase"), self._point, self.context
        executor = self._executor
        if phase not in COUNTED_PHASES or point is None or executor is None:
            allowed = f"allowed: a phase of {', '.join(COUNTED_PHASES)}, once a point is built"
            raise ControlError(f"{self.channel.peer}: cannot run a leg by {command}; {allowed}")
        peer = self.channel.peer
        leg, window = (
            bounded(command, "leg", 0, _MOST, peer),
            bounded(command, "window", 1, _MOST, peer),
        )
        executor.begin(window)
        context.replay()
        context.ready(point, window=window, overlap=phase != "latency")
        return _Leg(Observation(context, point, phase, leg, window), executor)

    def _run(self, leg: _Leg) -> None:
        """Receive, compute and send until the mark comes by."""
        transport, writer = self.context.transport, self.context.writer
        seen = leg.observation
        while (message := transport.recv()).tag != MARK:
            leg.messages += 1
            computed = leg.executor.run(message.tensors)
            packed_ns = transport.send(message.tag, computed.tensors)
            sent_ns = time.perf_counter_ns()
            counts = PHASES[message.tag.phase] == seen.phase
            if counts:
                leg.start_ns = leg.start_ns or message.received_ns
                leg.end_ns = sent_ns
                seen.add(computed)
            writer.write(
                Item(
                    point=seen.point.id,
                    phase=seen.phase if counts else "warmup",
                    seq=message.tag.seq,
                    ready_ns=message.received_ns,
                    start_ns=computed.start_ns,
                    computed_ns=computed.computed_ns,
                    compute_ns=computed.compute_ns,
                    cpu_ns=computed.cpu_ns,
                    sent_ns=sent_ns,
                    leg=seen.leg,
                    packed_ns=packed_ns,
                    departed_ns=message.departed_ns,
                    overslept_ns=computed.overslept_ns,
                    copy_in_ns=computed.copy_in_ns,
                    copy_out_ns=computed.copy_out_ns,
                )
            )
        self._ran = leg
        transport.send(MARK, ())

    def _report(self) -> None:
        """Record the leg, all of whose bytes have arrived by now, and report it to rank 0."""
        leg, self._ran = self._ran, None
        if leg is None:
            raise ControlError(f"{self.channel.peer}: asked for a report where no leg was run")
        end = leg.observation.end(leg.messages, leg.start_ns, leg.end_ns)
        self.context.writer.write(end)
        busy_ns = round(leg.observation.busy_ns)
        self.channel.send({"leg": end.leg, "disturbed": end.disturbed, "busy_ns": busy_ns})
