"""Code that people wrote: what it raises in one line, what it says apart from what we say."""

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
"""What code of others may raise: a script that is imported as a module may want to exit."""

_MOST = 300
_OURS = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]), "<")


def told(error: BaseException) -> str:
    """Tell an exception in one line of bounded length.

    It has the type, the first line of the message and, in brackets, the innermost line of code
    that is neither torch's nor this package's, where there is one.
    """
    first, *_ = str(error).strip().splitlines() or [""]
    where = place(traceback.extract_tb(error.__traceback__))
    text = f"{type(error).__name__}: {shortened(first)}".removesuffix(": ")
    return f"{text} ({where})" if where else text


def shortened(text: str) -> str:
    """The text, or the beginning of a long one."""
    return text if len(text) <= _MOST else f"{text[: _MOST - 3]}..."


def place(frames: Iterable[traceback.FrameSummary]) -> str | None:
    """File and line of the innermost frame in code that people wrote."""
    theirs = [frame for frame in frames if not frame.filename.startswith(_OURS)]
    return f"{theirs[-1].filename}:{theirs[-1].lineno}" if theirs else None


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """Keep what code of others says out of our output.

    What it prints goes to standard error, and its warnings and logs, those of libraries among them,
    nowhere: torch logs a traceback where a shape does not fit, which we tell in a line.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        logging.disable(disabled)
