"""The contract of every backend: messages off the plan, and peers that fail."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from paretopipe_worker.cuts import TensorSpec, Varying
from paretopipe_worker.transport.api import DeadlineExceeded, PeerGone, ProtocolError, Tag
from tests.helpers.ring_peer import ITEM, tensors_of
from tests.helpers.rings import BYTES8, Pair, Peer, both_legs, every_backend, paired

pytestmark = pytest.mark.slow

LARGE = [TensorSpec((32 << 20,), "uint8")]


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
@pytest.mark.parametrize("size", [0, 11, 300_000])
def test_a_message_that_varies_has_one_byte_at_least_and_no_more_than_planned(
    backend: str, pair: Pair, size: int
) -> None:
    planned, tensor = [Varying.up_to(10)], torch.zeros(size, dtype=torch.uint8)
    pair.transport.configure(planned, planned, window=1, deadline_s=30)
    pair.transport.begin(overlap=False)
    with pytest.raises(ProtocolError, match=rf"of {size} bytes .* plan says: 1 to 10"):
        pair.transport.send(Tag(ITEM, 0), [tensor])
    if backend == "gloo" and size > 10:
        return  # gloo ends the process of a receiver whose memory is too small
    pair.peer.configure([], [TensorSpec((size,), "uint8")])
    pair.peer.call("begin", overlap=False)
    pair.peer.call("send", seeds=[0])
    with pytest.raises(ProtocolError, match=rf"announced {size} bytes .* 1 to 10"):
        pair.transport.recv()


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
            with pytest.raises(DeadlineExceeded, match=r"127\.0\.0\.1:\d+ .*(for|whole) 0\.5 s"):
                pair.transport.send(Tag(ITEM, 0), tensors_of(LARGE, 0))
                pair.transport.recv()
            assert 0.4 < time.monotonic() - start < 10
            peer.kill()
    finally:
        peer.kill()


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
        peer.kill()
