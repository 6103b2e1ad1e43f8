"""Measure what the hosts of a session use at rest, before its first point."""

from __future__ import annotations

from collections.abc import Sequence

from paretopipe_worker.host.energy import at_rest
from paretopipe_worker.records.energy import Rest
from paretopipe_worker.session.context import Context
from paretopipe_worker.session.control import Channel, ControlError

COMMAND = "rest"

_PATIENCE_S = 60.0


def rest(context: Context, channels: Sequence[Channel]) -> None:
    """Have all ranks rest at the same time, as rank 0, and wait until all have measured that.

    Raises
    ------
    ControlError
        When a rank is lost, or answers something else.
    """
    for channel in channels:
        channel.send({"do": COMMAND})
    context.writer.write(Rest(at_rest()))
    for channel in channels:
        answer = channel.receive(_PATIENCE_S)
        if answer.get("rested") is not True:
            raise ControlError(f"{channel.peer}: sent {answer} where 'rested' was expected")


def answer(context: Context, channel: Channel) -> None:
    """Rest, as another rank, and record what the host used meanwhile."""
    with context.shares.kind("rest"):
        context.writer.write(Rest(at_rest()))
    channel.send({"rested": True})
