"""Classes of the root htb as ``tc`` takes and prints them, and the rate that htb alone keeps.

Pure. Each way has a class. If a netem inside it does the timing, the class must not delay anything,
so its rate is as good as unlimited. If there is no netem and a way asks for a rate alone, the class
keeps that rate.

A class sends a packet as soon as the packets before it have had their time on the wire, whereas a
wire delivers a packet only after its own time as well. So what is sent after a pause arrives early,
by the time of its last frame and by the burst. The burst is what a class may save up while its
timer is late: without a burst it loses 3 % of 20 Mbit/s and 11 % of 100 Mbit/s. Sources:
tc-htb(8), Linux's ``net/sched/sch_htb.c``, and iproute2's ``tc/q_htb.c`` for how it prints and
rounds.
"""

from __future__ import annotations

import re

from paretopipe_worker.link.conditions import Condition, Engine
from paretopipe_worker.shaping import netem

CERTIFIED_FROM_MBIT = 10.0
"""From this rate on, no certified transfer is early by more than the millisecond that it may be
(`analysis.measures.certificate`): 8 KiB at 10 Mbit/s were measured 0.8 ms early. At a lower rate a
frame takes too long."""

_BURST_US = {"htb": 100, "netem": 1000}
"""How late a class's timer may be before rate is lost; generous where the class does no timing."""

_QUEUE_PACKETS = 1000
_UNIT_KBIT = {"bit": 1e-3, "Kbit": 1, "Mbit": 1e3, "Gbit": 1e6, "Tbit": 1e9}
_UNIT_BYTES = {"b": 1, "Kb": 1 << 10, "Mb": 1 << 20}
_SHOWN = re.compile(
    r"class htb (\S+) .*?rate ([\d.]+)([KMGT]?bit) .*?burst ([\d.]+)([KM]?b)\b", re.ASCII
)

LEAF = f"pfifo limit {_QUEUE_PACKETS}"
"""The queue inside a class that keeps the rate itself. It can be short, because TCP holds back what
is large (``tcp_small_queues``: a packet that waits in a qdisc does not count as sent)."""


def certifiable(condition: Condition) -> bool:
    """Tell whether htb keeps the rate well enough for a session's certificate to hold."""
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
    """Return the line that `shown` returns for the class of that name, once it exists."""
    rate = _rate_kbit(engine, condition)
    if rate > 1_000_000:
        rate -= rate % 1000  # above a Gbit/s tc shows no kbit/s
    return _line(name, rate, _BURST_US[engine])


def shown(text: str) -> list[str]:
    """Turn what ``tc class show`` prints into lines of state.

    A line gives the burst as its duration at the class's rate. tc truncates that duration to
    microseconds, and prints it as a rounded number of bytes.
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
    """A burst in bytes, at least 1: for 0 tc would choose a burst of its own."""
    return max(1, rate_kbit * burst_us // 8000)


def _burst_us(rate_kbit: int, size: float) -> int:
    """The duration of a burst: one of `_BURST_US` if it differs from that by tc's rounding only."""
    for burst_us in _BURST_US.values():
        ours = _burst_bytes(rate_kbit, burst_us)
        if abs(size - ours) <= 16 + 0.02 * ours:
            return burst_us
    return round(size * 8000 / rate_kbit)


def _line(name: str, rate_kbit: int, burst_us: int) -> str:
    """A class as a line of state."""
    return f"class {name} rate {rate_kbit} kbit/s burst {burst_us} us"
