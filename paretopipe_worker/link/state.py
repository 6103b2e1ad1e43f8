"""Who shapes this host's link during a session, how TCP is set, and what a relay counts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from paretopipe_worker.link.conditions import Engine
from paretopipe_worker.link.counters import RelayCounters
from paretopipe_worker.link.replay import Replay, ReplayError

_SYSCTL = Path("/proc/sys/net/ipv4")
_TCP = (
    "tcp_congestion_control",
    "tcp_slow_start_after_idle",
    "tcp_no_metrics_save",
    "tcp_wmem",
    "tcp_rmem",
)


class LinkStateError(ValueError):
    """What shaping left for the stages cannot be used: which file, and why."""


@dataclass(frozen=True)
class LinkState:
    """The link as ``link apply`` left it on this host.

    Parameters
    ----------
    engine
        Who shapes what this host sends.
    tcp
        Settings of TCP in force.
    counters
        File of the relay's counters; there is none without a relay.
    replay
        The trace that the link follows, if it does.
    """

    engine: Engine
    tcp: dict[str, Any]
    counters: Path | None = None
    replay: Replay | None = None

    def relayed(self) -> RelayCounters | None:
        """What the relay has counted so far; None without one."""
        return RelayCounters.read(self.counters) if self.counters else None


def read(directory: Path | None) -> LinkState:
    """Read the folder that ``link apply`` keeps; without one, or an applied link, nobody shapes.

    Raises
    ------
    LinkStateError
        When there is a link but not what it is: a result must not be labelled by a guess.
    """
    file = directory / "link.json" if directory else None
    if directory is None or file is None or not file.exists():
        return LinkState("none", _kernels())
    try:
        document = json.loads(file.read_text())
        engine, tcp, traced = document["engine"], document["tcp"], document.get("timetable")
        if engine not in get_args(Engine) or not isinstance(tcp, dict):
            raise ValueError(f"engine {engine!r} with tcp {tcp!r}")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise LinkStateError(
            f"{file}: does not say how the link is shaped ({error}); apply the link again"
        ) from error
    try:
        replay = Replay(directory) if traced else None
    except ReplayError as error:
        raise LinkStateError(str(error)) from error
    return LinkState(engine, tcp or _kernels(), directory / "relay.bin", replay)


def _kernels() -> dict[str, Any]:
    """TCP's settings of this network namespace; those that the kernel lacks are left out."""
    files = [_SYSCTL / name for name in _TCP]
    return {file.name: file.read_text().strip() for file in files if file.exists()}
