"""Compare the clocks of the ranks by exchanges on the control channel, which is never shaped.

Of many exchanges the fastest are kept: half the time that an exchange took bounds the error of the
offset that it shows (Cristian, "Probabilistic clock synchronization", Distributed Computing 3,
1989).

The times of items come from ``CLOCK_MONOTONIC``, whose rate NTP adjusts. Each end therefore also
reads ``CLOCK_MONOTONIC_RAW``, which only its crystal drives: the two show by how much NTP slewed
the clock between two comparisons, however uncertain the exchanges are.
"""

from __future__ import annotations

import time
from typing import Any, Literal, TypeAlias

from paretopipe_worker.records.clocks import Clock, Exchange, Reading
from paretopipe_worker.session.control import Channel, ControlError

When: TypeAlias = Literal["before", "between", "after"]

COMMAND = "clock"
EXCHANGES: dict[When, int] = {"before": 100, "between": 20, "after": 100}
KEPT = 8

_PATIENCE_S = 10.0


def compare(when: When, rank: int, channel: Channel) -> Clock:
    """Compare this host's clocks with those of another rank, as rank 0.

    Raises
    ------
    ControlError
        When the rank is lost, or its answer holds no times.
    """
    exchanges = []
    for _ in range(EXCHANGES[when]):
        sent = read()
        channel.send({"do": COMMAND})
        answer = channel.receive(_PATIENCE_S)
        received = read()
        exchanges.append(Exchange(sent, _reading(answer, channel.peer), received))
    return Clock(when, rank, tuple(sorted(exchanges, key=_took_ns)[:KEPT]))


def answer(channel: Channel) -> None:
    """Answer rank 0, as another rank, with the time here."""
    message: dict[str, Any] = {"reading": read()}
    channel.send(message)


def read() -> Reading:
    """Read both clocks of this host: CLOCK_MONOTONIC before and after CLOCK_MONOTONIC_RAW."""
    before_ns = time.perf_counter_ns()
    raw_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
    return before_ns, raw_ns, time.perf_counter_ns()


def _took_ns(exchange: Exchange) -> int:
    """How long an exchange took, including the readings of the clocks."""
    return exchange.received[2] - exchange.sent[0]


def _reading(message: dict[str, Any], peer: str) -> Reading:
    """The times in an answer, checked because it comes from another host."""
    match message.get("reading"):
        case [int(before), int(raw), int(after)] if all(
            0 <= ns < 1 << 63 for ns in (before, raw, after)
        ):
            return before, raw, after
        case other:
            raise ControlError(
                f"{peer}: sent {other!r} as the times of its clocks; allowed: three counts of "
                "nanoseconds"
            )
