"""What a stage reads of its host's link: who shapes it, how TCP is set, what a relay counts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from paretopipe_worker.link.conditions import Engine
from paretopipe_worker.link.counters import RelayCounters
from paretopipe_worker.link.replay import Replay, ReplayError

SYSCTL = Path("/proc/sys/net/ipv4")
"""Where the kernel shows TCP's settings of this network namespace."""

TCP_NAMES = (
    "tcp_congestion_control",
    "tcp_slow_start_after_idle",
    "tcp_no_metrics_save",
    "tcp_wmem",
    "tcp_rmem",
)
"""TCP's settings that are part of a link's condition."""


class LinkStateError(ValueError):
    """The files that describe a shaped link cannot be used: which file, and why."""


@dataclass(frozen=True)
class LinkState:
    """The link as ``link apply`` left it on this host.

    Parameters
    ----------
    engine
        Who shapes what this host sends.
    tcp
        TCP's settings in force, by their names below ``net.ipv4``.
    counters
        File of the relay's counters, which exists only if a relay shapes.
    replay
        The trace that the link follows; None if it follows none.
    """

    engine: Engine
    tcp: dict[str, Any]
    counters: Path | None = None
    replay: Replay | None = None

    def relayed(self) -> RelayCounters | None:
        """Read what the relay has counted so far; None without a relay."""
        return RelayCounters.read(self.counters) if self.counters else None


def read(directory: Path | None) -> LinkState:
    """Read the folder that ``link apply`` keeps; without it, or a link in it, nobody shapes.

    Raises
    ------
    LinkStateError
        When the folder has a link but does not say how it is shaped: a result must not be labelled
        by a guess.
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
    """TCP's settings of this network namespace, without those that the kernel lacks."""
    files = [SYSCTL / name for name in TCP_NAMES]
    return {file.name: file.read_text().strip() for file in files if file.exists()}
