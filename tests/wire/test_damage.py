"""What a peer may send in place of a packed message: one error, and no memory for its claims."""

from __future__ import annotations

import tracemalloc

import lz4.block
import pytest
import torch
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from paretopipe_worker.cuts import TensorSpec
from paretopipe_worker.wire.api import WireError
from paretopipe_worker.wire.formats import FORMATS, packer

SPECS = [TensorSpec((2,), "bool"), TensorSpec((1, 2, 9, 9), "float32"), TensorSpec((3,), "int64")]
TENSORS = (
    torch.tensor([True, False]),
    torch.arange(162.0).view(1, 2, 9, 9).floor_divide(40),
    torch.tensor([1, 2, 3]),
)
RAW_BYTES = sum(spec.nbytes for spec in SPECS)
COMPRESSED = b"\1"


def message(name: str) -> bytes:
    return bytes(packer(name, SPECS).pack(TENSORS))


@pytest.mark.parametrize("name", FORMATS)
def test_every_shorter_or_longer_message_is_refused(name: str) -> None:
    made, whole = packer(name, SPECS), message(name)
    for damaged in [*(whole[:size] for size in range(len(whole))), whole + b"\0", whole * 40]:
        with pytest.raises(WireError):
            made.unpack(damaged)


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
def test_damaged_bytes_are_an_error_or_tensors_of_the_agreed_kind(
    name: str, data: st.DataObject
) -> None:
    made, damaged = packer(name, SPECS), bytearray(message(name))
    for place in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=8)):
        damaged[place] = data.draw(st.integers(0, 255))
    try:
        found = made.unpack(damaged)
    except WireError:
        return
    assert [(tuple(t.shape), str(t.dtype)) for t in found] == [
        (spec.shape, f"torch.{spec.dtype}") for spec in SPECS
    ]
    assert set(found[0].view(torch.uint8).tolist()) <= {0, 1}
    if name in ("int8", "int4"):
        assert found[1].isfinite().all()


@pytest.mark.parametrize("name", ["int8", "int4"])
@pytest.mark.parametrize(
    "ends",
    [
        (float("nan"), 1.0),
        (float("-inf"), 1.0),
        (0.0, float("nan")),
        (0.0, float("inf")),
        (0.0, -1.0),
        (0.0, 0.0),
        (0.0, 1e38),
        (3e38, 1e37),
    ],
)
def test_scales_that_make_no_finite_values_are_refused(
    name: str, ends: tuple[float, float]
) -> None:
    damaged = bytearray(message(name))
    low, scale = ends
    # Behind two truth values: the low ends of two channels, then their scales.
    damaged[2:18] = torch.tensor([0.0, low, 1.0, scale]).numpy().tobytes()
    with pytest.raises(WireError, match="packed scales"):
        packer(name, SPECS).unpack(damaged)


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_scales_must_be_finite_in_the_dtype_of_the_tensor(name: str) -> None:
    made = packer(name, [TensorSpec((64,), "float16")])
    damaged = bytearray(made.pack([torch.ones(64, dtype=torch.float16)]))
    damaged[:8] = torch.tensor([1e5, 1.0]).numpy().tobytes()  # fits float32 alone
    with pytest.raises(WireError, match="packed scales"):
        made.unpack(damaged)


@pytest.mark.parametrize("name", ["zstd", "lz4"])
def test_a_coding_that_is_not_known_is_refused(name: str) -> None:
    with pytest.raises(WireError, match="begins with byte 2; allowed are 0 and 1"):
        packer(name, SPECS).unpack(b"\2" + message(name)[1:])


def zstd_frame(claimed: int, window: int) -> bytes:
    """The beginning of a frame that claims a size of 8 bytes and a window of 2 ** (10 + window)."""
    return (
        b"\x28\xb5\x2f\xfd\xc0" + bytes([window << 3]) + claimed.to_bytes(8, "little") + b"\1\0\0"
    )


@pytest.mark.parametrize(
    "frame",
    [
        zstd_frame(1 << 40, 0),
        zstd_frame(RAW_BYTES + 1, 0),
        zstandard.ZstdCompressor(write_content_size=False).compress(bytes(RAW_BYTES)),
        zstandard.ZstdCompressor().compress(bytes(RAW_BYTES - 1)),
        b"\x50\x2a\x4d\x18" + RAW_BYTES.to_bytes(4, "little") + bytes(RAW_BYTES - 9),
        zstandard.ZstdCompressor().compress(bytes(RAW_BYTES)) * 2,
    ],
    ids=[
        "a terabyte",
        "one more",
        "no size",
        "one less",
        "skippable",
        "two frames",
    ],
)
def test_a_zstd_frame_takes_no_memory_for_what_it_claims(frame: bytes) -> None:
    made = packer("zstd", SPECS)
    tracemalloc.start()
    try:
        with pytest.raises(WireError, match="packed as zstd"):
            made.unpack(COMPRESSED + frame)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_zstd_window_is_no_larger_than_the_message() -> None:
    # The library takes 128 MiB for this one, where Python does not see it.
    with pytest.raises(WireError, match=f"does not claim to have {RAW_BYTES} bytes"):
        packer("zstd", SPECS).unpack(COMPRESSED + zstd_frame(RAW_BYTES, 17))


@pytest.mark.parametrize("name", ["zstd", "lz4"])
def test_what_compression_made_larger_is_not_unpacked(name: str) -> None:
    noise = torch.randint(0, 256, (999,), generator=torch.Generator().manual_seed(0))
    content = bytes(noise.to(torch.uint8).numpy())
    larger = {
        "zstd": zstandard.ZstdCompressor().compress(content),
        "lz4": lz4.block.compress(content, store_size=False),
    }[name]
    assert len(larger) > 999
    made = packer(name, [TensorSpec((999,), "uint8")])
    with pytest.raises(WireError, match=f"has {1 + len(larger)} bytes; .* 1 to 1000"):
        made.unpack(COMPRESSED + larger)


def test_an_lz4_block_that_is_a_bomb_is_refused() -> None:
    # One literal, then a match of it that goes on for 255 bytes with each further byte.
    bomb = b"\x1fa\1\0" + b"\xff" * 400 + b"\0\x50aaaaa"
    with pytest.raises(WireError, match="packed as lz4 is damaged"):
        packer("lz4", SPECS).unpack(COMPRESSED + bomb)
