"""How a stage controls its host's trace, and sees which segment is in force.

The keeper of the link (`paretopipe_worker.shaping.stepper`) takes commands, a line each, from a
pipe in the state folder: ``hold SEGMENT NUMBER`` puts a segment in force until further notice, and
``run NUMBER`` replays the trace from its beginning. The keeper answers in a file of three 64-bit
numbers in this machine's byte order, each of which is whole at any time: the number of the last
command it carried out, the position in the trace, and since when the segment has been in force, on
``time.perf_counter_ns``. The last is written before the position.
"""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

PIPE, FILE = "trace.pipe", "trace.bin"
_BITS = 16
NOWHERE = (1 << _BITS) - 1
"""Segment of a position while the link changes from one segment to the next."""

WORDS = 3
NUMBER, POSITION, SINCE = range(WORDS)

_PATIENCE_S = 10.0
_POLL_S = 0.001


class ReplayError(RuntimeError):
    """The keeper does not do what a stage asked: which file, which command, and where to look."""


def position(changes: int, segment: int) -> int:
    """Make the number of a position: of the changes so far, and the segment in force.

    No position returns later in the same replay, since every change counts.
    """
    return changes << _BITS | segment


class Replay:
    """A host's trace, as its stage sees and controls it.

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
        """The position now. If it is the same later, one segment was in force meanwhile."""
        return self._words[POSITION]

    def segment(self, since: int, from_ns: int | None = None) -> int | None:
        """Return the segment that has been in force since a position was read.

        None if it changed meanwhile, or was not yet in force at `from_ns`.

        Parameters
        ----------
        since
            The position that was read.
        from_ns
            A time on ``time.perf_counter_ns``, before the position was read.
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
            # Opening does not wait for a reader: without one the keeper is gone.
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
                    f"{path}: the link's keeper did not carry out '{words}' within "
                    f"{_PATIENCE_S:g} s; see {self._directory / 'keeper.log'}"
                )
            time.sleep(_POLL_S)
