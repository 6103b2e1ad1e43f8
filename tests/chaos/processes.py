"""Faults of processes: killed outright, or stopped until somebody must have noticed."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from paretopipe_worker.host.daemons import Process
from tests.chaos.grounds import LocalLab
from tests.chaos.strikes import Kind, Missed, Strike

RESENT = 3
"""Segments sent again by which a cut is seen to have been felt."""

RENEWALS = 2
"""Renewals of the lease by which a sweep is seen to go on."""


def killing(role: str) -> Callable[[Strike], None]:
    """Kill the victim's process of a role."""

    def kill(strike: Strike) -> None:
        os.kill(strike.process(role), signal.SIGKILL)

    return kill


def hang(strike: Strike) -> None:
    """Stop a stage for good: the source must see that it hangs, and have it ended.

    A source that hangs while others wait for its commands is seen at the session's deadline alone.
    """
    strike.victim = strike.ring[-1]
    os.kill(strike.process("stage"), signal.SIGSTOP)
    strike.until(lambda: False, "the end of a session with a stage that hangs")


def pause(strike: Strike) -> None:
    """Stop a stage for so short a time that nobody needs to care."""
    lease = strike.ground.folder(strike.victim, strike.run) / "lease"
    pid, renewed = strike.process("stage"), {lease.stat().st_mtime_ns}
    with stopped(pid):
        strike.until(
            lambda: renewed.add(lease.stat().st_mtime_ns) or len(renewed) > RENEWALS,
            f"{RENEWALS} renewals of {lease}",
        )


def stop_supervisor(strike: Strike) -> None:
    """Stop a supervisor, which then sees neither its stage's end nor the lease, until that end."""
    with stopped(strike.process("supervisor")):
        strike.until(lambda: not strike.pids("stage"), "the end of a stage")


def stop_keeper(strike: Strike) -> None:
    """Stop a keeper: where it relays nothing crosses, until TCP has noticed."""
    before = strike.resent()
    with stopped(strike.process("keeper")):
        strike.until(lambda: strike.resent() >= before + RESENT, "segments that were sent again")


def stop_controller(strike: Strike) -> None:
    """Stop the controller and its workers, as Ctrl-Z does, until the hosts gave it up."""
    group = strike.running.process.pid
    os.killpg(group, signal.SIGSTOP)
    try:
        strike.until(lambda: _given_up(strike), "hosts that gave up a controller that hangs")
    finally:
        os.killpg(group, signal.SIGCONT)


def stop_worker(strike: Strike) -> None:
    """Stop the worker that holds a host's lease, until that host gave it up."""
    with stopped(_worker(strike)):
        strike.until(
            lambda: any(not strike.ground.pids("stage", host) for host in strike.ring),
            "a host that gave up a controller that hangs",
        )


def kill_controller(strike: Strike) -> None:
    """Kill ansible-playbook, of which its workers hear nothing."""
    strike.running.process.kill()


def interrupt(strike: Strike) -> None:
    """End ansible-playbook as Ctrl-C does."""
    strike.running.signal(signal.SIGINT)


def kill_worker(strike: Strike) -> None:
    """Kill a worker of ansible-playbook's, which holds the lease of a host."""
    os.kill(_worker(strike), signal.SIGKILL)


def kill_lab(strike: Strike) -> None:
    """Kill what holds the local lab's hosts, as if all of them had lost power at once."""
    assert isinstance(strike.ground, LocalLab)
    os.kill(strike.ground.holder, signal.SIGKILL)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop a process during the block; afterwards it goes on, if there still is one."""
    process = Process.running(pid)
    if process is None:
        raise Missed
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        process.end(signal.SIGCONT, 0)


def _given_up(strike: Strike) -> bool:
    """Whether no stage of the session runs any more."""
    return not any(strike.ground.pids("stage", host) for host in strike.ring)


def _worker(strike: Strike) -> int:
    """A worker of ansible-playbook's: it was forked, so it has the same command line."""
    main = strike.running.process.pid
    children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
    own = Path(f"/proc/{main}/cmdline").read_bytes()
    found = [int(pid) for pid in children if Path(f"/proc/{pid}/cmdline").read_bytes() == own]
    if not found:
        raise Missed
    return strike.drawn.choice(sorted(found))


SIGKILLED = r"killed by SIGKILL|closed its connection|broke|ended while the session was running"
"""What a stage that is killed, or its neighbour, is told to have died of."""

STALLED = (
    r"nothing came|took nothing|was not whole|no answer|could not reach|broke|closed its connection"
)
"""What is told of a link over which nothing crosses any more."""

LAPSED = (
    r"was last renewed .* ago|its lease has run out|ended by SIGTERM|ended by SIGINT"
    r"|records were cut short|no records"
)
"""What is told of a controller that is gone, until a later sweep has fetched what hosts wrote."""

KINDS = (
    Kind("kill-stage", "local", 40, killing("stage"), SIGKILLED),
    Kind("kill-supervisor", "local", 22, killing("supervisor"), r"its supervisor were killed"),
    Kind("kill-keeper", "shaped", 12, killing("keeper"), STALLED),
    Kind("kill-controller", "local", 6, kill_controller, LAPSED, ends_sweep=True),
    Kind("interrupt-controller", "local", 3, interrupt, LAPSED, ends_sweep=True),
    Kind("kill-worker", "local", 5, kill_worker, LAPSED, ends_sweep=True),
    Kind("kill-lab", "local", 3, kill_lab, r".", ends_sweep=True),
    Kind("hang-stage", "local", 4, hang, f"{STALLED}|killed by SIGKILL"),
    Kind("pause-stage", "local", 12, pause, r"(?!)"),
    Kind("stop-supervisor", "local", 8, stop_supervisor, r"(?!)"),
    Kind("stop-keeper", "shaped", 8, stop_keeper, STALLED),
    Kind("stop-controller", "local", 5, stop_controller, LAPSED),
    Kind("stop-worker", "local", 5, stop_worker, LAPSED),
)
