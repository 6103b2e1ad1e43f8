"""Figures that are drawn in a process of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.figures.drawing import drawing
from tests import ROOT

_PARENT = """
import signal
import sys
from pathlib import Path
from analysis.figures.drawing import drawing
from tests.analysis.test_drawing import never
# Whoever runs the tests may ignore it, as a shell has its jobs in the background do.
signal.signal(signal.SIGINT, signal.default_int_handler)
with drawing(never, Path(sys.argv[1]), apart=True) as files:
    files()
"""


def told_pid(folder: Path) -> list[Path]:
    """Return a file with the name of this process."""
    return [folder / str(os.getpid())]


def refuse(why: str) -> list[Path]:
    """Fail as a figure could."""
    raise ValueError(why)


def end(status: int) -> list[Path]:
    """End as a process does that was ended from outside."""
    os._exit(status)


def never(fifo: Path) -> list[Path]:
    """Say by a FIFO that drawing has begun, and never end it; the FIFO is closed by the end."""
    with fifo.open("w") as opened:
        print(os.getpid(), file=opened, flush=True)
        signal.pause()
    return []


@pytest.mark.parametrize("apart", [False, True])
def test_files_come_back_from_the_process_that_draws(apart: bool, tmp_path: Path) -> None:
    with drawing(told_pid, tmp_path, apart=apart) as files:
        [file] = files()
    assert file.parent == tmp_path
    assert (file.name != str(os.getpid())) == apart


@pytest.mark.parametrize("apart", [False, True])
def test_an_error_comes_back_as_it_is(apart: bool) -> None:
    with (
        pytest.raises(ValueError, match="no room") as raised,
        drawing(refuse, "no room", apart=apart) as files,
    ):
        files()
    # Where in the drawing it was raised is not lost.
    assert any("in refuse" in note for note in getattr(raised.value, "__notes__", ())) == apart


def test_a_process_that_was_ended_is_told() -> None:
    with (
        pytest.raises(RuntimeError, match="the process that draws ended with status 7"),
        drawing(end, 7, apart=True) as files,
    ):
        files()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_drawing_ends_with_the_process_that_asked_for_it(
    number: signal.Signals, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    command = [sys.executable, "-c", _PARENT, str(fifo)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    with fifo.open() as opened:
        drawer = int(opened.readline())
        assert Path(f"/proc/{drawer}").exists()
        process.send_signal(number)
        # It has ended when nobody holds the other end any more.
        assert opened.read() == ""
    _, said = process.communicate(timeout=60)
    assert process.returncode == -number
    assert ("KeyboardInterrupt" in said) == (number == signal.SIGINT), said
