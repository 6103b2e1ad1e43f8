"""The keeper of a shaped link: the process on the host that undoes shaping when the lease lapses.

It also runs the relay and steps through a trace. These are one process, so that none of them
outlives another. The state folder holds ``keeper.json``, by which others find the keeper, and
``keeper.log``.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from paretopipe_worker.host.daemons import Process, detach, locked, read_json, write_json
from paretopipe_worker.shaping import ShapingError, interfaces, tc
from paretopipe_worker.shaping.goal import Goal
from paretopipe_worker.shaping.relay import Relay, be_prompt
from paretopipe_worker.shaping.stepper import Stepper

_WATCHING = "watching"


def alive(state_dir: Path) -> Process | None:
    """Find the keeper; None unless it is alive."""
    saved = read_json(state_dir / "keeper.json")
    keeper = None if saved is None else Process(**saved)
    return keeper if keeper and keeper.alive else None


def start(state_dir: Path, goal: Goal, undo: Callable[[], None]) -> None:
    """Start a keeper, in place of the one that may exist; the caller holds the lock.

    Parameters
    ----------
    undo
        What the keeper calls, holding the lock, once the lease has lapsed or the relay has failed.
        If it raises `ShapingError`, the keeper calls it again when it next looks at the lease.

    Raises
    ------
    ShapingError
        When the relay's devices cannot be made, or the keeper did not start.
    """
    end(state_dir)
    log = state_dir / "keeper.log"
    said = detach(lambda report: _keep(state_dir, goal, undo, report), log)
    if said != _WATCHING:
        raise ShapingError(said or f"the link's keeper did not start; see {log}")


def end(state_dir: Path) -> None:
    """End the keeper, unless it is this process.

    The caller holds the lock, so the keeper is not in the middle of restoring the link.

    Raises
    ------
    ShapingError
        When the keeper does not end.
    """
    keeper = alive(state_dir)
    if keeper and keeper.pid != os.getpid() and not keeper.end(signal.SIGKILL, 5):
        raise ShapingError(f"keeper {keeper.pid} does not end")
    (state_dir / "keeper.json").unlink(missing_ok=True)


def _keep(
    state_dir: Path, goal: Goal, undo: Callable[[], None], report: Callable[[str], None]
) -> None:
    """Be the keeper."""
    own = Process.running(os.getpid())
    assert own is not None
    relayed = None
    try:
        if goal.egress.engine == "relay":
            relayed = Relay(goal.egress, goal.interface, state_dir / "relay.bin")
        stepper = _stepper(state_dir, goal, relayed)
        if relayed or stepper:
            print(f"keeper: {be_prompt()}", flush=True)
        write_json(state_dir / "keeper.json", asdict(own))
    except (ShapingError, OSError) as error:
        report(str(error))
        return

    def undo_all() -> None:
        undo()
        if relayed:
            relayed.close()  # under the lock: the next keeper makes TAPs of the same names

    report(_WATCHING)
    wait: Callable[[float], None] = partial(_wait, relayed, stepper)
    why: Callable[[], str | None] = goal.lease.lapse
    while True:
        try:
            wait(goal.lease.poll_s)
        except OSError as error:  # from the relay, without which the stages' data goes nowhere
            wait, why = time.sleep, partial(str, f"the relay failed: {error}")
        except ShapingError as error:  # the link is in no segment of its trace any more
            wait, why = time.sleep, partial(str, f"the trace failed: {error}")
        if why() and _undone(state_dir, undo_all, why):
            return


def _stepper(state_dir: Path, goal: Goal, relayed: Relay | None) -> Stepper | None:
    """Make what steps through the link's trace; None if the link follows no trace."""
    if goal.egress.timetable is None:
        return None

    def change(segment: int) -> None:
        if relayed:
            relayed.change(segment)
            return
        interface = goal.interface
        for command in tc.step_commands(goal.egress, interface.name, interface.mtu, segment):
            interfaces.run(command)

    user = goal.lease.path.stat().st_uid
    return Stepper(goal.egress.timetable, change, state_dir, user)


def _wait(relayed: Relay | None, stepper: Stepper | None, seconds: float) -> None:
    """Relay and step through the trace, for at most `seconds`."""
    wakes = [stepper.fileno()] if stepper else []
    seconds = stepper.wait_s(seconds) if stepper else seconds
    if relayed:
        relayed.forward(seconds, wakes)
    else:
        select.select(wakes, (), (), seconds)
    if stepper:
        stepper.advance()


def _undone(state_dir: Path, undo: Callable[[], None], why: Callable[[], str | None]) -> bool:
    """Undo the shaping if there still is a reason to, and tell whether that was done."""
    with locked(state_dir / "lock"):
        reason = why()  # asked again, because waiting for the lock may have taken long
        if reason is None:
            return False
        try:
            undo()
        except ShapingError as error:
            print(f"{error}; trying again", flush=True)
            return False
        print(f"{reason}: link restored", flush=True)
        return True
