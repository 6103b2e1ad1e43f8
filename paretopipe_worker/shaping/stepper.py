"""The keeper's part in a trace: it takes the stages' commands and changes the link in time.

See `replay` for what stages see of it. What comes through the pipe is checked: whoever may write to
it can choose among the segments of the trace, and nothing else.
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
    """Keeps a link at the segment of its trace that is in force: the first, to begin with.

    Parameters
    ----------
    timetable
        Of the trace.
    change
        Puts a segment in force.
    state_dir
        Where its pipe and its file are made.
    user
        Number of the user whose stages may command it.
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
        # For writing as well: else the pipe ends whenever a stage closes it.
        self._pipe = os.open(pipe, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._words[POSITION] = position(0, 0)

    def fileno(self) -> int:
        """Descriptor that can be read when there is a command."""
        return self._pipe

    def wait_s(self, most_s: float) -> float:
        """How long until the next step, if no command comes: at most so long."""
        if math.isinf(self._begun_s):
            return most_s
        due_s = self._begun_s + self._timetable.due_s(self._step)
        return min(most_s, max(0.0, due_s - time.monotonic()))

    def advance(self) -> None:
        """Carry out the commands that came, and the step that is due.

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
            if self.wait_s(1.0) > 0:  # else it is over already: this process was late
                self._go_to(segment)

    def _obey(self, line: str) -> None:
        """Carry out one command; what is none is told in the log."""
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
        """Put a segment in force, if it is not."""
        self._changes += 1
        if segment != self._segment:
            # Whatever is on the way meanwhile belongs to neither.
            self._words[POSITION] = position(self._changes, NOWHERE)
            self._change(segment)
            self._segment = segment
            self._words[SINCE] = time.perf_counter_ns()
        self._words[POSITION] = position(self._changes, segment)
