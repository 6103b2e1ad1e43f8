"""Users' code: its errors told in one line, and its output kept apart from ours."""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

RAISED = (Exception, SystemExit)
"""What users' code may raise: a script that is imported as a module may try to exit."""

_MOST = 300
_OURS = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]), "<")


def told(error: BaseException) -> str:
    """Describe an exception in one line of bounded length.

    The line has the type, the first line of the message and, in brackets, file and line of the
    innermost frame that is neither torch's nor this package's, where there is one.
    """
    first, *_ = str(error).strip().splitlines() or [""]
    where = place(traceback.extract_tb(error.__traceback__))
    text = f"{type(error).__name__}: {shortened(first)}".removesuffix(": ")
    return f"{text} ({where})" if where else text


def shortened(text: str) -> str:
    """The text, or the beginning of a text that is too long."""
    return text if len(text) <= _MOST else f"{text[: _MOST - 3]}..."


def place(frames: Iterable[traceback.FrameSummary]) -> str | None:
    """File and line of the innermost frame in users' code, None where there is none."""
    frame = innermost(frames)
    return f"{frame.filename}:{frame.lineno}" if frame else None


def innermost(frames: Iterable[traceback.FrameSummary]) -> traceback.FrameSummary | None:
    """The innermost frame in users' code, None where there is none."""
    theirs = [frame for frame in frames if not frame.filename.startswith(_OURS)]
    return theirs[-1] if theirs else None


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """Keep the output of users' code out of ours.

    What the code prints goes to standard error. Warnings and logs, also those of libraries, are
    dropped: torch logs a traceback where a shape does not fit, which we report in one line.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        logging.disable(disabled)
