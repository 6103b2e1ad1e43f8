"""Every wire format, for tensors of any shape and value: size, values, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from paretopipe_worker.cuts import DTYPE_BYTES, TensorSpec, payload_bytes
from paretopipe_worker.wire.api import WireError
from paretopipe_worker.wire.formats import FORMATS, packer
from paretopipe_worker.wire.sizes import packed_sizes
from tests.helpers.wire_bounds import excess, specs_of

FLOATS = ("float64", "float32", "float16", "bfloat16")
BITS = {"int8": 8, "int4": 4}
EXACT = ("fp32", "zstd", "lz4")
SHAPES = st.lists(st.integers(0, 6), max_size=4).map(tuple)


def crossed(name: str, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What comes out at the other end; the packed bytes are gone by then."""
    made = packer(name, specs_of(tensors))
    message = bytearray(made.pack(tensors))
    assert len(message) <= made.most_bytes
    found = made.unpack(message)
    message[:] = bytes(len(message))
    assert specs_of(found) == specs_of(tensors)
    assert all(each.is_contiguous() for each in found)
    return found


def bits_of(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.clone().untyped_storage())


@st.composite
def drawn_tensors(draw: st.DrawFn, dtypes: Sequence[str] = tuple(DTYPE_BYTES)) -> torch.Tensor:
    """A tensor of any bytes, for floating-point numbers NaN and infinity included."""
    spec = TensorSpec(draw(SHAPES), draw(st.sampled_from(dtypes)))
    content = draw(st.binary(min_size=spec.nbytes, max_size=spec.nbytes))
    raw = torch.tensor(list(content), dtype=torch.uint8)
    raw = raw & 1 if spec.dtype == "bool" else raw
    return raw.view(getattr(torch, spec.dtype)).view(spec.shape)


@st.composite
def finite(draw: st.DrawFn) -> torch.Tensor:
    """A tensor of floating-point numbers, from the smallest to the largest, all finite."""
    dtype = getattr(torch, draw(st.sampled_from(FLOATS)))
    shape = draw(st.lists(st.integers(1, 6), max_size=4).map(tuple))
    largest = float(torch.finfo(dtype).max)
    ends = draw(st.sampled_from([largest, 1e4, 1.0, 1e-38]))
    number = st.floats(-ends, ends)
    around = draw(st.sampled_from([0.0, ends / 2]))
    values = torch.from_numpy(draw(arrays(np.float64, shape, elements=number)).copy())
    return (values / 2 + around).clamp(-largest, largest).to(dtype)


@pytest.mark.parametrize("name", EXACT)
@given(tensors=st.lists(drawn_tensors(), max_size=3))
def test_lossless_formats_keep_every_bit(name: str, tensors: list[torch.Tensor]) -> None:
    found = crossed(name, *tensors)
    assert list(map(bits_of, found)) == list(map(bits_of, tensors))


@pytest.mark.parametrize("name", FORMATS)
@given(tensor=drawn_tensors([each for each in DTYPE_BYTES if each not in FLOATS]))
def test_whole_numbers_and_truth_values_pass_unchanged(name: str, tensor: torch.Tensor) -> None:
    # The first tensor puts the others at addresses that suit no dtype.
    found = crossed(name, torch.tensor([True]), tensor, torch.linspace(0, 1, 64))
    assert torch.equal(found[1], tensor)


@pytest.mark.parametrize("name", BITS)
@given(tensor=finite())
# Half of the largest number apart, and the last step rounds to infinity.
@example(tensor=torch.tensor([0.5, 1.0, 1.0], dtype=torch.float64) * torch.finfo(torch.float64).max)
def test_a_value_is_off_by_half_a_step_of_its_scale_at_most(
    name: str, tensor: torch.Tensor
) -> None:
    try:
        (found,) = crossed(name, tensor)
    except WireError:
        high, low = tensor.double().max().item(), tensor.double().min().item()
        largest = torch.finfo(torch.promote_types(tensor.dtype, torch.float32)).max
        assert high - low > largest / 2 or high > largest * (1 - 1e-6)
        return
    assert excess(found, tensor, BITS[name]) <= 1


@pytest.mark.parametrize("name", BITS)
@pytest.mark.parametrize("value", [0.0, 3.7, -1e30, 1e-40])
def test_a_constant_channel_is_exact(name: str, value: float) -> None:
    tensor = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    tensor[:, 1] = value
    (found,) = crossed(name, tensor)
    assert torch.equal(found[:, 1], tensor[:, 1])


@pytest.mark.parametrize(("name", "share"), [("int8", 0.25), ("int4", 0.125)])
def test_each_channel_has_a_scale_of_its_own(name: str, share: float) -> None:
    tensor = torch.randn(1, 2, 64, 64, generator=torch.Generator().manual_seed(0))
    tensor[:, 1] *= 1000
    (found,) = crossed(name, tensor)
    assert (found - tensor)[:, 0].abs().max() < 0.3
    made = packer(name, specs_of([tensor]))
    assert made.most_bytes == share * tensor.nbytes + 2 * 2 * 4


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", [(1,), (3,), (1, 512), (1, 512, 1, 1), (4, 8), (0, 3), ()])
def test_no_format_makes_a_small_tensor_larger(name: str, shape: tuple[int, ...]) -> None:
    spec = TensorSpec(shape, "float32")
    flag = 1 if name in ("zstd", "lz4") else 0  # says whether anything was compressed
    assert packer(name, [spec]).most_bytes <= spec.nbytes + flag


@pytest.mark.parametrize(("name", "narrow"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
@given(tensor=drawn_tensors(FLOATS))
def test_narrow_formats_round_as_torch_does(
    name: str, narrow: torch.dtype, tensor: torch.Tensor
) -> None:
    rounded = tensor if tensor.element_size() == 2 else tensor.to(narrow)
    if (rounded.isinf() & tensor.isfinite()).any():
        with pytest.raises(WireError, match=r"tensor 0 .*cannot be packed as torch\..*largest is"):
            crossed(name, tensor)
        return
    (found,) = crossed(name, tensor)
    assert torch.equal(found.nan_to_num(nan=7.0), rounded.to(tensor.dtype).nan_to_num(nan=7.0))


@pytest.mark.parametrize("name", BITS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_steps_cannot_hold_what_is_not_finite(name: str, bad: float) -> None:
    tensor = torch.zeros(1, 4, 8, 8)
    tensor[0, 2, 3, 3] = bad
    with pytest.raises(WireError, match=r"tensor 1 .*float32 cannot be packed as int.*not finite"):
        crossed(name, torch.ones(64), tensor)


def test_fp16_keeps_what_was_infinite_before() -> None:
    mask = torch.tensor([0.0, float("-inf"), float("nan")])
    (found,) = crossed("fp16", mask)
    assert found.nan_to_num(nan=7.0).tolist() == [0.0, torch.finfo(torch.float32).min, 7.0]


@pytest.mark.parametrize("name", FORMATS)
def test_tensors_that_are_not_contiguous_cross_in_their_own_order(name: str) -> None:
    tensor = torch.arange(4096.0).view(1, 16, 16, 16).to(memory_format=torch.channels_last)
    (found,) = crossed(name, tensor)
    assert (found - tensor).abs().max() <= {"int4": 256 / 15, "bf16": 8}.get(name, 1.0)


@pytest.mark.parametrize("name", FORMATS)
def test_a_single_number_may_have_any_stride(name: str) -> None:
    assert crossed(name, torch.tensor(3.0).expand(1))[0].tolist() == [3.0]
    tensor = torch.tensor(3.0).expand(2, 3)
    assert torch.equal(crossed(name, tensor)[0], tensor)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ((), "tensor 0 of the message is missing, not float32 of shape \\(1, 2, 4, 4\\)"),
        ((torch.zeros(1, 2, 4, 5),), "tensor 0 .* of shape \\(1, 2, 4, 5\\), not"),
        ((torch.zeros(1, 2, 4, 4).double(),), "tensor 0 .* is float64"),
        ((torch.zeros(1, 2, 4, 4), torch.zeros(1)), "tensor 1 .*, not missing"),
    ],
)
def test_other_tensors_than_agreed_are_not_packed(
    name: str, tensors: tuple[torch.Tensor, ...], reason: str
) -> None:
    with pytest.raises(WireError, match=reason):
        packer(name, [TensorSpec((1, 2, 4, 4), "float32")]).pack(tensors)


def test_an_unknown_format_is_refused_with_those_that_are_allowed() -> None:
    with pytest.raises(WireError, match=r"'int2' is unknown; allowed are fp32, .*, lz4"):
        packer("int2", [])


@pytest.mark.parametrize(("name", "module"), [("zstd", "zstandard"), ("lz4", "lz4.block")])
def test_a_library_that_is_missing_stops_its_format_alone(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(WireError, match=f"'{name}' needs the package {module.split('.')[0]}"):
        packer(name, [])
    for other in FORMATS.keys() - {name}:
        crossed(other, torch.ones(4))


def test_messages_without_tensors_have_no_payload() -> None:
    assert [packer(name, []).most_bytes for name in FORMATS] == [0, 0, 0, 0, 0, 1, 1]
    assert all(crossed(name) == () for name in FORMATS)
    assert payload_bytes(()) == 0


@pytest.mark.parametrize("name", FORMATS)
@given(
    specs=st.lists(
        st.builds(TensorSpec, SHAPES | st.just((1, 40, 9, 9)), st.sampled_from(list(DTYPE_BYTES))),
        max_size=3,
    )
)
def test_what_messages_weigh_is_known_without_packing(name: str, specs: list[TensorSpec]) -> None:
    planned = packed_sizes(name, specs)
    assert packer(name, specs).most_bytes == planned[-1]
    assert (len(planned) > 1) <= (name in ("zstd", "lz4"))


@pytest.mark.parametrize("name", FORMATS)
@given(tensors=st.lists(drawn_tensors(), max_size=3))
def test_packing_into_given_memory_makes_the_same_message(
    name: str, tensors: list[torch.Tensor]
) -> None:
    made = packer(name, specs_of(tensors))
    given_memory = torch.full((made.most_bytes,), 255, dtype=torch.uint8)
    try:
        fresh = bytes(made.pack(tensors))
    except WireError:
        return
    for _ in range(2):
        packed = memoryview(made.pack(tensors, into=given_memory))
        assert bytes(packed) == fresh == bytes(given_memory[: packed.nbytes].tolist())
