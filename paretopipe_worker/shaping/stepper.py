"""The keeper's part in a trace: it takes commands from the stages and changes the link on time.

See `paretopipe_worker.link.replay` for the stages' part. Every command is checked, so that whoever
may write to the pipe can choose among the segments of the trace and do nothing else.
"""

from __future__ import annotations

import math
import mmap
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from paretopipe_worker.link.replay import (
    FILE,
    NOWHERE,
    NUMBER,
    PIPE,
    POSITION,
    SINCE,
    WORDS,
    position,
)
from paretopipe_worker.link.traces import Timetable

_COMMAND = re.compile(r"(?:hold (?P<segment>\d{1,5})|run) (?P<number>\d{1,19})")
_MOST_BYTES = 4096


class Stepper:
    """Puts the segments of a link's trace in force, beginning with the first.

    Parameters
    ----------
    timetable
        When each segment begins.
    change
        Puts a segment, given by its number, in force.
    state_dir
        Folder in which the pipe and the file of `replay` are made.
    user
        Id of the user whose stages may command it.
    """

    def __init__(
        self, timetable: Timetable, change: Callable[[int], None], state_dir: Path, user: int
    ) -> None:
        self._timetable = timetable
        self._change = change
        self._segment = self._changes = self._step = 0
        self._begun_s = math.inf
        path = state_dir / FILE
        path.unlink(missing_ok=True)
        path.write_bytes(bytes(8 * WORDS))
        path.chmod(0o644)
        with path.open("r+b") as file:
            self._words = memoryview(mmap.mmap(file.fileno(), 8 * WORDS)).cast("Q")
        pipe = state_dir / PIPE
        pipe.unlink(missing_ok=True)
        os.mkfifo(pipe, 0o600)
        os.chown(pipe, user, -1)
        # Opened for writing as well, since the pipe would else end whenever a stage closes it.
        self._pipe = os.open(pipe, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._words[POSITION] = position(0, 0)

    def fileno(self) -> int:
        """Return the file descriptor that can be read when there is a command."""
        return self._pipe

    def wait_s(self, most_s: float) -> float:
        """Return the seconds until the next step is due, at most `most_s`."""
        if math.isinf(self._begun_s):
            return most_s
        due_s = self._begun_s + self._timetable.due_s(self._step)
        return min(most_s, max(0.0, due_s - time.monotonic()))

    def advance(self) -> None:
        """Carry out the commands that have come, and the step that is due.

        Raises
        ------
        ShapingError
            When the link cannot be changed.
        """
        try:
            text = os.read(self._pipe, _MOST_BYTES).decode("ascii", errors="replace")
        except BlockingIOError:
            text = ""
        for line in text.splitlines():
            self._obey(line)
        while not math.isinf(self._begun_s) and self.wait_s(1.0) == 0:
            segment = self._timetable.segment(self._step)
            self._step += 1
            if self.wait_s(1.0) > 0:  # else this process was late, and the segment is over
                self._go_to(segment)

    def _obey(self, line: str) -> None:
        """Carry out one command; a line that is no command goes to the log."""
        found = _COMMAND.fullmatch(line)
        segment = int(found["segment"] or 0) if found else 0
        if found is None or segment >= len(self._timetable.starts_s):
            print(f"trace: no command: {line[:60]!r}", flush=True)
            return
        self._begun_s = math.inf
        self._go_to(segment)
        if found["segment"] is None:
            self._begun_s, self._step = time.monotonic(), 1
        self._words[NUMBER] = int(found["number"])

    def _go_to(self, segment: int) -> None:
        """Put a segment in force, unless it already is."""
        self._changes += 1
        if segment != self._segment:
            # What is under way meanwhile belongs to neither segment.
            self._words[POSITION] = position(self._changes, NOWHERE)
            self._change(segment)
            self._segment = segment
            self._words[SINCE] = time.perf_counter_ns()
        self._words[POSITION] = position(self._changes, segment)
