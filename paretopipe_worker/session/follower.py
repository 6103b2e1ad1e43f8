"""Every rank but the first: carry out what rank 0 commands, and compute its stage."""

from __future__ import annotations

import time
from dataclasses import dataclass

from paretopipe_worker.execution.api import Executor
from paretopipe_worker.plan.plan import Point
from paretopipe_worker.records.lines import COUNTED_PHASES, Item
from paretopipe_worker.session import clocks, executing, hold, profile, rest
from paretopipe_worker.session.context import Context
from paretopipe_worker.session.control import Channel, ControlError, Message, bounded
from paretopipe_worker.session.observation import Observation
from paretopipe_worker.session.packing import Packing
from paretopipe_worker.session.probe import COMMANDS, answer
from paretopipe_worker.transport.api import MARK, PHASES

_MOST = 1 << 20
"""Largest number of a leg, and largest window, that rank 0 may send."""


@dataclass
class _Leg:
    """One leg of a point, as it goes on here."""

    observation: Observation
    executor: Executor
    packing: Packing
    messages: int = 0
    start_ns: int = 0
    end_ns: int = 0
    failure: str | None = None


class Follower:
    """Runs this rank's stage of every point of one session."""

    def __init__(self, context: Context, channel: Channel) -> None:
        self.context = context
        self.channel = channel
        self._point: Point | None = None
        self._executor: Executor | None = None
        self._packing: Packing | None = None
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
                case rest.COMMAND:
                    rest.answer(context, self.channel)
                case profile.COMMAND:
                    profile.answer(context, self.channel)
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
                case "broken":
                    self._say_why()
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
            self._packing = self.context.packing(point)
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
        executor, packing = self._executor, self._packing
        if phase not in COUNTED_PHASES or not (point and executor and packing):
            allowed = f"allowed: a phase of {', '.join(COUNTED_PHASES)}, once a point is built"
            raise ControlError(f"{self.channel.peer}: cannot run a leg by {command}; {allowed}")
        peer = self.channel.peer
        leg, window = (
            bounded(command, "leg", 0, _MOST, peer),
            bounded(command, "window", 1, _MOST, peer),
        )
        executor.begin(window)
        context.replay()
        packing.begin(window=window, overlap=phase != "latency")
        return _Leg(Observation(context, point, phase, leg, window), executor, packing)

    def _run(self, leg: _Leg) -> None:
        """Receive, compute and send until the mark comes by.

        Where a batch cannot be computed or packed, the mark goes on at once, which tells the source
        that the leg is broken. What still comes is dropped, so that nothing is in flight after it.
        """
        transport, writer = self.context.transport, self.context.writer
        seen, self._ran = leg.observation, leg
        while (message := transport.recv()).tag != MARK:
            leg.messages += 1
            try:
                given, unpack_ns = leg.packing.unpack(message.tensors)
                computed = leg.executor.run(given)
                packed, pack_ns = leg.packing.pack(computed.tensors)
            except Exception as error:
                leg.failure = executing.failure(error)
                break
            packed_ns = transport.send(message.tag, packed)
            sent_ns = time.perf_counter_ns()
            counts = PHASES[message.tag.phase] == seen.phase
            if counts:
                leg.start_ns = leg.start_ns or message.received_ns
                leg.end_ns = sent_ns
                seen.add(computed, (unpack_ns or 0) + (pack_ns or 0))
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
                    unpack_ns=unpack_ns,
                    pack_ns=pack_ns,
                )
            )
        transport.send(MARK, ())
        while leg.failure is not None and transport.recv().tag != MARK:
            pass

    def _say_why(self) -> None:
        """Tell rank 0 whether a leg broke here, and why."""
        leg, self._ran = self._ran, None
        self.channel.send({"failed": leg.failure if leg else None})

    def _report(self) -> None:
        """Record the leg, all of whose bytes have arrived by now, and report it to rank 0."""
        leg, self._ran = self._ran, None
        if leg is None:
            raise ControlError(f"{self.channel.peer}: asked for a report where no leg was run")
        sent_bytes = leg.packing.packed_bytes
        end = leg.observation.end(leg.messages, sent_bytes, leg.start_ns, leg.end_ns)
        self.context.writer.write(end)
        report: Message = {
            "leg": end.leg,
            "disturbed": end.disturbed,
            "busy_ns": round(leg.observation.busy_ns),
            "message_bytes": round(sent_bytes / leg.messages) if leg.messages else 0,
        }
        self.channel.send(report)
