"""The meeting that keeps the lanes of several sources in step, over real connections."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from paretopipe_worker.session import meeting
from paretopipe_worker.session.control import ControlError
from paretopipe_worker.session.meeting import Lane
from paretopipe_worker.transport.agreement import Agreement
from paretopipe_worker.transport.handshake import Identity, PlanMismatch
from paretopipe_worker.transport.patience import Patience
from tests.helpers.rings import free_ports
from tests.helpers.waiting import until

NAMES = ("edge > server", "edge2 > server", "edge3 > server")
HERE = "127.0.0.1"


def identity(rank: int, plan: str = "a plan") -> Identity:
    """Who one end is."""
    return Identity("meeting", rank, "run/group.1", Agreement(plan=plan), b"secret")


class Lanes:
    """So many lanes in threads of their own, and the meeting of their sources."""

    def __init__(self, number: int, wait_s: float = 20) -> None:
        self.names, self.wait_s = NAMES[:number], wait_s
        [self.port] = free_ports(1)
        self.pool = ThreadPoolExecutor(number + 1)

    def hold(self, patience_s: float = 20) -> Future[None]:
        """Hold the meeting, as the sink of lane 0 does; done when its last lane has left."""

        def run() -> None:
            own = identity(len(self.names))
            with meeting.held((HERE, self.port), own, self.names, Patience(patience_s)):
                pass

        return self.pool.submit(run)

    @contextlib.contextmanager
    def attended(self, number: int, plan: str = "a plan") -> Iterator[Lane]:
        """Attend it as a lane."""
        lane = Lane(None, number, self.names, self.wait_s)
        there = (HERE, self.port)
        with meeting.attending(there, HERE, identity(number, plan), lane, Patience(20)) as found:
            yield found

    def start(self, number: int, run: Callable[[Lane], object]) -> Future[object]:
        """Attend it as a lane, in a thread."""

        def attend() -> object:
            with self.attended(number) as lane:
                return run(lane)

        return self.pool.submit(attend)


def test_a_lane_goes_on_only_when_all_have_come_to_the_step() -> None:
    lanes, come = Lanes(2), threading.Event()
    over = lanes.hold()

    def late(lane: Lane) -> object:
        assert come.wait(20)
        return lane.meet("built", from_lane=1)

    other = lanes.start(1, late)
    with lanes.attended(0) as lane:
        lane.announce("built", from_lane=0)
        assert lane.missing
        come.set()
        assert lane.heard() == [{"from_lane": 0}, {"from_lane": 1}] == other.result(20)
    over.result(20)


def test_a_lane_that_gave_up_a_point_is_met_again_at_its_end() -> None:
    lanes = Lanes(3)
    over = lanes.hold()

    def failing(lane: Lane) -> object:
        return lane.end("too slow"), lane.meet("built")

    def going_on(lane: Lane) -> object:
        failures = [lane.failure(lane.meet(step)) for step in ("built", "minimum", "leg 0")]
        return [*failures, lane.end(None)], lane.meet("built")

    runs = [lanes.start(number, going_on) for number in (0, 2)]
    reason, met = lanes.start(1, failing).result(20)  # type: ignore[misc]
    assert (reason, met) == ("too slow", [{}, {}, {}])
    for run in runs:
        assert run.result(20) == (["edge2 > server: too slow"] * 4, [{}, {}, {}])
    over.result(20)


@pytest.mark.parametrize(
    ("ends", "reason"),
    [
        (ControlError("edge2: its link broke"), "edge2 > server was lost: edge2: its link broke"),
        (None, "edge2 > server: ended while the session was running"),
    ],
    ids=["said", "silent"],
)
def test_the_others_hear_which_lane_was_lost(ends: Exception | None, reason: str) -> None:
    lanes = Lanes(3)
    over = lanes.hold()

    def lost(lane: Lane) -> object:
        lane.meet("built")
        if ends is None:
            # As the kernel does with the connections of a killed process.
            assert lane.channel is not None
            lane.channel.finish()
            return None
        raise ends

    def waiting(lane: Lane) -> object:
        lane.meet("built")
        with pytest.raises(ControlError) as heard:
            lane.meet("minimum")
        return str(heard.value)

    others = [lanes.start(number, waiting) for number in (0, 2)]
    gone = lanes.start(1, lost)
    assert [other.result(20) for other in others] == [reason] * 2
    assert type(gone.exception(20)) is type(ends)
    over.result(20)


def test_a_lane_that_measures_hears_between_two_items_that_another_was_lost() -> None:
    lanes, begun = Lanes(2), threading.Event()
    over = lanes.hold()

    def lost(lane: Lane) -> None:
        lane.meet("built")
        assert begun.wait(20)
        raise ControlError("edge2: its link broke")

    other = lanes.start(1, lost)
    refused = pytest.raises(ControlError, match="was lost: edge2: its link broke")
    with refused, lanes.attended(0) as lane:
        lane.meet("built")
        lane.check()
        begun.set()
        until(lambda: lane.check(), "that the other lane was lost")
    assert isinstance(other.exception(20), ControlError)
    over.result(20)


def test_a_lane_does_not_wait_for_ever() -> None:
    lanes = Lanes(2, wait_s=0.05)
    over = lanes.hold()
    refused = pytest.raises(ControlError, match=r"did not come within 0\.05 s")
    with lanes.attended(1), refused, lanes.attended(0) as lane:
        lane.announce("built")
        while lane.missing:
            pass
    over.result(20)


def test_the_others_hear_which_lane_did_not_come() -> None:
    lanes = Lanes(2)
    over = lanes.hold(patience_s=0.3)
    with lanes.attended(0) as lane, pytest.raises(ControlError, match=r"^edge2 > server did not"):
        lane.meet("built")
    over.result(20)


def test_lanes_at_different_steps_are_not_brought_together() -> None:
    lanes = Lanes(2)
    over = lanes.hold()
    other = lanes.start(1, lambda lane: lane.meet("leg 1"))
    with lanes.attended(0) as lane, pytest.raises(ControlError, match="do not keep step"):
        lane.meet("leg 0")
    with pytest.raises(ControlError, match="do not keep step"):
        other.result(20)
    over.result(20)


def test_a_lane_of_another_plan_is_refused() -> None:
    lanes = Lanes(2)
    over = lanes.hold()
    with pytest.raises(PlanMismatch), lanes.attended(1, plan="another"):
        pass
    over.result(20)


def test_a_session_without_others_waits_for_nobody() -> None:
    alone = Lane()
    alone.announce("minimum", disturbed=True)
    assert not alone.missing
    assert alone.heard() == [{"disturbed": True}]
    assert (alone.end("too slow"), alone.end(None)) == ("too slow", None)
