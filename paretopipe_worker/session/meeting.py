"""How the lanes of several sources keep step: their sources meet at the host that they share.

The sink of lane 0 runs the meeting in a thread, at the port after its data port, which is not
shaped. Every lane's source has a connection to it, made like a control channel. A source announces
that it has come to a step of its point, and when all have, the meeting tells each of them what all
have said. Between two steps nothing is sent, unless a lane is lost.

The last step of a point is its `end`. A lane that failed comes there early: until the others come
too, it counts as being at each of their steps, with its failure. A lane that is lost, or says that
it cannot go on, ends the meeting, and the others hear why.
"""

from __future__ import annotations

import contextlib
import select
import selectors
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from paretopipe_worker.plan.labels import placement_label, readable
from paretopipe_worker.plan.plan import Plan, Session
from paretopipe_worker.plan.predict import certificate_s
from paretopipe_worker.session.control import Channel, ControlError, Message
from paretopipe_worker.transport.api import TransportError
from paretopipe_worker.transport.doorway import Doorway
from paretopipe_worker.transport.handshake import Identity
from paretopipe_worker.transport.patience import Patience
from paretopipe_worker.transport.reaching import reach

END = "end"
"""The last step of every point."""

_STEP_S = 120.0
"""What a step may take beside measuring: a large model is loaded and checked."""

_LINE_S = 10.0
"""Longest wait for the rest of a message that has begun to come."""

_LOST, _LEFT = "lost", "left"


def wait_s(plan: Plan, session: Session) -> float:
    """Longest time that a lane waits for the others, which is more than a step takes them.

    They may have to load the model, measure the path, or run a leg to its maximum time.
    """
    phases, link = plan.experiment.phases, plan.link(session.link)
    leg_s = phases.cool_down_s + phases.warmup_s + phases.max_s
    lanes = plan.lanes(session)
    item_s = max(plan.point(point).deadline_s for lane in lanes for point in lane.points)
    path_s = certificate_s(link, plan.experiment.tcp, len(session.placement))
    return _STEP_S + leg_s + 3 * item_s + 4 * path_s


@dataclass
class Lane:
    """One lane's way to the others, or that of a session that has no others.

    Parameters
    ----------
    channel
        The connection to the meeting; None where there are no other lanes.
    number
        The lane's number.
    names
        What errors call the lanes.
    wait_s
        Longest wait for the others.
    """

    channel: Channel | None = None
    number: int = 0
    names: Sequence[str] = ("",)
    wait_s: float = 0.0

    def __post_init__(self) -> None:
        self._said: Message = {}
        self._point, self._until_s = 0, 0.0

    def announce(self, step: str, **said: object) -> None:
        """Say that this lane has come to a step.

        Raises
        ------
        ControlError
            When the meeting is over.
        """
        self._said, self._until_s = dict(said), time.monotonic() + self.wait_s
        if self.channel:
            self.channel.send({"point": self._point, "step": step, "said": said})

    @property
    def missing(self) -> bool:
        """Whether some lane has not come to the step yet.

        Raises
        ------
        ControlError
            When it has not come for too long.
        """
        if self.channel is None or select.select([self.channel], [], [], 0)[0]:
            return False
        if time.monotonic() > self._until_s:
            raise ControlError(f"the other lanes did not come within {self.wait_s:g} s")
        return True

    def check(self) -> None:
        """Look whether the meeting is over, before this lane has come to the next step.

        Raises
        ------
        ControlError
            When a lane is lost; the text says which, and why.
        """
        if self.channel is not None and select.select([self.channel], [], [], 0)[0]:
            raise ControlError(f"{self.channel.peer}: said {self.heard()} before the step")

    def heard(self) -> list[Message]:
        """Wait for the others; what each lane said at the step, by lane.

        Raises
        ------
        ControlError
            When a lane is lost; the text says which, and why.
        """
        if self.channel is None:
            return [self._said]
        answer = self.channel.receive(self.wait_s)
        if _LOST in answer:
            raise ControlError(str(answer[_LOST]))
        said = answer.get("said")
        if (
            not isinstance(said, list)
            or len(said) != len(self.names)
            or not all(isinstance(each, dict) for each in said)
        ):
            raise ControlError(f"{self.channel.peer}: sent {answer}; allowed: what each lane said")
        return said

    def meet(self, step: str, **said: object) -> list[Message]:
        """Announce a step, and wait for the others; what each lane said, by lane."""
        self.announce(step, **said)
        return self.heard()

    def end(self, failure: str | None) -> str | None:
        """End a point together with the others; why it failed, in this lane or in another."""
        said = self.meet(END, failed=failure)
        self._point += 1
        return failure or self.failure(said)

    def failure(self, said: Sequence[Message]) -> str | None:
        """Why another lane failed at the point, naming it; None where none did."""
        for number, each in enumerate(said):
            if number != self.number and each.get("failed"):
                return f"{self.names[number]}: {each['failed']}"
        return None


def lane_names(plan: Plan, session: Session) -> list[str]:
    """What errors call the lanes that are measured together with a session."""
    return [readable(placement_label(lane.placement)) for lane in plan.lanes(session)]


@contextlib.contextmanager
def attending(
    there: tuple[str, int], source: str, own: Identity, lane: Lane, patience: Patience
) -> Iterator[Lane]:
    """Take a lane's source to the meeting at `there`; tell the others where the block fails.

    Raises
    ------
    TransportError
        When the meeting is not reached in time, or disagrees.
    """
    hub = len(lane.names)
    link, _ = reach(there, source, own, {hub}, patience)
    name = f"{lane.names[0]}, whose sink holds the meeting ({there[0]}:{there[1]})"
    with contextlib.closing(Channel(link, name)) as channel:
        try:
            yield replace(lane, channel=channel)
        except BaseException as error:
            with contextlib.suppress(ControlError):
                channel.send({_LOST: str(error)})
            raise
        with contextlib.suppress(ControlError):
            channel.send({_LEFT: True})


@contextlib.contextmanager
def held(
    here: tuple[str, int], own: Identity, names: Sequence[str], patience: Patience
) -> Iterator[None]:
    """Hold the meeting of the lanes of these names; the block ends after the last lane has left.

    Raises
    ------
    TransportError
        When the port is in use.
    """
    with Doorway(here, own) as doorway:
        arguments = (doorway, names, patience)
        thread = threading.Thread(target=_hold, args=arguments, name="meeting", daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            # This process is about to end, and its connections with it: that tells the others.
            patience.give_up()
            raise
        thread.join()


def _hold(doorway: Doorway, names: Sequence[str], patience: Patience) -> None:
    """Let all lanes in, and bring them together until the last one has left."""
    channels: dict[int, Channel] = {}
    missing = set(range(len(names)))
    with contextlib.ExitStack() as stack:
        try:
            while missing:
                link, said = doorway.admit(missing, patience)
                channel = stack.enter_context(contextlib.closing(Channel(link, names[said.rank])))
                channels[said.rank] = channel
                missing.remove(said.rank)
            _bring_together(channels)
        except TransportError as error:
            absent = " and ".join(names[lane] for lane in sorted(missing))
            _dissolve(channels.values(), f"{absent} did not come to the meeting: {error}")
        except ControlError as error:
            _dissolve(channels.values(), str(error))


def _bring_together(channels: Mapping[int, Channel]) -> None:
    """Answer the lanes at each step, once all have come there.

    Raises
    ------
    ControlError
        When one of them is lost.
    """
    announced: dict[int, Message] = {}
    with selectors.DefaultSelector() as selector:
        for lane, channel in channels.items():
            selector.register(channel, selectors.EVENT_READ, lane)
        while selector.get_map():
            for key, _ in selector.select():
                channel = channels[key.data]
                message = channel.receive(_LINE_S)
                if _LOST in message:
                    raise ControlError(f"{channel.peer} was lost: {message[_LOST]}")
                if _LEFT in message:
                    selector.unregister(channel)
                else:
                    announced[key.data] = _checked(message, channel.peer)
            if len(announced) == len(channels):
                said = [announced[lane]["said"] for lane in sorted(channels)]
                for lane in _answered(announced):
                    channels[lane].send({"said": said})
                    del announced[lane]


def _checked(message: Message, peer: str) -> Message:
    """An announcement, checked because it comes from another host."""
    point, step, said = (message.get(key) for key in ("point", "step", "said"))
    if type(point) is not int or type(step) is not str or not isinstance(said, dict):
        raise ControlError(f"{peer}: sent {message}; allowed: a point, a step and what to say")
    return message


def _answered(announced: Mapping[int, Message]) -> list[int]:
    """The lanes to answer, once all have come to a step: those that have not failed before it.

    Raises
    ------
    ControlError
        When the lanes are at different steps.
    """
    steps = {lane: (message["point"], message["step"]) for lane, message in announced.items()}
    behind = [lane for lane, (_, step) in steps.items() if step != END] or list(steps)
    points, at = {point for point, _ in steps.values()}, {steps[lane] for lane in behind}
    if len(points) > 1 or len(at) > 1:
        raise ControlError(f"the lanes do not keep step: they are at {steps}")
    return behind


def _dissolve(channels: Collection[Channel], reason: str) -> None:
    """Tell every lane why the meeting is over, and wait until each has heard it."""
    for channel in channels:
        with contextlib.suppress(ControlError):
            channel.send({_LOST: reason})
            channel.finish()
    for channel in channels:
        # What a lane had announced meanwhile is still unread. Were the connection closed now, the
        # kernel would reset it, and the lane might never read the reason.
        with contextlib.suppress(ControlError):
            while _LEFT not in channel.receive(_LINE_S):
                pass
