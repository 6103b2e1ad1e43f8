"""Figures that are drawn while the tables that need no figure are computed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

Draw: TypeAlias = Callable[..., list[Path]]


@contextmanager
def drawing(draw: Draw, *given: Any, apart: bool) -> Iterator[Callable[[], list[Path]]]:
    """Draw figures, in a process of its own if they are many.

    That process is a new one, not a copy: it holds no more than it is given. It has ended when the
    block is left, whether by an error, by Ctrl-C or at its end, and ends with this process.

    Parameters
    ----------
    draw
        A function that draws figures and returns the files. Where it is drawn `apart`, it can be
        imported by its name.
    given
        Its arguments; where it is drawn `apart`, they can be pickled.
    apart
        Whether a process is begun, which costs about two seconds of another core.

    Yields
    ------
    A function that returns the files when they are written. It raises what `draw` raised, and a
    RuntimeError where the process was ended from outside.
    """
    if not apart:
        yield lambda: draw(*given)
        return
    # A fork would copy locks that threads of libraries may hold.
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_draw, args=(theirs, draw, given), daemon=True)

    def files() -> list[Path]:
        try:
            found = ours.recv()
        except EOFError:
            process.join()
            status = process.exitcode
            raise RuntimeError(f"the process that draws ended with status {status}") from None
        if isinstance(found, Exception):
            raise found
        written: list[Path] = found
        return written

    with ours:
        with theirs:
            process.start()
        try:
            yield files
        finally:
            process.terminate()
            process.join()


def _draw(answers: Connection, draw: Draw, given: tuple[Any, ...]) -> None:
    """Be that process: draw, and send the files, or what was raised."""
    # Ctrl-C reaches both processes. The other one ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    found: list[Path] | Exception
    try:
        found = draw(*given)
    except Exception as error:
        error.add_note(f"In the process that draws:\n{traceback.format_exc()}")
        found = error
    answers.send(found)


def _end_with_parent() -> None:
    """Wait until the process that began this one has ended, and end, too."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
