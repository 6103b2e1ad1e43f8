"""Figures that two processes draw, one of them while the other still computes tables.

The work is a list of pages, which both processes make out of the same tables. Each takes the next
number from a pipe until it is empty, so neither waits for the other before the last page, and
nobody holds a lock when it is ended.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol, TypeAlias

Page: TypeAlias = Callable[[], list[Path]]
"""A piece of the work: it draws, and returns the files that it wrote."""
Pages: TypeAlias = Callable[..., Sequence[Page]]
"""Makes the pieces out of tables, in every process the same ones in the same order."""

_NUMBER = 4
"""Bytes of a page's number in the pipe. A read of so few takes a whole number or none. The
pipe holds 16,384 of them, far more pages than runs have."""
_ENDED = (EOFError, BrokenPipeError, ConnectionResetError)
"""What is raised where the other process reads and writes no more."""


class Drawing(Protocol):
    """Figures that are being drawn, see :func:`drawing`."""

    def begin(self, *given: Any) -> None:
        """Begin to draw what `given` shows; to be called once."""

    def files(self) -> list[Path]:
        """Draw what is left, and return the files of all pages, in their order.

        What a page raises is raised.
        """


@contextmanager
def drawing(pages: Pages, *, apart: bool) -> Iterator[Drawing]:
    """Draw figures, in a further process as well if they are many.

    That process is a new one, not a copy: it holds no more than it is given. It has ended when the
    block is left, whether by an error, by Ctrl-C or at its end, and ends with this process. Where
    it was ended from outside, as by a system that lacks memory, this process draws its pages, too.

    Parameters
    ----------
    pages
        A function that makes the work out of what :meth:`Drawing.begin` is given. Where a process
        is begun, it can be imported by its name, and what is given can be pickled.
    apart
        Whether a process is begun, which costs about two seconds of another core.
    """
    if not apart:
        yield _Here(pages)
        return
    # A fork would copy locks that threads of libraries may hold.
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    numbers, further = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_draw, args=(theirs, numbers, pages), daemon=True)
    with ours, numbers, further:
        with theirs:
            process.start()
        try:
            yield _Apart(pages, ours, numbers, further)
        finally:
            process.terminate()
            process.join()


class _Here:
    """Draws in this process, when the files are asked for."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._work: Sequence[Page] = ()

    def begin(self, *given: Any) -> None:
        self._work = self._pages(*given)

    def files(self) -> list[Path]:
        return [file for page in self._work for file in page()]


class _Apart:
    """Draws in the process that was begun, and in this one when the files are asked for."""

    def __init__(
        self, pages: Pages, other: Connection, numbers: Connection, further: Connection
    ) -> None:
        self._pages, self._other = pages, other
        self._numbers, self._further = numbers, further
        self._work: Sequence[Page] = ()

    def begin(self, *given: Any) -> None:
        with suppress(*_ENDED):
            self._other.send(given)
        self._work = self._pages(*given)
        for number in range(len(self._work)):
            os.write(self._further.fileno(), number.to_bytes(_NUMBER))
        self._further.close()

    def files(self) -> list[Path]:
        of_page = _drawn(self._work, self._numbers)
        theirs: dict[int, list[Path]] | Exception = {}
        with suppress(*_ENDED):
            theirs = self._other.recv()
        if isinstance(theirs, Exception):
            raise theirs
        of_page |= theirs
        for number, page in enumerate(self._work):
            if number not in of_page:
                of_page[number] = page()
        return [file for number in range(len(self._work)) for file in of_page[number]]


def _drawn(work: Sequence[Page], numbers: Connection) -> dict[int, list[Path]]:
    """Draw pages until no number is left; the files of each that was drawn here."""
    files = {}
    while taken := os.read(numbers.fileno(), _NUMBER):
        number = int.from_bytes(taken)
        files[number] = work[number]()
    return files


def _draw(other: Connection, numbers: Connection, pages: Pages) -> None:
    """Be the other process: draw, and send the files, or what was raised."""
    # Ctrl-C reaches both processes. The other one ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    given = other.recv()
    found: dict[int, list[Path]] | Exception
    try:
        found = _drawn(pages(*given), numbers)
    except Exception as error:
        error.add_note(f"In the process that draws:\n{traceback.format_exc()}")
        found = error
    other.send(found)


def _end_with_parent() -> None:
    """Wait until the process that began this one has ended, and end, too."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
