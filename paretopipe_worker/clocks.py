"""What the clocks of the ranks have to do with one another, by exchanges on the control channel.

That channel is never shaped. Of many exchanges the fastest are kept: half of their time bounds the
error of the offset they show (Cristian, "Probabilistic clock synchronization", Distributed
Computing 3, 1989).
"""

from __future__ import annotations

import time
from typing import Any, Literal

from paretopipe_worker.control import Channel, ControlError
from paretopipe_worker.records import Clock

COMMAND = "clock"
EXCHANGES, KEPT = 100, 8

_PATIENCE_S = 10.0


def compare(when: Literal["before", "after"], rank: int, channel: Channel) -> Clock:
    """Compare this clock with that of another rank, as rank 0.

    Raises
    ------
    ControlError
        When the rank is lost, or answers with no time.
    """
    exchanges = []
    for _ in range(EXCHANGES):
        sent = time.perf_counter_ns()
        channel.send({"do": COMMAND})
        theirs = channel.receive(_PATIENCE_S).get("ns")
        received = time.perf_counter_ns()
        if type(theirs) is not int or not 0 <= theirs < 1 << 63:
            raise ControlError(f"{channel.peer}: sent {theirs!r} as the time of its clock")
        exchanges.append((sent, theirs, received))
    fastest = sorted(exchanges, key=lambda exchange: exchange[2] - exchange[0])[:KEPT]
    return Clock(when, rank, tuple(sorted(fastest)))


def answer(channel: Channel) -> None:
    """Tell rank 0 the time, as another rank."""
    message: dict[str, Any] = {"ns": time.perf_counter_ns()}
    channel.send(message)
