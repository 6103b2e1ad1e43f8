"""A condition as options of the netem qdisc, and what ``tc -j`` prints of them.

Pure. Sources: tc-netem(8), and iproute2's ``tc/q_netem.c`` for units and rounding.
"""

from __future__ import annotations

import math
from typing import Any

from paretopipe_worker.link.conditions import Condition

UNLIMITED_KBIT = 10_000_000
"""Rate of a netem that is to have none."""

_QUEUE_PACKETS = 1000
JITTER_REACH = 4
"""Standard deviations that netem's tables of distributions reach from the mean."""
_UINT32_MAX = (1 << 32) - 1
_SHARES = ("loss-random", "loss-gemodel", "loss-state", "duplicate", "reorder", "corrupt")


def rate_kbit(condition: Condition) -> int:
    """The rate as tc can show it again without loss."""
    if condition.rate_mbit is None:
        return UNLIMITED_KBIT
    return max(1, round(condition.rate_mbit * 1000))


def asked(condition: Condition, frame: int) -> str:
    """Write a condition as netem takes it.

    It always has a rate: with one, netem sends in the order of arrival, so that jitter does not
    reorder. What it is to reorder is asked for apart.

    Parameters
    ----------
    frame
        Bytes of a full Ethernet frame, of which `limit` must hold as many as are under way.
    """
    words = [f"netem limit {_limit(condition, frame)}"]
    if condition.delay_ms:
        words += [f"delay {_microseconds(condition.delay_ms)}us"]
    if condition.jitter_ms:
        words += [f"{_microseconds(condition.jitter_ms)}us"]
        if condition.distribution != "uniform":  # which netem has without a table
            words += [f"distribution {condition.distribution}"]
    if condition.loss_percent:
        words += [f"loss random {condition.loss_percent:.10g}%"]
    if condition.burst_loss_percent:
        enter, leave = condition.burst_loss_percent, condition.burst_recovery_percent
        words += [f"loss gemodel {enter:.10g}% {leave:.10g}% 100% 0%"]
    if condition.duplicate_percent:
        words += [f"duplicate {condition.duplicate_percent:.10g}%"]
    if condition.reorder_percent:
        words += [f"reorder {condition.reorder_percent:.10g}%"]
    return " ".join([*words, f"rate {rate_kbit(condition)}kbit"])


def printed(condition: Condition, frame: int) -> dict[str, Any]:
    """What ``tc -j`` prints of `asked`: seconds, shares of 1, bytes per second."""
    bursts = {
        "p": _share(condition.burst_loss_percent),
        "r": _share(condition.burst_recovery_percent),
        "1-h": 1.0,
        "1-k": 0.0,
    }
    return {
        "limit": _limit(condition, frame),
        "delay": {
            "delay": _microseconds(condition.delay_ms) / 1e6,
            "jitter": _microseconds(condition.jitter_ms) / 1e6,
        },
        "loss-random": {"loss": _share(condition.loss_percent)},
        "loss-gemodel": bursts if condition.burst_loss_percent else {},
        "duplicate": {"duplicate": _share(condition.duplicate_percent)},
        "reorder": {"reorder": _share(condition.reorder_percent)},
        "rate": {"rate": rate_kbit(condition) * 125},
    }


def described(options: dict[str, Any]) -> str:
    """What ``tc -j`` prints of a qdisc as a text: equal texts, equal netems.

    Times are rounded to what survives the kernel's ticks. How jitter is distributed is not in it:
    the kernel does not tell.
    """
    words = [f"limit {options.get('limit')}"]
    times = options.get("delay", {"delay": 0, "jitter": 0})
    words += [f"{name} {times[name] * 1e3:.2f}ms" for name in ("delay", "jitter") if times[name]]
    for key in _SHARES:
        shares = {name: share for name, share in options.get(key, {}).items() if share}
        words += [f"{key} {name} {share * 100:.5g}%" for name, share in shares.items()]
    if rate := options.get("rate"):
        words += [f"rate {round(rate['rate'] / 125)}kbit"]
    if slot := options.get("slot"):
        words += [f"slot {slot}"]
    return " ".join(words)


def _microseconds(milliseconds: float) -> int:
    """A time in tens of microseconds: tc cuts times off at one, and prints six digits of them."""
    return max(10, round(milliseconds * 100) * 10) if milliseconds else 0


def _limit(condition: Condition, frame: int) -> int:
    """Packets netem must hold: what is under way, as whole frames, and a queue like any other."""
    longest_ms = condition.delay_ms + JITTER_REACH * condition.jitter_ms
    return math.ceil(rate_kbit(condition) * longest_ms / 8 / frame) + _QUEUE_PACKETS


def _share(percent: float) -> float:
    """A percentage as tc prints it: kept in 32 bits, six digits shown."""
    return float(f"{round(percent / 100 * _UINT32_MAX) / _UINT32_MAX:g}")
