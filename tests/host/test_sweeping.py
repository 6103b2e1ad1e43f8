"""Sweeps that are in progress on a host, as others find them there."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest

from paretopipe_worker.host import sweeping
from paretopipe_worker.link.conditions import Condition
from tests.helpers.namespaces import reason_without_namespaces
from tests.helpers.shaped_link import Link, shaped_link
from tests.helpers.waiting import until

SLEEP = "import sys; print('ready', flush=True); sys.stdin.read()"
RATE20 = Condition(rate_mbit=20)


@contextmanager
def running(*words: str) -> Iterator[int]:
    """Run a process with these words at the end of its command line; its pid."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEP, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    try:
        yield process.pid
    finally:
        process.communicate()


@pytest.fixture
def lease(tmp_path: Path) -> Path:
    """The lease of a run."""
    path = tmp_path / "runs/evening/lease"
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def own(lease: Path) -> list[dict[str, object]]:
    """The sweeps of this lease's run: other tests may be sweeping on this machine."""
    names = {task.run for task in sweeping.tasks() if task.lease == lease}
    return [each for each in sweeping.sweeps() if each["run"] in names]


def supervisor(lease: Path) -> list[str]:
    """Command line of a supervisor."""
    return ["-m", "paretopipe_worker", "launch", f"--lease={lease}", "--lease-s=30"]


def keeper(lease: Path) -> list[str]:
    """Command line of a keeper."""
    return ["paretopipe.pyz", "link", "apply", "--lease", str(lease), "--lease-s", "30.0"]


@pytest.mark.parametrize("words", [supervisor, keeper])
def test_what_watches_a_lease_that_is_not_renewed_is_found(lease: Path, words: object) -> None:
    os.utime(lease, (time.time() - 20, time.time() - 20))
    began_s = time.time()
    with running(*words(lease)):  # type: ignore[operator]
        [found] = own(lease)
    assert (found["run"], found["lease_s"], found["renewing"]) == ("evening", 30.0, False)
    assert found["user"] == os.environ.get("USER", found["user"])
    assert 19 < found["renewed_s"] < 20 + time.time() - began_s + 1
    assert abs(found["started_unix_s"] - began_s) < time.time() - began_s + 1
    assert not own(lease)


def test_a_lease_that_somebody_renews_is_told(lease: Path) -> None:
    over = Event()

    def renew() -> None:
        while not over.wait(0.05):
            lease.touch()

    renewing = Thread(target=renew)
    with running(*supervisor(lease)), running(*keeper(lease)):
        renewing.start()
        try:
            [found] = own(lease)
        finally:
            over.set()
            renewing.join()
    assert found["renewing"] is True


def test_who_has_a_port_is_named_with_the_run_of_a_stage() -> None:
    code = "import socket, sys; s = socket.create_server(('127.0.0.1', 0));"
    code += "print(s.getsockname()[1], flush=True); sys.stdin.read()"
    words = ["stage", "--plan=/home/ada/runs/evening/plan.json"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    port = int(process.stdout.readline())
    with socket.create_server(("127.0.0.1", 0)) as mine:
        found = sweeping.holders({port, mine.getsockname()[1]})
    process.communicate()
    assert found[port]["run"] == "evening"
    assert f"pid {process.pid} of " in found[port]["who"]
    assert found.keys() == {port}  # the one who asks does not count


@pytest.mark.skipif(bool(reason_without_namespaces()), reason=reason_without_namespaces())
def test_a_host_belongs_to_one_run_for_as_long_as_it_watches_its_lease(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with shaped_link(tmp_path) as link:
        other = Link(link.hosts, tmp_path / "other")
        assert link.apply(RATE20)["changed"]
        before = link.show(), link.keepers()
        same = ("--state-dir", str(link.state()))
        refused = other.apply(RATE20, *same)
        assert f"this host is in use: run {tmp_path.name} of " in refused
        assert "there since 20" in refused and "whose lease was renewed " in refused
        # Nor does a sweep that was refused put back what is not its own.
        assert "this host is in use" in other.restore("--lease", str(other.lease), *same)
        assert (link.show(), link.keepers()) == before
        # After a reboot, or when what watched it was killed, nobody has it.
        [keeper] = link.keepers()
        os.kill(keeper, signal.SIGKILL)
        until(lambda: not link.keepers(), "the keeper's end")
        assert other.apply(RATE20, *same)["changed"]
        # A lease that has lapsed keeps nobody out, even if what watches it hangs.
        [keeper] = link.keepers()
        os.kill(keeper, signal.SIGSTOP)
        os.utime(other.lease, (time.time() - 61, time.time() - 61))
        assert link.apply(RATE20)["changed"]
