"""The contract of every backend: who joins a ring, and who is refused."""

from __future__ import annotations

import contextlib
import importlib
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from torch import distributed

from paretopipe_worker.transport import gloo, rpc
from paretopipe_worker.transport.api import (
    DeadlineExceeded,
    Endpoint,
    ProtocolError,
    TransportError,
    connect,
)
from paretopipe_worker.transport.sockets import Opened, tcp_sockets
from tests.helpers.rings import BYTES8, Peer, endpoints, every_backend, free_ports, paired, run_leg


@every_backend
def test_a_peer_of_another_version_is_refused(backend: str, peer: Peer) -> None:
    try:
        with (
            pytest.raises(ProtocolError, match=r"127\.0\.0\.1.* version \d"),
            paired(backend, peer, version=99) as pair,
        ):
            pair.transport.configure(BYTES8, BYTES8, window=1, deadline_s=30)
            pair.transport.begin(overlap=False)
            pair.peer.configure(BYTES8, BYTES8)
            pair.peer.call("begin", overlap=False)
            pair.peer.call("send", seeds=[0])
            pair.transport.recv()
    finally:
        peer.kill()


@every_backend
def test_a_stranger_is_turned_away(backend: str, peer: Peer) -> None:
    """A port scan does not keep the neighbour out."""
    first, _ = endpoints()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(connect, backend, first, deadline_s=30)
        deadline = time.monotonic() + 10
        while True:
            try:
                scan = socket.create_connection(first.own, timeout=5)
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline, "the first rank never listened"
        with scan:
            scan.sendall(b"GET / HTTP/1.0\r\n\r\n" + b"\0" * 64)
            peer.call("connect", backend=backend, rank=1, ring=first.ring, version=None)
            waiting.result(30).close()
            peer.call("close")


@every_backend
def test_a_neighbour_that_does_not_come_is_named(backend: str) -> None:
    first, _ = endpoints()
    with pytest.raises(DeadlineExceeded, match=rf"127\.0\.0\.1:{first.next[1]}"):
        connect(backend, first, deadline_s=0.3)


@every_backend
def test_a_port_in_use_is_named(backend: str) -> None:
    first, _ = endpoints()
    with socket.create_server(first.own), pytest.raises(TransportError) as refused:
        connect(backend, first, deadline_s=5)
    assert f"127.0.0.1:{first.own[1]}" in str(refused.value)
    assert "in use" in str(refused.value)


@every_backend
def test_an_address_of_another_host_is_named(backend: str) -> None:
    first, _ = endpoints()
    elsewhere = replace(first, own=("192.0.2.1", first.own[1]))
    with pytest.raises(TransportError, match=r"192\.0\.2\.1.*data_address"):
        connect(backend, elsewhere, deadline_s=5)


def test_an_unknown_backend_is_refused_by_name() -> None:
    with pytest.raises(TransportError, match="'udp' is unknown; allowed are: tcp, rpc, gloo"):
        connect("udp", endpoints()[0], deadline_s=1)


def test_a_torch_without_rpc_or_gloo_says_so_and_still_has_tcp(
    monkeypatch: pytest.MonkeyPatch, peer: Peer
) -> None:
    monkeypatch.setattr(importlib, "import_module", refuse_import)
    monkeypatch.setattr(distributed, "is_gloo_available", lambda: False)
    for module, name in ((rpc, "RPC"), (gloo, "gloo")):
        with pytest.raises(TransportError, match=f"built without {name}; choose another"):
            module.connect(endpoints()[0], deadline_s=1)
    monkeypatch.undo()
    with paired("tcp", peer) as pair:
        run_leg(pair, BYTES8, count=1, window=1, overlap=False)


def refuse_import(name: str) -> None:
    """As a torch without it does."""
    raise ImportError(name)


def test_rpc_needs_the_first_address_of_an_interface() -> None:
    """TensorPipe takes an interface's name, and its first address."""
    own = ("127.0.0.9", free_ports(1)[0])
    end = Endpoint(0, own, own, "test", ring=(own,))
    with pytest.raises(TransportError, match=r"127\.0\.0\.9 is not the first address"):
        connect("rpc", end, deadline_s=5)


@every_backend
def test_nothing_is_reached_but_at_the_data_address(backend: str, peer: Peer) -> None:
    """`rpc` and `gloo` take whoever connects, so they must listen nowhere else."""
    before = {end for end, listens in ends() if listens}
    with paired(backend, peer):
        opened = [(end, listens) for end, listens in ends() if end not in before]
        assert {address for (address, _), _ in opened} == {"127.0.0.1"}
        ports = [port for (_, port), listens in opened if listens]
        if backend in ("rpc", "gloo"):
            assert ports, "their libraries go on listening"
        for port in ports:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.2", port), timeout=10)


@pytest.mark.parametrize("address", ["127.0.0.2", "0.0.0.0"])
def test_a_library_that_opens_a_socket_elsewhere_is_refused(address: str) -> None:
    with (
        contextlib.ExitStack() as stack,
        pytest.raises(TransportError, match=rf"{address}:\d+ instead of the data address 127"),
        Opened("127.0.0.1", store_port=1),
    ):
        opened = stack.enter_context(socket.create_server((address, 0)))
        assert opened.getsockname()[0] == address


def ends() -> list[tuple[tuple[str, int], bool]]:
    """Own ends of this process's TCP sockets, and whether they listen."""
    found = []
    for _, link in tcp_sockets():
        with link:
            listens = bool(link.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
            address, port = link.getsockname()[:2]
            found.append(((address.removeprefix("::ffff:"), port), listens))
    return found
