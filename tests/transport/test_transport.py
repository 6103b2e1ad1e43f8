"""One contract, run over every backend."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from paretopipe_worker.cuts import DTYPE_BYTES, TensorSpec
from paretopipe_worker.transport import gloo, rpc
from paretopipe_worker.transport.api import (
    MARK,
    DeadlineExceeded,
    Endpoint,
    PeerGone,
    ProtocolError,
    Tag,
    TransportError,
    connect,
)
from paretopipe_worker.transport.backends import BACKENDS
from tests.helpers.ring_peer import ITEM, resident_kb, tensors_of
from tests.helpers.rings import Pair, Peer, endpoints, free_ports, paired, threads

every_backend = pytest.mark.parametrize("backend", BACKENDS)
both_legs = pytest.mark.parametrize("overlap", [False, True], ids=["inline", "overlapped"])

BYTES8 = [TensorSpec((8,), "uint8")]
LARGE = [TensorSpec((32 << 20,), "uint8")]
MESSAGES = {
    "empty": [],
    "zero bytes": [TensorSpec((0, 3), "float32")],
    "scalar": [TensorSpec((), "float32")],
    "one byte": [TensorSpec((1,), "uint8")],
    "5 KB": [TensorSpec((1, 1280), "float32")],
    "several tensors": [
        TensorSpec((3, 5), "float32"),
        TensorSpec((7,), "int64"),
        TensorSpec((0,), "int8"),
        TensorSpec((2, 2, 2), "bool"),
    ],
    "13 MB": [TensorSpec((8, 64, 80, 80), "float32")],
    **{name: [TensorSpec((33, 3), name)] for name in DTYPE_BYTES},
}


class Peers:
    """A peer that tests share, since torch takes its time to load, until one of them ends it."""

    def __init__(self) -> None:
        self._peer: Peer | None = None

    def one(self) -> Peer:
        """The peer that lives, a new one where it was ended."""
        if self._peer is None or not self._peer.alive:
            self._peer = Peer()
        return self._peer

    def end(self) -> None:
        """End it."""
        if self._peer:
            self._peer.end()


@pytest.fixture(scope="module")
def peers() -> Iterator[Peers]:
    made = Peers()
    yield made
    made.end()


@pytest.fixture
def peer(peers: Peers) -> Peer:
    return peers.one()


@pytest.fixture
def pair(backend: str, peer: Peer) -> Iterator[Pair]:
    """Rank 0 here and rank 1 in the peer."""
    with paired(backend, peer) as joined:
        yield joined


def same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equality of shape, dtype and bytes (values may be NaN)."""
    return (
        a.shape == b.shape
        and a.dtype == b.dtype
        and torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
    )


def run_leg(pair: Pair, specs: list[TensorSpec], *, count: int, window: int, overlap: bool) -> None:
    """Send messages around, a window of them in flight, and hold what comes against what went."""
    pair.configure(specs, window=window)
    source = pair.transport
    sent = [tensors_of(specs, seed) for seed in range(count)]
    echoed = pair.peer.start("echo", overlap=overlap)
    source.begin(overlap=overlap)
    for number in range(count + window):
        if number >= window:
            message = source.recv()
            assert message.tag == Tag(ITEM, number - window)
            want = sent[number - window]
            assert len(message.tensors) == len(want)
            assert all(map(same_bytes, message.tensors, want))
        if number < count:
            packed_ns = source.send(Tag(ITEM, number), sent[number])
            assert packed_ns <= time.perf_counter_ns()
    source.send(MARK, ())
    assert source.recv().tag == MARK
    echoed()


@every_backend
@both_legs
def test_messages_keep_order_and_every_byte(pair: Pair, overlap: bool) -> None:
    for specs in MESSAGES.values():
        run_leg(pair, specs, count=8, window=3 if overlap else 1, overlap=overlap)


@every_backend
def test_both_kinds_of_leg_follow_each_other_at_any_size(pair: Pair) -> None:
    for size in (1, 200_000, 3, 3_000_000):
        for overlap in (False, True):
            specs = [TensorSpec((size,), "uint8")]
            run_leg(pair, specs, count=2, window=2 if overlap else 1, overlap=overlap)


@pytest.mark.long
@every_backend
@both_legs
def test_the_largest_messages_cross(pair: Pair, overlap: bool) -> None:
    # VGG16 at batch 8 sends 103 MB.
    for specs in ([TensorSpec((8, 64, 224, 224), "float32")], [TensorSpec((128 << 20,), "uint8")]):
        run_leg(pair, specs, count=3, window=1, overlap=overlap)


@every_backend
def test_what_is_not_contiguous_crosses_as_its_values(pair: Pair) -> None:
    pair.configure([TensorSpec((4, 3), "float32")])
    echoed = pair.peer.start("echo", overlap=False)
    pair.transport.begin(overlap=False)
    turned = torch.arange(12.0).reshape(3, 4).t()
    pair.transport.send(Tag(ITEM, 0), [turned])
    assert torch.equal(pair.transport.recv().tensors[0], turned)
    pair.transport.send(MARK, ())
    pair.transport.recv()
    echoed()


@every_backend
def test_a_message_that_comes_before_it_is_expected_waits(pair: Pair) -> None:
    """Legs are opened at each rank by itself: the sender may be first."""
    specs = [TensorSpec((5000,), "uint8")]
    pair.configure([TensorSpec((3,), "uint8")], window=2)
    pair.peer.configure(specs, specs, window=2)
    pair.peer.call("begin", overlap=True)
    sending = pair.peer.start("send", seeds=[7, 8])
    sending()
    pair.transport.configure(specs, specs, window=2, deadline_s=30)
    pair.transport.begin(overlap=False)
    for seed in (7, 8):
        message = pair.transport.recv()
        assert message.tag == Tag(ITEM, seed)
        assert same_bytes(message.tensors[0], tensors_of(specs, seed)[0])


@every_backend
def test_a_message_the_plan_does_not_know_is_refused_by_its_sender(pair: Pair) -> None:
    pair.transport.configure([], BYTES8, window=1, deadline_s=30)
    pair.transport.begin(overlap=False)
    with pytest.raises(ProtocolError, match=r"of 7 bytes .* plan says: 8"):
        pair.transport.send(Tag(ITEM, 0), [torch.zeros(7, dtype=torch.uint8)])


@every_backend
def test_a_message_the_plan_does_not_know_is_refused_by_its_receiver(pair: Pair) -> None:
    pair.peer.configure([], BYTES8)
    pair.peer.call("begin", overlap=False)
    pair.transport.configure([TensorSpec((9,), "uint8")], [], window=1, deadline_s=30)
    pair.transport.begin(overlap=False)
    pair.peer.call("send", seeds=[0])
    with pytest.raises(ProtocolError, match="announced 8 bytes where the plan says 9"):
        pair.transport.recv()


@every_backend
def test_a_peer_of_another_version_is_refused(backend: str, peers: Peers) -> None:
    peer = peers.one()
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
        peer.end()


@every_backend
@both_legs
def test_waiting_ends_at_the_deadline(pair: Pair, overlap: bool) -> None:
    pair.transport.configure(BYTES8, [], window=1, deadline_s=0.3)
    pair.transport.begin(overlap=overlap)
    start = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"127\.0\.0\.1:\d+ for 0\.3 s"):
        pair.transport.recv()
    assert 0.2 < time.monotonic() - start < 5


@every_backend
@both_legs
def test_a_peer_that_stands_still_is_noticed_at_the_deadline(
    backend: str, peer: Peer, overlap: bool
) -> None:
    """Its kernel takes what fits into its buffers; then nothing more goes, and nothing comes."""
    try:
        with paired(backend, peer) as pair:
            pair.configure(LARGE, deadline_s=0.5)
            peer.kill(signal.SIGSTOP)
            pair.transport.begin(overlap=overlap)
            start = time.monotonic()
            with pytest.raises(DeadlineExceeded, match=r"127\.0\.0\.1:\d+ .*for 0\.5 s"):
                pair.transport.send(Tag(ITEM, 0), tensors_of(LARGE, 0))
                pair.transport.recv()
            assert 0.4 < time.monotonic() - start < 10
            peer.end()
    finally:
        peer.end()


@every_backend
@both_legs
@pytest.mark.parametrize("mode", ["waits", "receives", "sends"])
def test_a_killed_peer_is_noticed_at_once(
    backend: str, peer: Peer, mode: str, overlap: bool
) -> None:
    """We wait for it, it receives from us, or it sends to us, while it is killed."""
    try:
        with paired(backend, peer) as pair:
            pair.configure(LARGE)
            peer.call("begin", overlap=False)
            pair.transport.begin(overlap=overlap)
            if mode == "sends":
                peer.start("send", seeds=[0, 1, 2, 3])
            elif mode == "receives":
                peer.start("receive", count=4)

            def drive() -> None:
                for number in range(4):
                    if mode == "receives":
                        pair.transport.send(Tag(ITEM, number), tensors_of(LARGE, 0))
                    if mode == "sends":
                        pair.transport.recv()
                while True:
                    pair.transport.recv()

            with ThreadPoolExecutor(1) as pool:
                failing = pool.submit(drive)
                peer.kill()
                start = time.monotonic()
                with pytest.raises(PeerGone, match=r"127\.0\.0\.1|gone"):
                    failing.result(timeout=20)
                assert time.monotonic() - start < 15
    finally:
        peer.end()


@every_backend
def test_closing_twice_does_nothing_and_leaves_no_thread(pair: Pair) -> None:
    assert threads()
    for _ in range(2):
        pair.transport.close()
    assert not threads()


@every_backend
def test_memory_does_not_grow_with_the_number_of_messages(pair: Pair) -> None:
    specs, window = [TensorSpec((1000,), "uint8")], 3
    [tensor] = tensors_of(specs, 1)
    pair.configure(specs, window=window)
    for leg, count in enumerate((2000, 10_000)):
        echoed = pair.peer.start("echo", overlap=True)
        pair.transport.begin(overlap=True)
        for number in range(count + window):
            if number >= window:
                pair.transport.recv()
            if number < count:
                pair.transport.send(Tag(ITEM, number), [tensor])
        pair.transport.send(MARK, ())
        pair.transport.recv()
        echoed()
        now = resident_kb(), pair.peer.call("resident_kb")
        if leg == 0:
            before = now
    grown = [after - first for first, after in zip(before, now, strict=True)]
    assert max(grown) < 4096, f"resident memory grew by {grown} KiB"


@every_backend
def test_counters_see_what_was_sent_and_nothing_else(backend: str, pair: Pair) -> None:
    specs, count = [TensorSpec((500_000,), "uint8")], 4
    pair.configure(specs)
    idle = pair.transport.counters()
    assert pair.transport.counters() == idle
    with socket.create_server(("127.0.0.1", free_ports(1)[0])) as server:
        with socket.create_connection(server.getsockname()) as other:
            other.sendall(b"x" * 100_000)
        pair.peer.start("echo", overlap=False)
        pair.transport.begin(overlap=False)
        for number in range(count):
            pair.transport.send(Tag(ITEM, number), tensors_of(specs, number))
            pair.transport.recv()
        pair.transport.send(MARK, ())
        pair.transport.recv()
    after = pair.transport.counters()
    assert (after.retransmitted_bytes is not None) and (idle.retransmitted_bytes is not None)
    sent = after.sent_bytes - idle.sent_bytes
    again = after.retransmitted_bytes - idle.retransmitted_bytes
    framing = BACKENDS[backend].most_framing_bytes * (count + 1)
    assert count * 500_000 < sent - again <= count * 500_000 + framing
    pair.peer._result()


@every_backend
def test_no_message_has_more_framing_than_its_backend_says(backend: str, pair: Pair) -> None:
    """The worst are small messages of several tensors."""
    specs, count = MESSAGES["several tensors"], 50
    payload = sum(spec.nbytes for spec in specs)
    pair.configure(specs, window=3)
    before = pair.transport.counters()
    run_leg(pair, specs, count=count, window=3, overlap=True)
    after = pair.transport.counters()
    framing = (after.sent_bytes - before.sent_bytes - count * payload) / (count + 1)
    assert framing <= BACKENDS[backend].most_framing_bytes


@every_backend
def test_every_message_has_the_framing_that_its_backend_says_at_least(
    backend: str, pair: Pair
) -> None:
    """The least are those of a single byte."""
    specs, count = MESSAGES["one byte"], 50
    pair.configure(specs, window=3)
    before = pair.transport.counters()
    run_leg(pair, specs, count=count, window=3, overlap=False)
    after = pair.transport.counters()
    framing = (after.sent_bytes - before.sent_bytes - count) / count
    assert framing >= BACKENDS[backend].least_framing_bytes


@every_backend
def test_settings_that_matter_are_told(pair: Pair) -> None:
    facts = pair.transport.facts()
    assert facts["congestion_control"] and facts["send_buffer_bytes"]


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
    monkeypatch.setattr(rpc.importlib, "import_module", refuse_import)
    monkeypatch.setattr(gloo.distributed, "is_gloo_available", lambda: False)
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
