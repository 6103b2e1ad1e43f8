"""A condition as options of the netem qdisc, and what ``tc -j`` prints of them.

Pure. Sources: tc-netem(8), and iproute2's ``tc/q_netem.c`` for units and rounding.
"""

from __future__ import annotations

import math
from typing import Any

from paretopipe_worker.link.conditions import Condition

UNLIMITED_KBIT = 10_000_000
"""Rate of a netem where no rate was asked for."""

JITTER_REACH = 4
"""Standard deviations that netem's tables of distributions reach from the mean."""

_ETHERNET_HEADER = 14
_QUEUE_PACKETS = 1000
_UINT32_MAX = (1 << 32) - 1
_SHARES = ("loss-random", "loss-gemodel", "loss-state", "duplicate", "reorder", "corrupt")


def frame_bytes(mtu: int) -> int:
    """Return the size of a full Ethernet frame of an interface with this MTU, in bytes."""
    return mtu + _ETHERNET_HEADER


def rate_kbit(condition: Condition) -> int:
    """Return the rate in kbit/s, rounded so that tc prints it again without loss."""
    if condition.rate_mbit is None:
        return UNLIMITED_KBIT
    return max(1, round(condition.rate_mbit * 1000))


def asked(condition: Condition, frame: int) -> str:
    """Write a condition as netem takes it.

    The rate is always named: netem with a rate sends packets in the order of arrival, so jitter
    does not reorder them. Reordering has an option of its own.

    Parameters
    ----------
    frame
        Bytes of a full Ethernet frame. The queue must hold as many frames as are under way.
    """
    words = [f"netem limit {_limit(condition, frame)}"]
    if condition.delay_ms:
        words += [f"delay {_microseconds(condition.delay_ms)}us"]
    if condition.jitter_ms:
        words += [f"{_microseconds(condition.jitter_ms)}us"]
        if condition.distribution != "uniform":  # netem needs no table for that one
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
    """Return what ``tc -j`` prints of `asked`: seconds, shares of 1, bytes per second."""
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
    """Turn what ``tc -j`` prints of a netem into a text; netems with equal texts are equal.

    Times are rounded to what survives the kernel's ticks. The text does not say how jitter is
    distributed, because the kernel does not tell.
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
    """Round a time to 10 us: tc truncates times to 1 us, and prints six digits of them."""
    return max(10, round(milliseconds * 100) * 10) if milliseconds else 0


def _limit(condition: Condition, frame: int) -> int:
    """Packets that netem must hold: the full frames under way, and a queue of the usual length."""
    longest_ms = condition.delay_ms + JITTER_REACH * condition.jitter_ms
    return math.ceil(rate_kbit(condition) * longest_ms / 8 / frame) + _QUEUE_PACKETS


def _share(percent: float) -> float:
    """A percentage as tc prints it: the kernel keeps 32 bits, and tc shows six digits."""
    return float(f"{round(percent / 100 * _UINT32_MAX) / _UINT32_MAX:g}")
