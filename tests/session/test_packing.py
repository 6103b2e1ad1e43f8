"""How a rank packs what it sends: whose memory, whose time, and what is missing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from paretopipe_worker.cuts import TensorSpec, Varying
from paretopipe_worker.plan.plan import Point
from paretopipe_worker.session import packing
from paretopipe_worker.session.packing import Packing
from paretopipe_worker.wire import lossless
from paretopipe_worker.wire.api import WireError
from tests.helpers.tables import fleet, make, table

CUT, WINDOW = "layer1", 2
[SPEC] = table().cuts[1].tensors


class Configured:
    """Takes a transport's settings and moves nothing."""

    def __init__(self) -> None:
        self.carried: list[Sequence[TensorSpec]] = []

    def configure(self, *carried: Sequence[TensorSpec], **_: Any) -> None:
        """Remember what messages carry, in and out."""
        self.carried = list(carried)

    def begin(self, *, overlap: bool) -> None:
        """Begin nothing."""


def point(wire: str, *split: str) -> Point:
    """A point of the made-up table that is cut there."""
    made = make(fleet(len(split) + 1), wire=[wire], splits={"cuts": [list(split)]})
    return next(each for each in made.points if each.split == split)


def begun(wire: str, rank: int, *split: str, stretch: float = 1.0) -> tuple[Packing, list[Any]]:
    """How a rank packs, ready for a leg, and what its messages carry."""
    transport: Any = Configured()
    made = Packing(transport, point(wire, *split), rank, stretch)
    made.begin(window=WINDOW, overlap=True)
    return made, transport.carried


def test_a_packed_message_lies_where_no_message_in_flight_does() -> None:
    made, _ = begun("fp16", 0, CUT)
    values = [torch.full(SPEC.shape, float(number)) for number in range(2 * (WINDOW + 1))]
    sent = [made.pack((each,))[0][0] for each in values]
    places = [each.data_ptr() for each in sent]
    assert len(set(places)) == WINDOW + 1
    assert places == places[: WINDOW + 1] * 2
    assert made.packed_bytes == len(sent) * SPEC.nbytes // 2
    made.begin(window=WINDOW, overlap=True)
    assert made.packed_bytes == 0


@pytest.mark.parametrize("wire", ["int8", "lz4"])
def test_what_one_rank_packs_the_next_unpacks_and_the_answer_is_left_alone(wire: str) -> None:
    (first, out), (last, into) = begun(wire, 0, CUT), begun(wire, 1, CUT)
    assert out[1] == into[0] and isinstance(out[1][0], Varying) == (wire == "lz4")
    assert out[0] == into[1] == table().output
    values = torch.arange(SPEC.nbytes // 4, dtype=torch.float32).view(SPEC.shape) % 7
    packed, pack_ns = first.pack((values,))
    ((found,), unpack_ns) = last.unpack(packed)
    assert pack_ns and unpack_ns
    assert torch.allclose(found, values, atol=0.02)
    assert last.pack((values,)) == ((values,), None)
    assert first.unpack((values,)) == ((values,), None)


def test_between_equal_cuts_a_message_is_passed_on_as_it_came() -> None:
    made, (into, out) = begun("zstd", 1, CUT, CUT)
    assert into == out == (Varying.up_to(SPEC.nbytes + 1),)
    message = (torch.zeros(77, dtype=torch.uint8),)
    assert made.unpack(message) == (message, None)
    assert made.pack(message) == (message, None)
    assert made.packed_bytes == 77


def test_packing_takes_longer_on_a_host_that_is_to_be_slower(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Burning:
        most_bytes = 8

        def pack(self, tensors: Sequence[torch.Tensor], into: torch.Tensor) -> bytes:
            end_ns = time.thread_time_ns() + 5_000_000
            while time.thread_time_ns() < end_ns:
                pass
            return bytes(8)

    monkeypatch.setattr(packing, "packer", lambda *_: Burning())
    begin_ns = time.perf_counter_ns()
    _, pack_ns = begun("int8", 0, CUT, stretch=3)[0].pack(())
    assert pack_ns is not None
    assert 15_000_000 <= pack_ns <= time.perf_counter_ns() - begin_ns


def test_a_format_whose_library_is_missing_here_fails_the_point_with_the_librarys_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(lossless, "import_module", missing)
    with pytest.raises(WireError, match="'zstd' needs the package zstandard"):
        begun("zstd", 1, CUT)
    begun("int8", 1, CUT)
