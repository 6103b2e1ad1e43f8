"""A background load runs for as long as the process beside which it is to run, and no longer."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from paretopipe_worker.host import load
from paretopipe_worker.host.daemons import Process, group_members
from paretopipe_worker.host.supervise import stop
from tests.helpers.supervised import WAIT, SupervisedHost, alive
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow

PAUSE = (sys.executable, "-c", WAIT)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[SupervisedHost]:
    """A run's folder with a fresh lease; nothing launched there is left afterwards."""
    made = SupervisedHost(tmp_path)
    made.lease.touch()
    yield made
    stop(tmp_path)


def test_a_load_has_so_many_workers_and_an_end() -> None:
    assert load.command(2, None, 9.5)[1:] == (
        *("--quiet", "--no-rand-seed", "--timeout=10", "--cpu=2"),
    )
    words = load.command(3, 1.5, 9.5)
    assert words[0] == "stress-ng"
    assert words[-4:] == ("--cpu=2", "--vm=1", "--vm-bytes=1500000b", "--vm-keep")
    assert "--cpu" not in " ".join(load.command(1, 100, 9.5))


def test_a_load_ends_with_its_process_which_is_told_of_it(host: SupervisedHost) -> None:
    program = f"import os; print(os.environ[{load.TOLD!r}])"
    launched = host.launch(program, load=("sleep", "1000"))
    assert host.ended()["exit_code"] == 0
    until(lambda: not alive(launched["pid"]), "the supervisor's end")
    assert not alive(launched["load_pid"])
    assert host.log() == "sleep 1000\n"


def test_a_process_without_load_is_told_of_none(host: SupervisedHost) -> None:
    assert host.launch(f"import os; print({load.TOLD!r} in os.environ)")["load_pid"] is None
    host.ended()
    assert host.log() == "False\n"


def test_a_load_ends_when_the_lease_is_taken_away(host: SupervisedHost) -> None:
    launched = host.launch(WAIT, load=PAUSE)
    host.lease.unlink()
    assert host.ended()["reason"] == f"lease {host.lease} is gone"
    assert not alive(launched["child_pid"]) and not alive(launched["load_pid"])


def test_a_process_ends_when_its_load_does(host: SupervisedHost) -> None:
    launched = host.launch(WAIT, load=(sys.executable, "-c", "raise SystemExit(7)"))
    assert host.ended()["reason"] == "the background load ended by itself, with 7"
    assert not alive(launched["child_pid"])


def test_without_the_program_of_the_load_nothing_is_started(host: SupervisedHost) -> None:
    launched = host.launch("print('ran')", load=("/nowhere/load",))
    assert (launched["state"], launched["reason"]) == (
        "ended",
        "/nowhere/load: No such file or directory",
    )
    assert host.log() == ""


def test_a_load_ends_where_its_process_cannot_start(host: SupervisedHost) -> None:
    load = (sys.executable, "-c", f"{WAIT} # {host.folder}")
    launched = host.launch("", command=("/nowhere/python",), load=load)
    assert launched["reason"] == "/nowhere/python: No such file or directory"
    until(lambda: not alive(launched["pid"]), "the supervisor's end")
    words = load[-1].encode()
    assert not [p for p in Path("/proc").glob("[0-9]*/cmdline") if _content(p).endswith(words)]


def _content(path: Path) -> bytes:
    """What a process was started with; nothing where it is gone."""
    try:
        return path.read_bytes().rstrip(b"\0")
    except OSError:
        return b""


def test_stop_ends_the_load_of_a_killed_supervisor(host: SupervisedHost) -> None:
    spawn = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]])"
    child = "import os, signal\nprint('pid', os.getpid(), flush=True)\nsignal.pause()"
    load = (sys.executable, "-c", f"{spawn}\n{WAIT}", child)
    launched = host.launch(WAIT, load=load)
    until(lambda: "pid" in host.log(), "a process of the load")
    left = int(host.log().split()[-1])
    os.kill(launched["pid"], signal.SIGKILL)
    until(lambda: not alive(launched["load_pid"]), "the load's end")
    assert alive(left)
    host.stop()
    assert not alive(left)


@pytest.mark.must_run
@pytest.mark.skipif(shutil.which(load.TOOL) is None, reason=f"{load.TOOL} is not installed")
@pytest.mark.parametrize("ended_by", ["process", "kill"])
def test_all_of_stress_ng_ends_with_the_supervisor(host: SupervisedHost, ended_by: str) -> None:
    launched = host.launch(WAIT, load=load.command(2, 20, 60))
    parent = Process.running(launched["load_pid"])
    assert parent is not None
    until(lambda: len(group_members(parent)) >= 3, "stress-ng and its two workers")
    workers = group_members(parent)
    victim = "child_pid" if ended_by == "process" else "pid"
    os.kill(launched[victim], signal.SIGKILL)
    until(lambda: not any(worker.alive for worker in workers), "the end of all of them", 10)
