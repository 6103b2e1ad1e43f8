"""Figures that a further process draws as well."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from analysis.figures.drawing import Page, drawing
from tests import ROOT
from tests.helpers.sweeps import HEARING

_PARENT = """
import signal
import sys
from pathlib import Path
from analysis.figures.drawing import drawing
from tests.analysis.test_drawing import never
with drawing(never, apart=True) as figures:
    figures.begin(Path(sys.argv[1]))
    signal.pause()
"""


def told(count: int) -> list[Page]:
    """Pages that each return a file with their number."""
    return [partial(_told, number) for number in range(count)]


def _told(number: int) -> list[Path]:
    return [Path(str(number))]


def met(fifo: Path, here: int, why: str | None = None) -> list[Page]:
    """Two pages that end when both have begun.

    Each returns a file with the name of its process. With a reason `why`, the page that is not
    drawn in process `here` fails.
    """
    return [partial(_meet, fifo, mode, here, why) for mode in ("r", "w")]


def _meet(fifo: Path, mode: str, here: int, why: str | None) -> list[Path]:
    # A FIFO opens when the other end is opened, too.
    with fifo.open(mode):
        pid = os.getpid()
    if why and pid != here:
        raise ValueError(why)
    return [Path(str(pid))]


def refused(why: str) -> list[Page]:
    """A page that fails as a figure could."""
    return [partial(_refuse, why)]


def _refuse(why: str) -> list[Path]:
    raise ValueError(why)


def lost(here: int) -> list[Page]:
    """Two pages, of which one ends the other process, as a system does that lacks memory."""
    return [partial(_lost, number, here) for number in range(2)]


def _lost(number: int, here: int) -> list[Path]:
    if os.getpid() != here:
        os.kill(os.getpid(), signal.SIGKILL)
    return [Path(str(number))]


def never(fifo: Path) -> list[Page]:
    """A page that says by a FIFO that it has begun, and never ends; its end closes the FIFO."""
    return [partial(_never, fifo)]


def _never(fifo: Path) -> list[Path]:
    with fifo.open("w") as opened:
        print(os.getpid(), file=opened, flush=True)
        signal.pause()
    return []


@pytest.mark.parametrize("apart", [False, True])
def test_each_page_is_drawn_once_and_files_come_in_the_order_of_pages(apart: bool) -> None:
    with drawing(told, apart=apart) as figures:
        figures.begin(500)
        files = figures.files()
    assert [int(file.name) for file in files] == [*range(500)]


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """A FIFO."""
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


def test_both_processes_draw(fifo: Path) -> None:
    with drawing(met, apart=True) as figures:
        figures.begin(fifo, os.getpid())
        pids = {int(file.name) for file in figures.files()}
    assert os.getpid() in pids and len(pids) == 2


@pytest.mark.parametrize("apart", [False, True])
def test_an_error_comes_back_as_it_is(apart: bool) -> None:
    with (
        pytest.raises(ValueError, match="no room"),
        drawing(refused, apart=apart) as figures,
    ):
        figures.begin("no room")
        figures.files()


def test_an_error_in_the_other_process_says_where_it_was_raised(fifo: Path) -> None:
    with (
        pytest.raises(ValueError, match="no room") as raised,
        drawing(met, apart=True) as figures,
    ):
        figures.begin(fifo, os.getpid(), "no room")
        figures.files()
    assert any("in _meet" in note for note in raised.value.__notes__)


def test_pages_of_a_process_that_was_ended_are_drawn_here() -> None:
    with drawing(lost, apart=True) as figures:
        figures.begin(os.getpid())
        [process] = multiprocessing.active_children()
        # It takes a page as soon as it may.
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert figures.files() == [Path("0"), Path("1")]


def test_all_pages_are_drawn_here_where_the_process_was_ended_before_it_got_anything() -> None:
    with drawing(told, apart=True) as figures:
        [process] = multiprocessing.active_children()
        process.kill()
        process.join()
        figures.begin(3)
        assert [int(file.name) for file in figures.files()] == [0, 1, 2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_drawing_ends_with_the_process_that_asked_for_it(
    number: signal.Signals, fifo: Path
) -> None:
    command = [*HEARING, sys.executable, "-c", _PARENT, str(fifo)]
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
