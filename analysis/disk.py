"""Commands say in one line what they could not read or write, and why."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import TypeAlias

Command: TypeAlias = Callable[..., int]
"""A command's function: it takes the arguments and returns the exit status."""


def saying_why(main: Command) -> Command:
    """Have a command end with one line and status 2 where a disk is full, read-only or forbidden.

    Whoever reads its output and goes away is another matter: that is left to the interpreter.
    """

    @functools.wraps(main)
    def telling(arguments: list[str] | None = None) -> int:
        try:
            return main(arguments)
        except ConnectionError:
            raise
        except OSError as error:
            # A disk that fills up while a file is written does not say which file.
            what = f"{error.filename}: " if error.filename else "a file could not be written: "
            print(f"error: {what}{error.strerror or error}", file=sys.stderr)
            return 2

    return telling
