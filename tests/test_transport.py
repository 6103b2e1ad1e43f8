"""One contract, run over every backend that is built."""

from __future__ import annotations

import resource
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from paretopipe_worker.cuts import DTYPE_BYTES, TensorSpec
from paretopipe_worker.transport import (
    BACKENDS,
    MARK,
    PHASES,
    DeadlineExceeded,
    Endpoint,
    PeerGone,
    ProtocolError,
    Tag,
    Transport,
    TransportError,
    connect,
)
from tests.rings import alongside, endpoints, free_ports, ring, threads_named

BUILT = [name for name, module in BACKENDS.items() if module]
ITEM = PHASES.index("throughput")

pytestmark = pytest.mark.parametrize("backend", BUILT)


def tensors_of(specs: Sequence[TensorSpec], seed: int) -> list[torch.Tensor]:
    """Tensors of these specs whose bytes are random."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for spec in specs:
        raw = torch.randint(0, 256, (spec.nbytes,), dtype=torch.uint8, generator=generator)
        if spec.dtype == "bool":
            raw %= 2
        made.append(raw.view(getattr(torch, spec.dtype)).reshape(spec.shape))
    return made


def echo(transport: Transport, *, overlap: bool) -> None:
    """Send back every message of a leg."""
    transport.begin(overlap=overlap)
    while (message := transport.recv()).tag != MARK:
        transport.send(message.tag, message.tensors)
    transport.send(MARK, ())


def same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equality of shape, dtype and bytes (values may be NaN)."""
    return (
        a.shape == b.shape
        and a.dtype == b.dtype
        and torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
    )


MESSAGES = {
    "empty": [],
    "zero bytes": [TensorSpec((0, 3), "float32")],
    "scalar": [TensorSpec((), "float32")],
    "one byte": [TensorSpec((1,), "uint8")],
    "5 KB": [TensorSpec((1, 1280), "float32")],
    "several tensors": [
        TensorSpec((3, 5), "float32"),
        TensorSpec((7,), "int64"),
        TensorSpec((2, 2, 2), "bool"),
    ],
    "13 MB": [TensorSpec((8, 64, 80, 80), "float32")],
    **{name: [TensorSpec((33, 3), name)] for name in DTYPE_BYTES},
}


@pytest.mark.parametrize("overlap", [False, True], ids=["inline", "overlapped"])
@pytest.mark.parametrize("specs", MESSAGES.values(), ids=MESSAGES)
def test_messages_keep_order_and_every_byte(
    backend: str, specs: list[TensorSpec], overlap: bool
) -> None:
    window, count = 3, 8
    sent = [tensors_of(specs, seed) for seed in range(count)]
    with ring(backend) as (source, sink):
        for transport in (source, sink):
            transport.configure(specs, specs, window=window, deadline_s=30)
        with alongside(lambda: echo(sink, overlap=overlap)):
            source.begin(overlap=overlap)
            in_flight = window if overlap else 1
            for number in range(count + in_flight):
                if number >= in_flight:
                    message = source.recv()
                    assert message.tag == Tag(ITEM, number - in_flight)
                    want = sent[number - in_flight]
                    assert len(message.tensors) == len(want)
                    assert all(map(same_bytes, message.tensors, want))
                if number < count:
                    source.send(Tag(ITEM, number), sent[number])
            source.send(MARK, ())
            assert source.recv().tag == MARK


@pytest.mark.long
def test_the_largest_message_of_the_paper_crosses(backend: str) -> None:
    specs = [TensorSpec((8, 64, 224, 224), "float32")]  # VGG16 at batch 8: 103 MB
    [tensor] = tensors_of(specs, 1)
    with ring(backend) as (source, sink):
        for transport in (source, sink):
            transport.configure(specs, specs, window=1, deadline_s=60)
        with alongside(lambda: echo(sink, overlap=False)):
            source.begin(overlap=False)
            source.send(Tag(ITEM, 0), [tensor])
            assert same_bytes(source.recv().tensors[0], tensor)
            source.send(MARK, ())
            source.recv()


def test_legs_and_sizes_follow_each_other(backend: str) -> None:
    with ring(backend) as (source, sink):
        for number, size in enumerate((1, 200_000, 3, 3_000_000)):
            specs = [TensorSpec((size,), "uint8")]
            for transport in (source, sink):
                transport.configure(specs, specs, window=2, deadline_s=30)
            for overlap in (False, True):
                with alongside(lambda overlap=overlap: echo(sink, overlap=overlap)):
                    source.begin(overlap=overlap)
                    [tensor] = tensors_of(specs, number)
                    source.send(Tag(ITEM, 7), [tensor])
                    assert same_bytes(source.recv().tensors[0], tensor)
                    source.send(MARK, ())
                    assert source.recv().tag == MARK


def test_what_is_not_contiguous_crosses_as_its_values(backend: str) -> None:
    specs = [TensorSpec((4, 3), "float32")]
    turned = torch.arange(12.0).reshape(3, 4).t()
    with ring(backend) as (source, sink):
        source.configure([], specs, window=1, deadline_s=30)
        sink.configure(specs, [], window=1, deadline_s=30)
        source.begin(overlap=False)
        sink.begin(overlap=False)
        source.send(Tag(ITEM, 0), [turned])
        assert torch.equal(sink.recv().tensors[0], turned)


def test_a_message_the_plan_does_not_know_is_refused_by_sender_and_receiver(backend: str) -> None:
    with ring(backend) as (source, sink):
        source.configure([], [TensorSpec((8,), "uint8")], window=1, deadline_s=30)
        sink.configure([TensorSpec((9,), "uint8")], [], window=1, deadline_s=30)
        source.begin(overlap=False)
        sink.begin(overlap=False)
        with pytest.raises(ProtocolError, match=r"of 7 bytes .* plan says: 8"):
            source.send(Tag(ITEM, 0), [torch.zeros(7, dtype=torch.uint8)])
        source.send(Tag(ITEM, 0), [torch.zeros(8, dtype=torch.uint8)])
        with pytest.raises(ProtocolError, match="announced 8 bytes where the plan says 9"):
            sink.recv()


@pytest.mark.parametrize("overlap", [False, True], ids=["inline", "overlapped"])
def test_waiting_ends_at_the_deadline(backend: str, overlap: bool) -> None:
    with ring(backend) as (source, sink):
        sink.configure([TensorSpec((8,), "uint8")], [], window=1, deadline_s=0.3)
        sink.begin(overlap=overlap)
        start = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=r"127\.0\.0\.1:\d+ for 0\.3 s"):
            sink.recv()
        assert 0.2 < time.monotonic() - start < 5
        source.close()


def test_sending_to_one_who_does_not_receive_ends_at_the_deadline(backend: str) -> None:
    specs = [TensorSpec((64 << 20,), "uint8")]
    with ring(backend) as (source, _):
        source.configure([], specs, window=1, deadline_s=0.3)
        source.begin(overlap=False)
        with pytest.raises(DeadlineExceeded, match=r"took nothing for 0\.3 s"):
            source.send(Tag(ITEM, 0), tensors_of(specs, 0))


PEER = """
    import sys
    from paretopipe_worker.cuts import TensorSpec
    from paretopipe_worker.transport import Endpoint, Tag, connect
    import torch

    backend, own, other, mode = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    size = 32 << 20
    end = Endpoint(1, ("127.0.0.1", own), ("127.0.0.1", other), "test")
    transport = connect(backend, end, deadline_s=30)
    specs = [TensorSpec((size,), "uint8")]
    transport.configure(specs, specs, window=1, deadline_s=60)
    transport.begin(overlap=False)
    print("ready", flush=True)
    if mode == "sends":
        transport.send(Tag(0, 0), [torch.zeros(size, dtype=torch.uint8)])
    elif mode == "receives":
        transport.recv()
    sys.stdin.read()
"""


@pytest.mark.parametrize("overlap", [False, True], ids=["inline", "overlapped"])
@pytest.mark.parametrize("mode", ["waits", "receives", "sends"])
def test_a_killed_peer_is_noticed_at_once(backend: str, mode: str, overlap: bool) -> None:
    """We wait for it, send to it, or receive from it while it is killed."""
    own, other = free_ports(2)
    arguments = [backend, str(other), str(own), mode]
    peer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PEER), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    specs = [TensorSpec((32 << 20,), "uint8")]
    try:
        transport = connect(
            backend,
            Endpoint(0, ("127.0.0.1", own), ("127.0.0.1", other), "test"),
            deadline_s=30,
        )
        transport.configure(specs, specs, window=1, deadline_s=60)
        assert peer.stdout is not None
        assert peer.stdout.readline() == "ready\n"
        transport.begin(overlap=overlap)
        with ThreadPoolExecutor(1) as pool:
            if mode == "sends":
                # The kernel's buffers hold part of what it sends: it is stuck in the middle.
                peer.send_signal(signal.SIGKILL)
                failing = pool.submit(lambda: [transport.recv() for _ in range(2)])
            elif mode == "receives":
                message = tensors_of(specs, 0)

                def send_and_wait() -> None:
                    # With overlap a send may leave the rest to a thread, and the wait fails.
                    transport.send(Tag(ITEM, 0), message)
                    transport.send(Tag(ITEM, 1), message)
                    transport.recv()

                failing = pool.submit(send_and_wait)
                peer.send_signal(signal.SIGKILL)
            else:
                failing = pool.submit(lambda: [transport.recv()])
                peer.send_signal(signal.SIGKILL)
            with pytest.raises(PeerGone, match=r"127\.0\.0\.1|gone"):
                failing.result(timeout=20)
        transport.close()
    finally:
        peer.kill()
        peer.wait()


def test_closing_twice_does_nothing_and_leaves_no_thread(backend: str) -> None:
    with ring(backend) as (source, sink):
        for transport in (source, sink):
            transport.close()
            transport.close()
    assert not threads_named("receive") + threads_named("send")


def test_memory_does_not_grow_with_the_number_of_messages(backend: str) -> None:
    specs = [TensorSpec((1000,), "uint8")]
    [tensor] = tensors_of(specs, 1)
    with ring(backend) as (source, sink):
        for transport in (source, sink):
            transport.configure(specs, specs, window=3, deadline_s=30)
        with alongside(lambda: echo(sink, overlap=True)):
            source.begin(overlap=True)
            for number in range(12_000):
                if number == 2000:
                    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                source.send(Tag(ITEM, number), [tensor])
                source.recv()
            after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            source.send(MARK, ())
            source.recv()
    assert after - before < 4096, f"resident memory grew by {after - before} KiB"


def test_counters_see_what_was_sent_and_nothing_else(backend: str) -> None:
    specs = [TensorSpec((500_000,), "uint8")]
    with ring(backend) as (source, sink):
        for transport in (source, sink):
            transport.configure(specs, specs, window=1, deadline_s=30)
        idle = source.counters()
        assert source.counters() == idle
        with alongside(lambda: echo(sink, overlap=False)):
            source.begin(overlap=False)
            for number in range(4):
                source.send(Tag(ITEM, number), tensors_of(specs, number))
                source.recv()
            source.send(MARK, ())
            source.recv()
        sent = source.counters().sent_bytes - idle.sent_bytes
    assert 2_000_000 <= sent < 2_010_000


def test_a_stranger_is_turned_away(backend: str) -> None:
    """A port scan, and a stage of another session, do not keep the neighbour out."""
    first, second = endpoints()
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(lambda: connect(backend, first, deadline_s=30))
        deadline = time.monotonic() + 10
        while True:
            try:
                scan = socket.create_connection(first.own, timeout=5)
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline, "the first rank never listened"
        scan.sendall(b"GET / HTTP/1.0\r\n\r\n" + b"\0" * 64)
        with socket.create_connection(first.own, timeout=5) as other:
            said = b'{"session": "another", "rank": 1, "purpose": "ring", "agreement": {}}'
            other.sendall(struct.pack("<4sHH", b"PPRH", 2, len(said)) + said)
            joined = pool.submit(lambda: connect(backend, second, deadline_s=30))
            for transport in (waiting.result(30), joined.result(30)):
                transport.close()
        scan.close()


def test_a_neighbour_that_does_not_come_is_named(backend: str) -> None:
    first, _ = endpoints()
    with pytest.raises(DeadlineExceeded, match=rf"127\.0\.0\.1:{first.next[1]}"):
        connect(backend, first, deadline_s=0.3)


def test_a_port_in_use_is_named(backend: str) -> None:
    first, _ = endpoints()
    with socket.create_server(first.own), pytest.raises(TransportError) as refused:
        connect(backend, first, deadline_s=5)
    assert f"127.0.0.1:{first.own[1]}" in str(refused.value)
    assert "in use" in str(refused.value)


def test_an_address_of_another_host_is_named(backend: str) -> None:
    end = Endpoint(0, ("192.0.2.1", free_ports(1)[0]), ("127.0.0.1", 1), "test")
    with pytest.raises(TransportError, match=r"192\.0\.2\.1.*data_address"):
        connect(backend, end, deadline_s=5)


def test_a_backend_that_is_not_built_says_so(backend: str) -> None:
    missing = next(name for name, module in BACKENDS.items() if module is None)
    with pytest.raises(TransportError, match=f"'{missing}' is not built.*{backend}"):
        connect(missing, endpoints()[0], deadline_s=1)


def test_threads_belong_to_the_transport(backend: str) -> None:
    before = threading.active_count()
    with ring(backend):
        assert threading.active_count() > before
    assert threading.active_count() == before
