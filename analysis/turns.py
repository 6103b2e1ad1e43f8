"""Which sessions ran at the same time, by the clock of the controller."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from analysis.run import RunError
from paretopipe_worker import bounded

FILE = "sessions.jsonl"
"""File of a run in which ``ansible-playbook`` writes a line for each session that has ended."""

Attempt: TypeAlias = tuple[str, int]
"""A session and the number of an attempt at it."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Turn:
    """When the sessions of all lanes of a launch began, and when their last host had ended them."""

    sessions: tuple[str, ...]
    attempt: int
    began_unix_ns: int
    ended_unix_ns: int

    def overlaps(self, other: Turn) -> bool:
        """Whether there was a moment at which both ran."""
        begins_before = self.began_unix_ns < other.ended_unix_ns
        return begins_before and other.began_unix_ns < self.ended_unix_ns


_ADAPTER = TypeAdapter(Turn)
_MOST_BYTES = 64 * bounded.MEGABYTE


def turns(run: Path) -> list[Turn]:
    """The turns of a run, in the order in which they ended.

    Attempts that were interrupted are missing, and so are all of runs from before there was such a
    file.

    Raises
    ------
    RunError
        When a line is damaged, naming it. The last one may have been cut short.
    """
    path = run / FILE
    try:
        lines = bounded.text(path, _MOST_BYTES).split("\n") if path.exists() else [""]
    except (OSError, bounded.UnreadableFile) as error:
        raise RunError(f"{path}: {error}") from error
    found = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            found.append(_ADAPTER.validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise RunError(f"{path}, line {number}: {where}: {first['msg']}") from error
    return found


def hours(run: Path) -> float:
    """Hours in which sessions of a run ran; those that ran side by side count once."""
    taken_ns, until_ns = 0, 0
    for turn in sorted(turns(run), key=lambda turn: turn.began_unix_ns):
        taken_ns += max(0, turn.ended_unix_ns - max(turn.began_unix_ns, until_ns))
        until_ns = max(until_ns, turn.ended_unix_ns)
    return taken_ns / 3.6e12


def beside(run: Path) -> dict[Attempt, list[str]]:
    """The attempts that ran at the same time as each attempt, without the other lanes of its own.

    Attempts are named ``SESSION.ATTEMPT``.

    Raises
    ------
    RunError
        As of :func:`turns`.
    """
    found = turns(run)
    return {
        (session, turn.attempt): [
            f"{name}.{other.attempt}"
            for other in found
            if other is not turn and turn.overlaps(other)
            for name in other.sessions
        ]
        for turn in found
        for session in turn.sessions
    }
