"""The contract of every backend: what crosses, and what is counted of it."""

from __future__ import annotations

import socket

import pytest
import torch

from paretopipe_worker.cuts import DTYPE_BYTES, TensorSpec, Varying
from paretopipe_worker.transport.api import MARK, Tag
from paretopipe_worker.transport.backends import BACKENDS
from tests.helpers.ring_peer import ITEM, resident_kb, tensors_of
from tests.helpers.rings import (
    Pair,
    both_legs,
    every_backend,
    exchange,
    free_ports,
    run_leg,
    same_bytes,
    threads,
)

pytestmark = pytest.mark.slow

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


@every_backend
@both_legs
def test_messages_that_vary_in_size_keep_order_and_every_byte(pair: Pair, overlap: bool) -> None:
    """Memory is there for the largest; what lies behind a smaller one belongs to the next."""
    most = 300_000
    sizes = [1, most, 31, 32, 33, most - 1, 7, 1000, most, 1, 1, 64 << 10, (64 << 10) + 1]
    sent = [tensors_of([TensorSpec((size,), "uint8")], seed) for seed, size in enumerate(sizes)]
    pair.configure([Varying.up_to(most)], window=3)
    before = pair.transport.counters()
    for _ in range(2):
        exchange(pair, sent, window=3 if overlap else 1, overlap=overlap)
    after = pair.transport.counters()
    again = (after.retransmitted_bytes or 0) - (before.retransmitted_bytes or 0)
    assert after.sent_bytes - before.sent_bytes - again >= 2 * sum(sizes)
    # What was posted or allocated for sizes that vary is of no use to the next point.
    run_leg(pair, [TensorSpec((most,), "uint8")], count=2, window=1, overlap=overlap)


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
    for leg, count in enumerate((1000, 3000)):
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
    assert max(grown) < 1024, f"resident memory grew by {grown} KiB"


@every_backend
def test_memory_does_not_grow_with_the_number_of_legs(pair: Pair) -> None:
    specs = [TensorSpec((1000,), "uint8")]
    sent = [tensors_of(specs, seed) for seed in range(3)]
    held = []
    for legs in (400, 600):
        for _ in range(legs):
            pair.configure(specs, window=2)
            exchange(pair, sent, 2, overlap=True)
        held.append((resident_kb(), pair.peer.call("resident_kb")))
    grown = [after - first for first, after in zip(*held, strict=True)]
    assert max(grown) < 600, f"resident memory grew by {grown} KiB in 600 legs"


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
