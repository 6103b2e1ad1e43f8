"""Shaping a host's link by the worker's command, between two namespaces."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from paretopipe_worker.link.conditions import Condition, TcpSettings
from paretopipe_worker.shaping import tc, tcp_settings
from tests.helpers.namespaces import INTERFACE, reason_without_namespaces
from tests.helpers.shaped_link import (
    DATA_PORT,
    TAKES_A_RELAY,
    Link,
    connect,
    profile,
    shaped_link,
    without_netem,
)

RATE20 = Condition(rate_mbit=20)
RATE5 = Condition(rate_mbit=5)

namespaces = pytest.mark.skipif(
    bool(reason_without_namespaces()), reason=reason_without_namespaces()
)

pytestmark = pytest.mark.slow


@pytest.fixture
def link(tmp_path: Path) -> Iterator[Link]:
    """Two joined hosts."""
    with shaped_link(tmp_path) as made:
        yield made


UNSHAPED = ["interface link0", "gso_max_segs 65535", "root noqueue"]


def tcp_state(link: Link, rank: int = 0) -> dict[str, str]:
    """TCP's settings on a host, of the ways in which connections get them the one in force."""
    with link.hosts[rank].entered():
        return tcp_settings.effective(tcp_settings.read(INTERFACE))


def controls_of_a_connection(link: Link) -> list[str]:
    """The congestion control at the connecting and at the accepting end of a new connection."""
    source, sink = link.hosts
    with sink.entered():
        listener = socket.create_server((sink.address, DATA_PORT + 1))
    with listener, connect(source, sink, DATA_PORT + 1) as near, listener.accept()[0] as far:
        return [
            end.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()
            for end in (near, far)
        ]


def way_to(link: Link, address: str) -> bool:
    """Whether data to an address is shaped, by whichever engine."""
    return any(f"dport {DATA_PORT} to {address} by " in line for line in link.show())


@namespaces
@pytest.mark.must_run
def test_applying_again_changes_nothing_and_restoring_brings_everything_back(link: Link) -> None:
    assert link.show() == UNSHAPED
    would = link.apply(RATE20, "--check", tcp=None)
    assert would["changed"]
    assert link.show() == UNSHAPED
    assert not link.state().exists()
    first = link.apply(RATE20, tcp=None)
    assert first == would
    shown = link.call("show", "--address", link.hosts[0].address)
    assert (shown["interface"], shown["shaped"], shown["state"]) == ("link0", True, first["after"])
    saved = (link.state() / "before.json").read_text()
    keepers = link.keepers()
    assert len(keepers) == 1
    second = link.apply(RATE20, tcp=None)
    assert (second["changed"], second["commands"]) == (False, [])
    assert link.keepers() == keepers
    assert (link.state() / "before.json").read_text() == saved
    assert link.restore("--check")["changed"]
    assert link.show() == first["after"].splitlines()
    back = link.restore()
    assert back["changed"]
    assert back["after"].splitlines() == link.show() == UNSHAPED
    assert link.keepers() == []
    assert not link.restore()["changed"]


@namespaces
@pytest.mark.must_run
def test_of_two_that_apply_at_once_one_finds_it_done(link: Link) -> None:
    words = link.asking(RATE20)
    command = [sys.executable, "-m", "paretopipe_worker", "link", "apply", *words]
    with link.hosts[0].entered():
        both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    results = [json.loads(each.communicate(timeout=60)[0]) for each in both]
    assert sorted(result["changed"] for result in results) == [False, True]
    assert len(link.keepers()) == 1


@namespaces
@pytest.mark.must_run
def test_another_profile_takes_the_place_of_the_first(link: Link) -> None:
    link.apply(RATE20, tcp=None)
    changed = link.apply(RATE5, tcp=None)
    assert changed["changed"]
    assert json.loads((link.state() / "link.json").read_text())["ways"][0]["condition"] == asdict(
        RATE5
    )
    assert len(link.keepers()) == 1
    assert link.apply(None, tcp=None)["changed"]
    assert link.show() == UNSHAPED
    assert link.keepers() == []


@namespaces
@pytest.mark.must_run
def test_a_link_that_somebody_changed_under_us_is_shaped_again(link: Link) -> None:
    link.apply(RATE20)
    link.hosts[0].run("tc", "filter", "del", "dev", INTERFACE, "parent", "7070:", "pref", "1")
    assert link.apply(RATE20)["changed"]
    assert way_to(link, link.hosts[1].address)


@namespaces
@pytest.mark.must_run
def test_somebody_elses_qdisc_is_named_and_left_alone(link: Link) -> None:
    own = ["tc", "qdisc", "add", "dev", INTERFACE, "root", "handle", "5:", "tbf"]
    link.hosts[0].run(*own, "rate", "1gbit", "burst", "64k", "latency", "10ms")
    before = link.show()
    refused = link.apply(RATE20, "--host", "pi-1")
    assert refused.startswith("pi-1: link0: profile asked: the root qdisc is 'tbf 5:'")
    assert link.show() == before
    assert not link.restore()["changed"]
    assert link.show() == before


@namespaces
@pytest.mark.must_run
@pytest.mark.parametrize(
    ("instead", "said"),
    [("echo RTNETLINK says no >&2; exit 2", "RTNETLINK says no"), ("exit 0", "differ in: shaped")],
)
def test_a_step_that_fails_or_does_nothing_undoes_all(link: Link, instead: str, said: str) -> None:
    real = shutil.which("tc")
    folder = link.folder / "bin"
    folder.mkdir()
    fake = folder / "tc"
    fake.write_text(
        f'#!/bin/sh\ncase "$*" in "filter add"*dport*) {instead};; esac\nexec {real} "$@"\n'
    )
    fake.chmod(0o755)
    refused = link.apply(RATE20, PATH=f"{folder}:{os.environ['PATH']}")
    assert said in refused
    assert link.show() == UNSHAPED
    assert link.keepers() == []
    assert link.apply(RATE20)["changed"]


@namespaces
@pytest.mark.must_run
def test_shaping_is_cleared_where_the_state_folder_was_lost(link: Link) -> None:
    link.apply(RATE20)
    (keeper,) = link.keepers()
    os.kill(keeper, 9)
    shutil.rmtree(link.state())
    assert link.restore()["changed"]
    assert link.show() == UNSHAPED


@namespaces
@pytest.mark.must_run
def test_an_address_that_is_not_here_is_named_with_those_that_are(link: Link) -> None:
    refused = link.apply(RATE20, address="10.9.9.9")
    assert "no interface has the data address 10.9.9.9" in refused
    assert f"{link.hosts[0].address} (link0)" in refused
    assert "loopback" in link.apply(RATE20, address="127.0.0.1")


@namespaces
@pytest.mark.must_run
def test_shaping_by_ipv6_address_works_as_well(link: Link) -> None:
    assert link.apply(RATE20, address=link.hosts[0].address6)["changed"]
    assert way_to(link, link.hosts[1].address6)


@namespaces
@pytest.mark.must_run
def test_without_netem_and_emulation_more_than_a_rate_is_refused_before_anything_changes(
    link: Link,
) -> None:
    words = [word for word in link.asking(TAKES_A_RELAY) if word != "--emulate"]
    refused = link.call("apply", *words, "--host", "pi-1", **without_netem(link.folder / "bin"))
    kernel = platform.release()
    for named in ("pi-1", "sch_netem", kernel, "linux-modules-extra", "Raspberry Pi OS"):
        assert named in refused
    assert link.show() == UNSHAPED


@namespaces
@pytest.mark.must_run
def test_tcp_is_set_for_both_sides_of_a_connection_and_put_back(link: Link) -> None:
    before = [tcp_state(link, rank) for rank in (0, 1)]
    asked = TcpSettings("reno", slow_start_after_idle=False, max_buffer_bytes=65536)
    for rank in (0, 1):
        assert link.apply(None, tcp=asked, rank=rank)["changed"]
        assert not link.apply(None, tcp=asked, rank=rank)["changed"]
    assert link.show() == UNSHAPED
    set_now = tcp_state(link)
    assert set_now["tcp_slow_start_after_idle"] == "0"
    assert set_now["tcp_no_metrics_save"] == "1"
    assert set_now["tcp_wmem"].split()[2] == set_now["tcp_rmem"].split()[2] == "65536"
    stored = json.loads((link.state() / "link.json").read_text())
    assert stored["engine"] == "none"
    assert stored["tcp"] == set_now
    assert controls_of_a_connection(link) == ["reno", "reno"]
    assert len(link.keepers()) == 1
    for rank in (0, 1):
        assert link.restore(rank=rank)["changed"]
    assert [tcp_state(link, rank) for rank in (0, 1)] == before
    assert not (link.state() / "link.json").exists()


@namespaces
@pytest.mark.must_run
def test_a_congestion_control_that_namespaces_may_not_choose_is_set_all_the_same(
    link: Link,
) -> None:
    for rank in (0, 1):
        assert link.apply(RATE20, tcp=TcpSettings("cubic"), rank=rank)["changed"]
    assert controls_of_a_connection(link) == ["cubic", "cubic"]
    assert not link.apply(RATE20, tcp=TcpSettings("cubic"))["changed"]
    assert link.apply(RATE20, tcp=None)["changed"]  # what was set before is put back
    assert "congctl" not in link.hosts[0].run("ip", "route", "show").stdout


@namespaces
@pytest.mark.must_run
def test_a_congestion_control_the_kernel_lacks_is_named_with_those_it_has(link: Link) -> None:
    refused = link.apply(RATE20, tcp=TcpSettings("warp"))
    assert "this kernel has no warp; net.ipv4.tcp_available_congestion_control: " in refused
    assert link.show() == UNSHAPED
    assert link.keepers() == []


@namespaces
@pytest.mark.must_run
def test_who_may_not_shape_is_told_that_it_needs_root(link: Link) -> None:
    # Root without the capability: another user may not reach this interpreter's files.
    lesser = ("setpriv", "--bounding-set=-net_admin")
    refused = link.apply(RATE20, before=lesser)
    assert "not permitted (shaping needs root)" in refused
    assert link.show() == UNSHAPED
    assert link.keepers() == []


def test_a_link_is_shaped_inside_an_unprivileged_namespace(tmp_path: Path) -> None:
    unshare = ["unshare", "--user", "--map-root-user", "--net"]
    trial = subprocess.run([*unshare, "true"], capture_output=True, text=True)
    if trial.returncode != 0:
        pytest.skip(f"no unprivileged namespaces here: {trial.stderr.strip()}")
    common = f"{sys.executable} -m paretopipe_worker link"
    script = f"""set -e
        ip link add link0 type veth peer name link1
        ip address add 10.77.0.1/24 dev link0 && ip link set link0 up
        touch lease
        {common} apply --profile '{profile("asked", RATE20, "10.77.0.2")}' \
            --address 10.77.0.1 --emulate --ports 29400 --state-dir state --lease lease --lease-s 60
        {common} restore --state-dir state"""
    environment = {**os.environ, "PYTHONPATH": str(Path(tc.__file__).parents[2])}
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
    assert f"shaped: dport {DATA_PORT} to 10.77.0.2" in applied["after"]
    assert restored["after"].splitlines() == UNSHAPED
