"""Hold one segment of the link's trace in force on all hosts of a session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paretopipe_worker.link.replay import ReplayError
from paretopipe_worker.link.state import LinkState
from paretopipe_worker.session.control import Channel, ControlError

COMMAND = "hold"

_PATIENCE_S = 30.0


def hold(segment: int, link: LinkState, channels: Sequence[Channel]) -> None:
    """Put a segment in force on all hosts, as rank 0, and wait until it is.

    Raises
    ------
    ControlError, ReplayError
        When a rank is lost, or a host's link does not take the segment.
    """
    for channel in channels:
        channel.send({"do": COMMAND, "segment": segment})
    _obey(segment, link)
    for channel in channels:
        answer = channel.receive(_PATIENCE_S)
        if answer.get("held") != segment:
            raise ControlError(f"{channel.peer}: {answer.get('failed') or answer}")


def answer(command: dict[str, Any], link: LinkState, channel: Channel) -> None:
    """Put the segment in force that rank 0 names, as another rank.

    Raises
    ------
    ControlError, ReplayError
        When rank 0 names no segment, or this host's link does not take it.
    """
    segment = command.get("segment")
    if type(segment) is not int or segment < 0:
        raise ControlError(f"{channel.peer}: sent {segment!r} as a segment; allowed: 0 or more")
    try:
        _obey(segment, link)
    except ReplayError as error:
        channel.send({"failed": str(error)})
        raise
    channel.send({"held": segment})


def _obey(segment: int, link: LinkState) -> None:
    """Put a segment in force on this host."""
    if link.replay is None:
        raise ReplayError("the link was not applied to this host with its trace")
    link.replay.hold(segment)
