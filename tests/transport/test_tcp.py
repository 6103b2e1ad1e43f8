"""The tcp backend's own: frames off the plan, messages in pieces, and connections per hop."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch

from paretopipe_worker.cuts import TensorSpec, Varying
from paretopipe_worker.transport.api import MARK, DeadlineExceeded, Endpoint, ProtocolError, Tag
from paretopipe_worker.transport.sockets import tcp_sockets
from paretopipe_worker.transport.tcp import _HEADER, _MAGIC, VERSION, TcpTransport
from tests.helpers.rings import endpoints, free_ports, joined
from tests.helpers.waiting import repeatedly, until

PLANNED = 3_000_000


@pytest.fixture
def rank() -> Iterator[tuple[TcpTransport, socket.socket]]:
    """One rank that expects messages of the planned size, and the socket they come from."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = socket.create_connection(listener.getsockname(), timeout=10)
        inbound, _ = listener.accept()
        onward = socket.create_connection(listener.getsockname(), timeout=10)
        receiver, _ = listener.accept()
    with sender, receiver, closing(TcpTransport(inbound, onward)) as transport:
        specs = [TensorSpec((PLANNED,), "uint8")]
        transport.configure(specs, specs, window=1, deadline_s=10)
        yield transport, sender


@pytest.mark.parametrize("overlap", [False, True], ids=["inline", "overlapped"])
@pytest.mark.parametrize("announced", [0, PLANNED - 1, PLANNED + 1, 1 << 40, (1 << 64) - 1])
def test_a_frame_of_another_size_is_refused_before_memory_is_taken(
    rank: tuple[TcpTransport, socket.socket], announced: int, overlap: bool
) -> None:
    transport, sender = rank
    transport.begin(overlap=overlap)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sender.sendall(_HEADER.pack(_MAGIC, VERSION, 2, 0, announced, 0))
    with pytest.raises(ProtocolError, match=rf"announced {announced} bytes where .* {PLANNED}"):
        transport.recv()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4096


@pytest.mark.parametrize("overlap", [False, True], ids=["inline", "overlapped"])
@pytest.mark.parametrize("announced", [0, PLANNED + 1, 1 << 40, (1 << 64) - 1])
def test_a_frame_larger_than_any_that_may_come_is_refused_before_memory_is_taken(
    rank: tuple[TcpTransport, socket.socket], announced: int, overlap: bool
) -> None:
    transport, sender = rank
    transport.configure([Varying.up_to(PLANNED)], [], window=1, deadline_s=10)
    transport.begin(overlap=overlap)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sender.sendall(_HEADER.pack(_MAGIC, VERSION, 2, 0, announced, 0) + b"more")
    with pytest.raises(ProtocolError, match=rf"announced {announced} bytes .* 1 to {PLANNED}"):
        transport.recv()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4096


def test_messages_that_vary_may_come_together_and_in_any_pieces(
    rank: tuple[TcpTransport, socket.socket],
) -> None:
    transport, sender = rank
    transport.configure([Varying.up_to(PLANNED)], [], window=3, deadline_s=10)
    transport.begin(overlap=True)
    sizes = [3, 1, 200, 5]
    raw = b"".join(
        _HEADER.pack(_MAGIC, VERSION, 2, number, size, 0) + bytes([number]) * size
        for number, size in enumerate(sizes)
    )
    sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for start, end in ((0, 34), (34, 36), (36, 90), (90, len(raw))):
        sender.sendall(raw[start:end])
    for number, size in enumerate(sizes):
        message = transport.recv()
        assert message.tag == Tag(2, number)
        assert message.tensors[0].tolist() == [number] * size


@pytest.mark.parametrize(
    ("header", "text"),
    [
        (_HEADER.pack(_MAGIC, VERSION - 1, 2, 0, PLANNED, 0), "does not speak version"),
        (_HEADER.pack(b"HTTP", VERSION, 2, 0, PLANNED, 0), "does not speak version"),
        (_HEADER.pack(_MAGIC, VERSION, 99, 0, PLANNED, 0), "does not speak version"),
        (_HEADER.pack(_MAGIC, VERSION, *MARK, 5, 0), "announced 5 bytes where the plan says 0"),
        (_HEADER.pack(_MAGIC, VERSION, *MARK, 0, 0) + b"more", "sent data after a mark"),
    ],
)
def test_what_is_no_message_of_the_plan_is_refused(
    rank: tuple[TcpTransport, socket.socket], header: bytes, text: str
) -> None:
    transport, sender = rank
    transport.begin(overlap=False)
    sender.sendall(header)
    with pytest.raises(ProtocolError, match=text):
        transport.recv()


def test_what_comes_while_the_stage_computes_has_the_time_at_which_it_came(
    rank: tuple[TcpTransport, socket.socket],
) -> None:
    transport, sender = rank
    transport.configure([TensorSpec((8,), "uint8")], [], window=1, deadline_s=10)
    transport.begin(overlap=True)
    sender.sendall(_HEADER.pack(_MAGIC, VERSION, 2, 0, 8, 0) + bytes(8))
    deadline = time.monotonic() + 10
    while transport._arrived.empty():
        assert time.monotonic() < deadline, "nothing was received ahead"
        os.sched_yield()
    asked_ns = time.perf_counter_ns()
    assert transport.recv().received_ns < asked_ns


def test_a_message_may_come_in_any_pieces(rank: tuple[TcpTransport, socket.socket]) -> None:
    transport, sender = rank
    transport.begin(overlap=True)
    payload = torch.arange(PLANNED, dtype=torch.int64).to(torch.uint8)
    raw = _HEADER.pack(_MAGIC, VERSION, 2, 7, PLANNED, 11) + payload.numpy().tobytes()
    sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for start, end in ((0, 1), (1, 31), (31, 40), (40, 1000), (1000, len(raw))):
        sender.sendall(raw[start:end])
    message = transport.recv()
    assert (message.tag, message.departed_ns) == (Tag(2, 7), 11)
    assert torch.equal(message.tensors[0], payload)


def test_a_message_that_comes_packet_by_packet_seldom_wakes_its_receiver(
    rank: tuple[TcpTransport, socket.socket],
) -> None:
    """Each time it would take the core from a stage that computes."""
    transport, sender = rank
    size, piece = 320 << 10, 1 << 10
    transport.configure([TensorSpec((size,), "uint8")], [], window=1, deadline_s=10)
    transport.begin(overlap=True)
    sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    receiver = Path(f"/proc/self/task/{transport._threads[0].native_id}/status")
    waiting = sleeps(receiver)
    raw = _HEADER.pack(_MAGIC, VERSION, 2, 0, size, 0) + bytes(size)
    for start in range(0, len(raw), piece):
        sender.sendall(raw[start : start + piece])
        until(lambda: "State:\tS" in receiver.read_text(), "a receiver that sleeps", every_s=1e-4)
    assert transport.recv().tag == Tag(2, 0)
    assert sleeps(receiver) - waiting < size / piece / 10


def sleeps(status: Path) -> int:
    """How often a thread has given up its core to wait for something."""
    found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status.read_text(), re.MULTILINE)
    assert found
    return int(found[1])


@pytest.mark.parametrize(("ranks", "connections"), [(2, 1), (3, 3)])
def test_two_ranks_share_a_connection_and_more_have_one_for_each_hop(
    ranks: int, connections: int
) -> None:
    ring = tuple(("127.0.0.1", port) for port in free_ports(ranks))
    ends = [
        Endpoint(rank, ring[rank], ring[(rank + 1) % ranks], "test", ring=ring)
        for rank in range(ranks)
    ]
    before = opened()
    with joined("tcp", ends) as transports:
        assert len(opened() - before) == 2 * connections
        specs = [TensorSpec((5,), "uint8")]
        for transport in transports:
            transport.configure(specs, specs, window=1, deadline_s=10)
            transport.begin(overlap=False)
        shaken = [transport.counters().sent_bytes for transport in transports]
        sent = torch.arange(5, dtype=torch.uint8)
        for rank, transport in enumerate(transports):
            tensors = (sent,) if rank == 0 else transport.recv().tensors
            transport.send(Tag(2, 0), tensors)
        assert torch.equal(transports[0].recv().tensors[0], sent)
        # What each rank has sent is counted for it alone.
        now = [transport.counters().sent_bytes for transport in transports]
        assert [a - b for a, b in zip(now, shaken, strict=True)] == [_HEADER.size + 5] * ranks
    assert opened() == before


def test_once_a_ring_is_joined_nobody_else_is_let_in() -> None:
    ends = endpoints()
    with joined("tcp", ends):
        for end in ends:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(end.own, timeout=10)


def opened() -> set[int]:
    """TCP sockets of this process, both ends of a connection within it, by inode."""
    found = set()
    for inode, link in tcp_sockets():
        found.add(inode)
        link.close()
    return found


@pytest.mark.parametrize("overlap", [False, True], ids=["inline", "overlapped"])
@pytest.mark.parametrize("header", [b"", _HEADER.pack(_MAGIC, VERSION, 2, 0, PLANNED, 0)])
def test_a_byte_now_and_then_does_not_put_the_deadline_of_a_message_off(
    rank: tuple[TcpTransport, socket.socket], header: bytes, overlap: bool
) -> None:
    transport, sender = rank
    transport.configure([TensorSpec((PLANNED,), "uint8")], [], window=1, deadline_s=0.4)
    transport.begin(overlap=overlap)
    sender.sendall(header)
    magic = _MAGIC + bytes(_HEADER.size)  # what a header begins with, a byte at a time
    with (
        now_and_then(lambda turn: sender.sendall(magic[turn : turn + 1] or b"\0")),
        pytest.raises(DeadlineExceeded, match=r"from 127\.0\.0\.1:\d+ was not whole 0\.4 s after"),
    ):
        transport.recv()


@pytest.mark.parametrize("overlap", [False, True], ids=["inline", "overlapped"])
def test_one_who_takes_a_little_now_and_then_does_not_put_the_deadline_off(overlap: bool) -> None:
    """It takes enough at a time for its kernel to ask for more."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        onward = socket.create_connection(listener.getsockname(), timeout=10)
        taker, _ = listener.accept()
    onward.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)
    with taker, closing(TcpTransport(onward, onward)) as transport:
        specs = [TensorSpec((PLANNED,), "uint8")]
        transport.configure(specs, specs, window=1, deadline_s=0.4)
        transport.begin(overlap=overlap)
        message = [torch.zeros(PLANNED, dtype=torch.uint8)]
        with (
            now_and_then(lambda _: taker.recv(1 << 13)),
            pytest.raises(
                DeadlineExceeded, match=r"to 127\.0\.0\.1:\d+ was not whole 0\.4 s after"
            ),
        ):
            transport.send(Tag(2, 0), message)
            # Another thread found out; the next call tells.
            until(lambda: transport._fault, "the error of the thread that sends")
            transport.send(Tag(2, 1), message)


@contextlib.contextmanager
def now_and_then(act: Callable[[int], object]) -> Iterator[None]:
    """Do something again and again, with pauses, in a thread, while the block runs."""
    turns = itertools.count()

    def go() -> None:
        with contextlib.suppress(OSError):
            act(next(turns))

    with repeatedly(go, every_s=0.05):
        yield
