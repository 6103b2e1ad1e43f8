"""The lease: when it holds, and that a shaped link does not outlive it."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from paretopipe_worker.daemons import Process
from paretopipe_worker.lease import Lease
from paretopipe_worker.shaping import restore
from tests.namespaces import Namespace, joined_pair, reason_without_namespaces

namespaces = pytest.mark.skipif(
    bool(reason_without_namespaces()), reason=reason_without_namespaces()
)

pytestmark = pytest.mark.alone


def until(condition: Callable[[], bool], deadline_s: float = 20) -> None:
    """Wait for something to become true, by a deadline."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)


def set_age(path: Path, age_s: float) -> None:
    """Make a file look as if it had been touched that long ago."""
    path.touch()
    os.utime(path, (time.time() - age_s, time.time() - age_s))


def test_a_lease_holds_while_its_file_is_young(tmp_path: Path) -> None:
    path = tmp_path / "lease"
    path.touch()
    assert Lease(path, 30).lapse() is None


def test_a_lease_whose_file_is_old_at_the_first_look_has_lapsed(tmp_path: Path) -> None:
    path = tmp_path / "lease"
    set_age(path, 40)
    reason = Lease(path, 30).lapse()
    assert reason is not None
    assert f"{path} was last renewed 40.0 s ago; 30 s allowed" in reason


def test_a_lease_whose_file_is_gone_has_lapsed(tmp_path: Path) -> None:
    path = tmp_path / "lease"
    path.touch()
    lease = Lease(path, 30)
    assert lease.lapse() is None
    path.unlink()
    assert lease.lapse() == f"lease {path} is gone"


def test_a_touch_renews_a_lease_that_had_lapsed(tmp_path: Path) -> None:
    path = tmp_path / "lease"
    set_age(path, 40)
    lease = Lease(path, 30)
    assert lease.lapse() is not None
    path.touch()
    assert lease.lapse() is None


@pytest.mark.parametrize("step_s", [-1e6, 1e6])
def test_a_step_of_the_wall_clock_neither_ends_nor_prolongs_a_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_s: float
) -> None:
    path = tmp_path / "lease"
    path.touch()
    lease = Lease(path, 0.2)
    assert lease.lapse() is None
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + step_s)
    assert lease.lapse() is None
    set_age(path, 0)  # touched after the step: its file's time jumps with the clock
    assert lease.lapse() is None
    until(lambda: lease.lapse() is not None, deadline_s=2)


@dataclass
class ShapedHost:
    """A host whose link is shaped under a lease of its own."""

    host: Namespace
    peer: Namespace
    folder: Path
    lease_s: float = 3.0

    @property
    def lease(self) -> Path:
        """The lease file."""
        return self.folder / "lease"

    def call(self, *words: str) -> Any:
        """Run ``link`` and read its JSON."""
        command = [sys.executable, "-m", "paretopipe_worker", "link", *words]
        return json.loads(self.host.run(*command).stdout)

    def apply(self) -> Any:
        """Shape the link, the lease just renewed."""
        self.lease.touch()
        return self.call(
            *("apply", "--profile", '{"name": "wire20", "rate_mbit": 20}'),
            *("--address", self.host.address, "--peers", self.peer.address, "--ports", "29400"),
            *("--state-dir", str(self.folder / "link")),
            *("--lease", str(self.lease), "--lease-s", str(self.lease_s)),
        )

    def restore(self) -> Any:
        """Restore the link."""
        return self.call("restore", "--state-dir", str(self.folder / "link"))

    def shaped(self) -> bool:
        """Whether our qdisc is on the link."""
        return "htb" in self.host.run("tc", "qdisc", "show").stdout

    def keeper(self) -> int:
        """Pid of the keeper; 0 where there is none."""
        saved = self.folder / "link" / "keeper.json"
        pid = int(json.loads(saved.read_text())["pid"]) if saved.exists() else 0
        return pid if Process.running(pid) else 0


@pytest.fixture
def shaped_host(tmp_path: Path) -> Iterator[ShapedHost]:
    """A host that can be shaped, restored afterwards."""
    with joined_pair() as (host, peer):
        made = ShapedHost(host, peer, tmp_path)
        yield made
        with host.entered():
            restore(tmp_path / "link")


@namespaces
@pytest.mark.must_run
def test_touching_keeps_a_link_shaped_and_ceasing_to_restores_it(shaped_host: ShapedHost) -> None:
    ceasing = threading.Event()

    def renew() -> None:
        while not ceasing.wait(0.02):
            shaped_host.lease.touch()

    renewing = threading.Thread(target=renew)
    renewing.start()
    try:
        shaped_host.apply()
        keeper = shaped_host.keeper()
        renewed_until = time.monotonic() + 2.5 * shaped_host.lease_s
        while time.monotonic() < renewed_until:
            assert shaped_host.shaped()
        assert shaped_host.keeper() == keeper
    finally:
        ceasing.set()
        renewing.join()
    ceased = time.monotonic()
    until(lambda: not shaped_host.shaped())
    assert time.monotonic() - ceased > 0.8 * shaped_host.lease_s
    until(lambda: shaped_host.keeper() == 0)
    details = shaped_host.host.run("ip", "-d", "-j", "link", "show", "dev", "link0").stdout
    assert json.loads(details)[0]["gso_max_segs"] == 65535
    assert "was last renewed" in (shaped_host.folder / "link" / "keeper.log").read_text()
    assert not shaped_host.restore()["changed"]


@namespaces
@pytest.mark.must_run
def test_a_lease_that_is_taken_away_restores_the_link(shaped_host: ShapedHost) -> None:
    shaped_host.lease_s = 60
    shaped_host.apply()
    shaped_host.lease.unlink()
    until(lambda: not shaped_host.shaped())


@namespaces
@pytest.mark.must_run
def test_a_killed_keeper_is_replaced_by_the_next_apply_without_touching_the_link(
    shaped_host: ShapedHost,
) -> None:
    shaped_host.lease_s = 60
    shaped_host.apply()
    first = shaped_host.keeper()
    os.kill(first, signal.SIGKILL)
    until(lambda: shaped_host.keeper() == 0)
    again = shaped_host.apply()
    assert (again["changed"], again["commands"]) == (True, [])
    second = shaped_host.keeper()
    assert second not in (0, first)
    assert shaped_host.restore()["changed"]
    assert Process.running(second) is None


@namespaces
@pytest.mark.must_run
def test_a_link_is_not_shaped_under_a_lease_that_has_lapsed(shaped_host: ShapedHost) -> None:
    words = ["apply", "--profile", '{"name": "x", "rate_mbit": 1}', "--ports", "29400"]
    words += ["--address", shaped_host.host.address, "--peers", shaped_host.peer.address]
    words += ["--state-dir", str(shaped_host.folder / "link"), "--lease", str(shaped_host.lease)]
    command = [sys.executable, "-m", "paretopipe_worker", "link", *words, "--lease-s", "5"]
    done = shaped_host.host.run(*command, check=False)
    assert done.returncode == 2
    assert f"lease {shaped_host.lease} is gone: touch it before shaping" in done.stderr
    assert not shaped_host.shaped()
