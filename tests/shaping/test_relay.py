"""The userspace relay: its rules alone, and a link shaped by it between two namespaces."""

from __future__ import annotations

import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from paretopipe_worker.link.conditions import Condition, TcpSettings
from paretopipe_worker.shaping.relay import TUN
from tests import ROOT
from tests.helpers.namespaces import INTERFACE
from tests.helpers.shaped_link import (
    DATA_PORT,
    TAKES_A_RELAY,
    Link,
    Relayed,
    connect,
    datagrams,
    profile,
    rate20_is_kept,
    reason_without_relay,
    serve,
    shaped_link,
    transfer_ms,
    without_netem,
)

REASON = reason_without_relay()
relayed = pytest.mark.skipif(bool(REASON), reason=REASON)

pytestmark = pytest.mark.slow

MS = 1_000_000
UNSHAPED = ["interface link0", "gso_max_segs 65535", "root noqueue"]


@pytest.fixture
def link(tmp_path: Path) -> Iterator[Relayed]:
    """Two joined hosts, unshaped again afterwards, with no process left inside."""
    with shaped_link(tmp_path) as made:
        yield Relayed(made.hosts, made.folder)


def median_ms(link: Link, port: int, version: int = 4) -> float:
    """Median round trip of a small message over a connection to a port."""
    source, sink = link.hosts
    serve(sink, port, version)
    with connect(source, sink, port, version) as data:
        return statistics.median(transfer_ms(data, 8) for _ in range(15))


@relayed
@pytest.mark.alone
@pytest.mark.must_run
@pytest.mark.parametrize("version", [4, 6])
def test_delay_is_added_to_the_data_port_and_to_nothing_else(link: Relayed, version: int) -> None:
    for rank in (0, 1):
        link.apply(Condition(delay_ms=20), rank=rank)
    assert 40 <= median_ms(link, DATA_PORT, version) <= 43
    assert median_ms(link, DATA_PORT + 1, version) < 5
    assert link.counters().forwarded > 15
    assert (link.counters().late_ns(0.5) or 0) < 2 * MS


@relayed
@pytest.mark.alone
@pytest.mark.must_run
def test_each_host_shapes_only_what_it_sends(link: Relayed) -> None:
    link.apply(Condition(delay_ms=30))
    there = datagrams(*link.hosts, 30, 0.005)
    back = datagrams(*link.hosts[::-1], 30, 0.005)
    assert 30 <= statistics.median(took * 1e3 for _, took in there) <= 31.5
    assert statistics.median(took * 1e3 for _, took in back) < 1.5


@relayed
@pytest.mark.alone
@pytest.mark.must_run
def test_a_rate_is_kept_and_leaves_no_room_for_bursts(link: Relayed) -> None:
    for rank in (0, 1):
        link.apply(TAKES_A_RELAY, tcp=TcpSettings("reno"), rank=rank)
    rate20_is_kept(link)


@relayed
@pytest.mark.alone
@pytest.mark.must_run
def test_losses_jitter_reordering_and_duplicates_happen_to_datagrams(link: Relayed) -> None:
    count = 1000
    link.apply(Condition(loss_percent=10))
    came = datagrams(*link.hosts, count, 0.0005)
    assert count - len(came) == pytest.approx(0.1 * count, abs=3 * math.sqrt(0.09 * count))
    assert link.counters().lost == count - len(came)

    link.apply(Condition(delay_ms=20, jitter_ms=5))
    came = datagrams(*link.hosts, count, 0.001)
    assert [number for number, _ in came] == list(range(count))
    assert statistics.pstdev(took * 1e3 for _, took in came) > 1

    link.apply(Condition(delay_ms=5, reorder_percent=5, duplicate_percent=5))
    numbers = [number for number, _ in datagrams(*link.hosts, count, 0.0005)]
    assert len(set(numbers)) == count
    assert len(numbers) - count == pytest.approx(0.05 * count, abs=3 * math.sqrt(0.0475 * count))
    assert numbers != sorted(numbers)


@relayed
@pytest.mark.alone
@pytest.mark.must_run
def test_while_everything_is_lost_the_host_is_still_reached(link: Relayed) -> None:
    for rank in (0, 1):
        link.apply(Condition(loss_percent=100), rank=rank)
    assert datagrams(*link.hosts, 20, 0.001) == []
    assert median_ms(link, DATA_PORT + 1) < 5


@relayed
@pytest.mark.must_run
def test_a_killed_keeper_cuts_the_data_until_the_link_is_shaped_again_or_restored(
    link: Relayed,
) -> None:
    asked = Condition(delay_ms=10)
    link.apply(asked)
    assert not link.apply(asked)["changed"]
    for repair in (lambda: link.apply(asked), link.restore):
        [keeper] = link.keepers()
        os.kill(keeper, signal.SIGKILL)
        while "pprelay0" in link.devices():
            assert Path(f"/proc/{keeper}").exists() or link.keepers() == []
        assert datagrams(*link.hosts, 10, 0.001) == []
        assert repair()["changed"]
        assert len(datagrams(*link.hosts, 10, 0.001)) == 10
    assert link.show() == UNSHAPED
    assert link.devices() == [INTERFACE, "lo"]


@relayed
@pytest.mark.must_run
def test_a_relay_that_fails_restores_the_link(link: Relayed) -> None:
    link.apply(Condition(delay_ms=10))
    link.hosts[0].run("ip", "link", "delete", "pprelay0")
    deadline = time.monotonic() + 10
    while link.keepers():
        assert time.monotonic() < deadline
    assert link.show() == UNSHAPED
    assert "the relay failed: " in (link.state() / "keeper.log").read_text()
    assert len(datagrams(*link.hosts, 10, 0.001)) == 10


@relayed
@pytest.mark.must_run
def test_a_host_without_tap_devices_is_told_what_the_relay_needs(link: Relayed) -> None:
    hidden = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /dev/net && exec "$@"', "sh")
    words = link.asking(Condition(delay_ms=10))
    refused = link.call("apply", *words, before=hidden)
    assert f"{TUN}: No such file or directory; the userspace relay needs TAP devices" in refused
    assert link.show() == UNSHAPED


@relayed
def test_a_relay_runs_inside_an_unprivileged_namespace(tmp_path: Path) -> None:
    unshare = ["unshare", "--user", "--map-root-user", "--net"]
    trial = subprocess.run([*unshare, "true"], capture_output=True, text=True)
    if trial.returncode != 0:
        pytest.skip(f"no unprivileged namespaces here: {trial.stderr.strip()}")
    common = f"{sys.executable} -m paretopipe_worker link"
    asked = profile("asked", Condition(delay_ms=10), "10.77.0.2")
    script = f"""set -e
        ip link add link0 type veth peer name link1
        ip address add 10.77.0.1/24 dev link0 && ip link set link0 up
        touch lease
        {common} apply --profile '{asked}' --address 10.77.0.1 --ports {DATA_PORT} --emulate \\
            --tcp '{{"congestion_control": "cubic"}}' \\
            --state-dir state --lease lease --lease-s 60
        {common} restore --state-dir state"""
    environment = {**os.environ, **without_netem(tmp_path / "bin")}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [*unshare, "sh", "-c", script],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    applied, restored = (json.loads(line) for line in done.stdout.splitlines())
    assert applied["engine"] == "relay"
    assert restored["after"].splitlines()[:3] == UNSHAPED
