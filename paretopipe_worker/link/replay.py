"""Where a host's trace is, and the stages' say in it: the part that the stages see.

The keeper of the link (`stepper`) takes commands, a line each, from a pipe in the state folder:
``hold SEGMENT NUMBER`` puts a segment in force until further notice, ``run NUMBER`` replays the
trace from its beginning. It tells what it did in a file of three 64-bit numbers in this machine's
byte order, each whole at any time: the number of the last command it carried out, the position, and
since when, by ``time.perf_counter_ns``, which is written before the position.
"""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

PIPE, FILE = "trace.pipe", "trace.bin"
_BITS = 16
NOWHERE = (1 << _BITS) - 1
"""Segment of a position while the link is on its way from one segment to the next."""

WORDS = 3
NUMBER, POSITION, SINCE = range(WORDS)

_PATIENCE_S = 10.0
_POLL_S = 0.001


class ReplayError(RuntimeError):
    """A trace does not do what the stages asked: on which host's link, and where to look."""


def position(changes: int, segment: int) -> int:
    """Write a place in a trace as one number, which no other place on the way has."""
    return changes << _BITS | segment


class Replay:
    """A host's trace as its stage sees and leads it.

    Parameters
    ----------
    directory
        The folder that ``link apply`` keeps.

    Raises
    ------
    ReplayError
        When the link follows no trace.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        try:
            with (directory / FILE).open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 8 * WORDS, prot=mmap.PROT_READ)
        except OSError as error:
            raise ReplayError(
                f"{directory / FILE}: {error.strerror}; apply the link again"
            ) from error
        self._words = memoryview(self._map).cast("Q")

    @property
    def position(self) -> int:
        """Where it is now: equal before and after something, it was one segment meanwhile."""
        return self._words[POSITION]

    def segment(self, since: int, from_ns: int | None = None) -> int | None:
        """The segment in force since a position was read; None where it changed meanwhile.

        Parameters
        ----------
        from_ns
            When it must have been in force already, where that is before the position was read.
        """
        segment = since & NOWHERE
        same = segment != NOWHERE and self.position == since
        return segment if same and (from_ns is None or self._words[SINCE] <= from_ns) else None

    def hold(self, segment: int) -> None:
        """Put a segment in force, and wait until it is.

        Raises
        ------
        ReplayError
            When the keeper of the link does not do so.
        """
        self._command(f"hold {segment}")

    def run(self) -> None:
        """Replay the trace from its beginning, now.

        Raises
        ------
        ReplayError
            When the keeper of the link does not do so.
        """
        self._command("run")

    def _command(self, words: str) -> None:
        """Send a command and wait until it was carried out."""
        number, path = time.monotonic_ns(), self._directory / PIPE
        try:
            # Not to wait for a reader: where there is none the keeper is gone.
            pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                os.write(pipe, f"{words} {number}\n".encode())
            finally:
                os.close(pipe)
        except OSError as error:
            raise ReplayError(
                f"{path}: the link's keeper cannot be told '{words}': {error.strerror}"
            ) from error
        deadline = time.monotonic() + _PATIENCE_S
        while self._words[NUMBER] != number:
            if time.monotonic() > deadline:
                raise ReplayError(
                    f"{path}: the link's keeper did not '{words}' within {_PATIENCE_S:g} s; see "
                    f"{self._directory / 'keeper.log'}"
                )
            time.sleep(_POLL_S)
