"""Classes of the root htb as ``tc`` takes and prints them, and the rate that htb alone keeps.

Pure. Each way has a class. Where a netem inside does the timing, the class must not: it has no rate
to speak of. Where there is no netem, and a way asks for a rate alone, the class keeps that rate.

A class lets a packet go when those before it have had their time on the wire, where a wire would
have delivered it only after its own: what is sent after a pause is early by the time of its last
frame, and by the burst. The burst is what a class saves up while its timer is late; one that
nothing may be saved up in loses 3 % of 20 Mbit/s and 11 % of 100. Sources: tc-htb(8), Linux's
``net/sched/sch_htb.c``, and iproute2's ``tc/q_htb.c`` for what is printed, and how it is rounded.
"""

from __future__ import annotations

import re

from paretopipe_worker.link.conditions import Condition, Engine
from paretopipe_worker.shaping import netem

CERTIFIED_FROM_MBIT = 10.0
"""From this rate on no transfer that is certified is early by more than the millisecond that it may
be (`analysis.measures.certificate`): of 8 KiB at 10 Mbit/s, 0.8 ms were measured. Below, a frame
takes too long."""

_BURST_US = {"htb": 100, "netem": 1000}
"""How late a class's timer may be without loss of rate: where a class does no timing, as it likes.
"""
_QUEUE_PACKETS = 1000
_UNIT_KBIT = {"bit": 1e-3, "Kbit": 1, "Mbit": 1e3, "Gbit": 1e6, "Tbit": 1e9}
_UNIT_BYTES = {"b": 1, "Kb": 1 << 10, "Mb": 1 << 20}
_SHOWN = re.compile(
    r"class htb (\S+) .*?rate ([\d.]+)([KMGT]?bit) .*?burst ([\d.]+)([KM]?b)\b", re.ASCII
)

LEAF = f"pfifo limit {_QUEUE_PACKETS}"
"""The queue inside a class that keeps the rate itself: it is TCP that holds back what is large
(``tcp_small_queues``: what waits in a qdisc is not sent yet)."""


def certifiable(condition: Condition) -> bool:
    """Whether htb keeps a rate so well that a session's certificate can hold."""
    return condition.rate_mbit is None or condition.rate_mbit >= CERTIFIED_FROM_MBIT


def asked(engine: Engine, condition: Condition, frame: int) -> str:
    """Write the class of a way as htb takes it.

    Parameters
    ----------
    frame
        Bytes of a full Ethernet frame.
    """
    rate = _rate_kbit(engine, condition)
    burst = _burst_bytes(rate, _BURST_US[engine])
    return f"htb rate {rate}kbit ceil {rate}kbit burst {burst} cburst {burst} quantum {frame}"


def expected(name: str, engine: Engine, condition: Condition) -> str:
    """What `shown` returns of the class of that name, once it is there."""
    rate = _rate_kbit(engine, condition)
    if rate > 1_000_000:
        rate -= rate % 1000  # above a Gbit/s tc shows no kbit/s
    return _line(name, rate, _BURST_US[engine])


def shown(text: str) -> list[str]:
    """Classes as lines of state, from what ``tc class show`` prints.

    A burst is told by how long it takes at the rate, which tc cuts to microseconds, and prints in
    rounded bytes.
    """
    lines = []
    for name, rate, rate_unit, burst, burst_unit in _SHOWN.findall(text):
        rate_kbit = round(float(rate) * _UNIT_KBIT[rate_unit])
        size = float(burst) * _UNIT_BYTES[burst_unit]
        lines.append(_line(name, rate_kbit, _burst_us(rate_kbit, size)))
    return sorted(lines)


def _rate_kbit(engine: Engine, condition: Condition) -> int:
    """Rate of a way's class."""
    rate = netem.rate_kbit(condition)
    return rate if engine == "htb" else max(netem.UNLIMITED_KBIT, rate)


def _burst_bytes(rate_kbit: int, burst_us: int) -> int:
    """A burst in bytes; of none tc would make one of its own."""
    return max(1, rate_kbit * burst_us // 8000)


def _burst_us(rate_kbit: int, size: float) -> int:
    """A burst as the time it takes: one of ours, where it is that but for tc's rounding."""
    for burst_us in _BURST_US.values():
        ours = _burst_bytes(rate_kbit, burst_us)
        if abs(size - ours) <= 16 + 0.02 * ours:
            return burst_us
    return round(size * 8000 / rate_kbit)


def _line(name: str, rate_kbit: int, burst_us: int) -> str:
    """A class as a line of state."""
    return f"class {name} rate {rate_kbit} kbit/s burst {burst_us} us"
