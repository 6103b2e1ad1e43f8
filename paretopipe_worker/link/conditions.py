"""Network conditions: what happens to the packets that go one way between two stages.

This module is used where a spec is read and on the hosts that shape, so it needs only the standard
library.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from paretopipe_worker.usertext import shown

Distribution = Literal["uniform", "normal", "pareto", "paretonormal"]
"""How jitter is distributed about the delay, in netem's words (tc-netem(8))."""

Engine = Literal["none", "netem", "htb", "relay"]
"""Who applies a profile on a host: nobody, the kernel's netem or htb, or the userspace relay."""

_MAX_DELAY_MS = 10_000.0
_MAX_JITTER_MS = 2_000.0  # netem itself takes at most 2147 ms
_MAX_RATE_MBIT = 100_000.0
_MIN_RATE_MBIT = 0.001


@dataclass(frozen=True)
class Condition:
    """What happens to the packets that one host sends to one other.

    Parameters
    ----------
    delay_ms
        One-way delay added to each packet.
    jitter_ms
        Spread of that delay: its standard deviation if normal, half its width if uniform. For the
        other distributions, netem's tables make the standard deviation about 0.83 of it.
    loss_percent
        Share of packets dropped, each independently of the others.
    burst_loss_percent, burst_recovery_percent
        Gilbert's model of losses in bursts (netem's ``loss gemodel p r``): the probability per
        packet of entering the state in which all packets are lost, and of leaving it.
    rate_mbit
        Rate on the wire, Ethernet headers included; None for no limit.
    reorder_percent
        Share of packets that overtake others: they are sent at once, without the delay.
    duplicate_percent
        Share of packets sent twice.

    Raises
    ------
    ValueError
        When a value is impossible: which value, what is allowed, and what was given.
    """

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    distribution: Distribution = "normal"
    loss_percent: float = 0.0
    burst_loss_percent: float = 0.0
    burst_recovery_percent: float = 0.0
    rate_mbit: float | None = None
    reorder_percent: float = 0.0
    duplicate_percent: float = 0.0

    def __post_init__(self) -> None:
        """Refuse conditions that no link has."""
        _within("delay_ms", self.delay_ms, 0, _MAX_DELAY_MS)
        most = min(self.delay_ms, _MAX_JITTER_MS)
        if not _number(self.jitter_ms) or not 0 <= self.jitter_ms <= most:
            raise ValueError(
                f"jitter_ms: a number from 0 to delay_ms ({self.delay_ms:g}), at most "
                f"{_MAX_JITTER_MS:g}; got {shown(self.jitter_ms)}"
            )
        if self.distribution not in get_args(Distribution):
            allowed = ", ".join(get_args(Distribution))
            raise ValueError(f"distribution: one of {allowed}; got {shown(self.distribution)}")
        for name in (
            "loss_percent",
            "burst_loss_percent",
            "burst_recovery_percent",
            "reorder_percent",
            "duplicate_percent",
        ):
            _within(name, getattr(self, name), 0, 100)
        if self.rate_mbit is not None:
            _within("rate_mbit", self.rate_mbit, _MIN_RATE_MBIT, _MAX_RATE_MBIT)
        if (self.burst_loss_percent > 0) != (self.burst_recovery_percent > 0):
            raise ValueError(
                "burst_loss_percent and burst_recovery_percent: both above 0, or neither"
            )
        if self.burst_loss_percent and self.loss_percent:
            raise ValueError("loss_percent and burst_loss_percent exclude each other")
        if self.reorder_percent and not self.delay_ms:
            raise ValueError("reorder_percent needs delay_ms: a packet overtakes delayed ones")

    @classmethod
    def parse(cls, value: Any) -> Condition:
        """Make a condition of a mapping from outside, such as parsed JSON.

        Raises
        ------
        ValueError
            When it is no mapping, has an unknown key, or has an impossible value.
        """
        allowed = [field.name for field in fields(cls)]
        if not isinstance(value, dict):
            raise ValueError(
                f"a condition is a mapping of {', '.join(allowed)}; got {shown(value)}"
            )
        if unknown := [key for key in value if key not in allowed]:
            raise ValueError(f"{str(unknown[0])[:60]}: unknown key; allowed: {', '.join(allowed)}")
        return cls(**value)

    @property
    def said(self) -> dict[str, Any]:
        """The mapping from which `parse` makes this condition; defaults are left out."""
        each = ((field.name, getattr(self, field.name), field.default) for field in fields(self))
        return {name: value for name, value, usual in each if value != usual}

    @property
    def shaped(self) -> bool:
        """Whether it changes anything."""
        return self != Condition(distribution=self.distribution)

    @property
    def only_rate(self) -> bool:
        """Whether it asks for a rate and nothing else, or for nothing at all."""
        return self == Condition(distribution=self.distribution, rate_mbit=self.rate_mbit)

    @property
    def lossy(self) -> bool:
        """Whether it drops packets."""
        return self.loss_percent > 0 or self.burst_loss_percent > 0

    @property
    def outage(self) -> bool:
        """Whether nothing passes."""
        return self.mean_loss >= 1

    @property
    def erratic(self) -> bool:
        """Whether packets fare differently by chance, so that TCP's times say little about it."""
        return self.lossy or bool(self.jitter_ms or self.reorder_percent or self.duplicate_percent)

    @property
    def mean_loss(self) -> float:
        """Share of packets lost in the long run, 0 to 1."""
        if self.burst_loss_percent:
            enter, leave = self.burst_loss_percent, self.burst_recovery_percent
            return enter / (enter + leave)
        return self.loss_percent / 100


@dataclass(frozen=True)
class Way:
    """The condition of the packets that one host sends to one peer.

    Parameters
    ----------
    peer
        Data address of the peer.
    condition
        The condition; the first, if the link follows a trace.
    trace
        The condition in each segment, if the link follows a trace; else empty.
    """

    peer: str
    condition: Condition
    trace: tuple[Condition, ...] = ()


@dataclass(frozen=True)
class TcpSettings:
    """How TCP behaves during a session: part of the condition, since the kernels' defaults differ.

    Parameters
    ----------
    congestion_control
        The kernel's name of the algorithm; cubic is the default of most kernels.
    slow_start_after_idle
        Whether TCP forgets the path's rate while a stage computes. The kernel's default is yes;
        400 KB over 100 ms and 20 Mbit/s then take up to three times as long.
    max_buffer_bytes
        Upper bound of each socket's send buffer and of its receive buffer; None keeps the host's.

    Raises
    ------
    ValueError
        When a value is impossible: which value, what is allowed, and what was given.
    """

    congestion_control: str = "cubic"
    slow_start_after_idle: bool = False
    max_buffer_bytes: int | None = None

    def __post_init__(self) -> None:
        """Refuse settings that no kernel takes."""
        name = self.congestion_control
        if not isinstance(name, str) or not name.replace("_", "").isalnum() or len(name) > 15:
            raise ValueError(
                f"congestion_control: a kernel's name such as cubic; got {shown(name)}"
            )
        if not isinstance(self.slow_start_after_idle, bool):
            raise ValueError(
                f"slow_start_after_idle: true or false; got {shown(self.slow_start_after_idle)}"
            )
        size = self.max_buffer_bytes
        if size is not None and (type(size) is not int or not 4096 <= size <= 1 << 30):
            raise ValueError(
                f"max_buffer_bytes: a whole number from 4096 to 2**30; got {shown(size)}"
            )


def _within(name: str, value: object, low: float, high: float) -> None:
    """Refuse a value that is no number in a range."""
    if not _number(value) or not low <= value <= high:  # type: ignore[operator]
        raise ValueError(f"{name}: a number from {low:g} to {high:g}; got {shown(value)}")


def _number(value: object) -> bool:
    """Tell a finite number from everything else JSON or YAML may bring."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
