"""The lease: when it holds, and that a shaped link does not outlive it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from paretopipe_worker.host.lease import Lease
from paretopipe_worker.link.conditions import Condition, TcpSettings
from paretopipe_worker.shaping import tcp_settings
from tests.helpers.namespaces import INTERFACE, reason_without_namespaces
from tests.helpers.shaped_link import Link, shaped_link
from tests.helpers.waiting import until

namespaces = pytest.mark.skipif(
    bool(reason_without_namespaces()), reason=reason_without_namespaces()
)

pytestmark = pytest.mark.slow


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
    lease = Lease(path, 2)
    assert lease.lapse() is None
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + step_s)
    assert lease.lapse() is None
    set_age(path, 0)  # touched after the step: its file's time jumps with the clock
    assert lease.lapse() is None
    until(lambda: lease.lapse() is not None, "the lease's end")


RATE20 = Condition(rate_mbit=20)
RENO = TcpSettings("reno", slow_start_after_idle=False)


@pytest.fixture
def link(tmp_path: Path) -> Iterator[Link]:
    """Two joined hosts, their lease so short that a test can wait for its end."""
    with shaped_link(tmp_path) as made:
        made.lease_s = 3
        yield made


def shaped(link: Link) -> bool:
    """Whether our qdisc is on the link."""
    return "htb" in link.hosts[0].run("tc", "qdisc", "show").stdout


@namespaces
@pytest.mark.must_run
def test_touching_keeps_a_link_shaped_and_ceasing_to_restores_it_and_tcp(link: Link) -> None:
    before = tcp(link)
    ceasing = threading.Event()

    def renew() -> None:
        while not ceasing.wait(0.02):
            link.lease.touch()

    renewing = threading.Thread(target=renew)
    renewing.start()
    try:
        link.apply(RATE20, tcp=RENO)
        keepers = link.keepers()
        renewed_until = time.monotonic() + 2 * link.lease_s
        while time.monotonic() < renewed_until:
            assert shaped(link)
        assert link.keepers() == keepers
        assert tcp(link) != before
    finally:
        ceased = time.monotonic()
        ceasing.set()
        renewing.join()
    until(lambda: not shaped(link), "the link restored")
    assert time.monotonic() - ceased > 0.8 * link.lease_s
    until(lambda: link.keepers() == [], "the keeper's end")
    assert link.show() == ["interface link0", "gso_max_segs 65535", "root noqueue"]
    assert link.devices() == ["link0", "lo"]
    assert tcp(link) == before
    assert "was last renewed" in (link.state() / "keeper.log").read_text()
    assert not link.restore()["changed"]


def tcp(link: Link) -> dict[str, str]:
    """TCP's settings on the host."""
    with link.hosts[0].entered():
        return tcp_settings.read(INTERFACE)


@namespaces
@pytest.mark.must_run
def test_a_lease_that_is_taken_away_restores_the_link(link: Link) -> None:
    link.lease_s = 300
    link.apply(RATE20)
    link.lease.unlink()
    until(lambda: not shaped(link), "the link restored")


@namespaces
@pytest.mark.must_run
def test_a_killed_keeper_is_replaced_by_the_next_apply_without_touching_the_link(
    link: Link,
) -> None:
    link.lease_s = 300
    link.apply(None, tcp=RENO)  # test_relay has the link that goes with its keeper
    [first] = link.keepers()
    os.kill(first, signal.SIGKILL)
    until(lambda: link.keepers() == [], "the keeper's end")
    again = link.apply(None, tcp=RENO)
    assert (again["changed"], again["commands"]) == (True, [])
    [second] = link.keepers()
    assert second != first
    assert link.restore()["changed"]
    assert link.keepers() == []


@namespaces
@pytest.mark.must_run
def test_a_link_is_not_shaped_under_a_lease_that_has_lapsed(link: Link) -> None:
    words = link.asking(RATE20)
    link.lease.unlink()
    refused = link.call("apply", *words)
    assert f"lease {link.lease} is gone: touch it before shaping" in refused
    assert not shaped(link)
