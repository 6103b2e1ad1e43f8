"""What packed messages weigh: known from the shapes and dtypes of their tensors, without torch."""

from __future__ import annotations

from collections.abc import Sequence

from paretopipe_worker.cuts import DTYPE_BYTES, PLAIN, TensorSpec

NARROW = {"fp16": "float16", "bf16": "bfloat16"}
"""Formats that round floating-point numbers to a narrower dtype."""

BITS = {"int8": 8, "int4": 4}
"""Formats that keep floating-point numbers as steps of so many bits."""

LOSSLESS = ("zstd", "lz4")
"""Formats that compress: their messages differ in size."""

EXACT = (PLAIN, *LOSSLESS)
"""Formats in which every bit arrives as it was."""

FLOATS = ("float64", "float32", "float16", "bfloat16")

KIND_BYTES = 1
"""What a compressed message begins with."""


def cast_bytes(name: str, spec: TensorSpec) -> int:
    """Bytes of a tensor whose numbers are rounded to a narrower dtype."""
    return spec.nbytes // DTYPE_BYTES[spec.dtype] * DTYPE_BYTES[NARROW[name]]


def affine_bytes(name: str, spec: TensorSpec, *, channels: bool) -> int:
    """Bytes of a tensor as steps, with the low end and the scale of it or of each channel."""
    count = spec.nbytes // DTYPE_BYTES[spec.dtype]
    wide = max(DTYPE_BYTES[spec.dtype], DTYPE_BYTES["float32"])
    scales = spec.shape[1] if channels else 1
    return 2 * scales * wide + (count * BITS[name] + 7) // 8


def tensor_bytes(name: str, spec: TensorSpec) -> int:
    """Bytes of one tensor, in the first of the format's ways that makes it smaller, or as it is."""
    found = []
    if spec.nbytes and spec.dtype in FLOATS:
        if name in NARROW:
            found.append(cast_bytes(name, spec))
        if name in BITS:
            found += [affine_bytes(name, spec, channels=True)] if len(spec.shape) > 1 else []
            # A channel of few values would spend more on its scale than it saves.
            found.append(affine_bytes(name, spec, channels=False))
    return next((nbytes for nbytes in found if nbytes < spec.nbytes), spec.nbytes)


def packed_sizes(name: str, specs: Sequence[TensorSpec]) -> range:
    """Bytes that a packed message of such tensors may have; one size for most formats."""
    most = sum(tensor_bytes(name, spec) for spec in specs)
    if name in LOSSLESS:
        return range(KIND_BYTES, KIND_BYTES + most + 1)
    return range(most, most + 1)
