"""Backends as sessions use them: bytes that cross, lost stages, links that shape them."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.run import read
from analysis.tables.points import points
from paretopipe_worker.cuts import TensorSpec
from paretopipe_worker.link.conditions import Condition, TcpSettings
from paretopipe_worker.plan import resume
from paretopipe_worker.records.lines import End, PointEnd
from paretopipe_worker.transport.backends import BACKENDS
from tests import ROOT
from tests.helpers.rings import Peer
from tests.helpers.sessions import experiment, lab, on_link
from tests.helpers.shaped_link import DATA_PORT, Link, reason_without_relay, shaped_link

pytestmark = pytest.mark.slow

LIBRARIES = [name for name in BACKENDS if name != "tcp"]
HOSTS = {name: {"data_address": "127.0.0.1"} for name in ("edge", "server")}

REASON = reason_without_relay()
namespaces = pytest.mark.skipif(bool(REASON), reason=REASON)

SHORTCUT = """\
import sys
from paretopipe_worker.__main__ import main
from paretopipe_worker.transport import rpc
rpc.TRANSPORTS = rpc.CHANNELS = None
sys.exit(main(sys.argv[1:]))
"""
"""A stage that lets TensorPipe choose, and so go around the network."""


@pytest.fixture
def link(tmp_path: Path) -> Iterator[Link]:
    """Two hosts on one link."""
    with shaped_link(tmp_path) as made:
        yield made


@pytest.mark.parametrize("backend", LIBRARIES)
def test_a_session_measures_every_point_and_every_byte_crosses(
    backend: str, tmp_path: Path
) -> None:
    made = lab(tmp_path, experiment(backends=[backend]), **HOSTS)
    for end in made.run(made.plan.sessions[0]).of(PointEnd):
        assert (end.status, end.gate, end.output) == ("ok", True, "exact"), end
    table = points(read(made.results))
    assert set(table["status"]) == {"ok"}, set(table["reason"])
    assert (table.loc[table["split"] != "@first", "crossed"] == True).all()  # noqa: E712


@pytest.mark.parametrize("backend", LIBRARIES)
@pytest.mark.parametrize("victim", [pytest.param("edge", marks=pytest.mark.long), "server"])
def test_a_killed_stage_is_recorded_and_the_next_attempt_measures_the_session(
    backend: str, victim: str, tmp_path: Path
) -> None:
    model, splits = "tests.helpers.synthetic:wait_5_ms", {"cuts": ["2"]}
    made = lab(tmp_path, experiment(model, backends=[backend], splits=splits), **HOSTS)
    [session] = made.plan.sessions
    stages = {host: made.start(session, host) for host in session.placement}
    made.first_point(stages.values())
    stages[victim].send_signal(signal.SIGKILL)
    survivor = next(host for host in stages if host != victim)
    _, text = stages[survivor].communicate(timeout=20)
    stages[victim].communicate()
    assert stages[survivor].returncode == 1, text
    end = made.written(session, survivor)[-1]
    assert isinstance(end, End)
    assert end.status == "failed" and "127.0.0.1" in (end.reason or "")
    [task] = resume.todo(made.plan, made.results)["sessions"]
    assert task["attempt"] == 2
    made.run(session, attempt=2)
    assert resume.todo(made.plan, made.results)["done"] == 1


@namespaces
@pytest.mark.must_run
def test_tensorpipes_shortcut_around_the_network_is_refused(link: Link, tmp_path: Path) -> None:
    """Between two namespaces of one machine it moves tensors by memory: no byte of them crosses."""
    # A cut behind which less crosses than RPC's own framing could not be told by counting bytes.
    splits = {"cuts": ["0"]}
    made = lab(tmp_path, experiment(backends=["rpc"], splits=splits), **on_link(link.hosts))
    [session] = made.plan.sessions
    stages = [
        subprocess.Popen(
            [
                *("ip", "netns", "exec", inside.name),
                *(sys.executable, "-c", SHORTCUT),
                *made.arguments(session, host),
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for host, inside in zip(session.placement, link.hosts, strict=True)
    ]
    texts = [stage.communicate(timeout=120)[1] for stage in stages]
    assert [stage.returncode for stage in stages] == [0, 0], "\n".join(texts)
    table = points(read(made.results)).set_index("split")
    crossing = table.drop("@first")
    assert set(crossing["status"]) == {"failed"}
    assert all("the network counted" in reason for reason in crossing["reason"])
    assert crossing["latency_median_ms"].isna().all()


@namespaces
@pytest.mark.must_run
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_shaped_link_holds_back_what_the_backend_sends(backend: str, link: Link) -> None:
    condition, size = Condition(delay_ms=20, rate_mbit=20), 400_000
    for rank in (0, 1):
        applied = link.apply(condition, tcp=TcpSettings("reno"), rank=rank)
        assert isinstance(applied, dict), applied
    peers = [Peer("ip", "netns", "exec", host.name) for host in link.hosts]
    ring = [(host.address, DATA_PORT) for host in link.hosts]
    try:
        for wait in [
            peer.start("connect", backend=backend, rank=rank, ring=ring, version=None)
            for rank, peer in enumerate(peers)
        ]:
            wait()
        took_ms = {}
        for tensors in ([TensorSpec((8,), "uint8")], [TensorSpec((size,), "uint8")]):
            for peer in peers:
                peer.configure(tensors, tensors)
            echoed = peers[1].start("echo", overlap=False)
            took = peers[0].call("bounce", count=5)
            took_ms[tensors[0].nbytes] = statistics.median(took)
            echoed()
        for peer in peers:
            peer.call("close")
    finally:
        for peer in peers:
            peer.end()
    print(backend, took_ms)
    wire_ms = size * 8 / 20e3
    assert took_ms[8] >= 2 * 20
    assert took_ms[size] >= 2 * (20 + wire_ms)
