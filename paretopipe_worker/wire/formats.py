"""The wire formats, by name. This module needs neither torch nor a library that compresses."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from paretopipe_worker.cuts import TensorSpec
from paretopipe_worker.wire.api import Packer, WireError

FORMATS = {
    "fp32": ("fixed", "as they are"),
    "fp16": ("fixed", "wider floating-point numbers as float16"),
    "bf16": ("fixed", "wider floating-point numbers as bfloat16"),
    "int8": ("fixed", "floating-point numbers as 256 steps, for each channel"),
    "int4": ("fixed", "floating-point numbers as 16 steps, for each channel"),
    "zstd": ("lossless", "as they are, compressed by Zstandard"),
    "lz4": ("lossless", "as they are, compressed by LZ4"),
}
"""Each format's module, and how the tensors cross in it. Whole numbers and truth values always
cross unchanged."""


def packer(name: str, specs: Sequence[TensorSpec]) -> Packer:
    """Make a packer for messages of tensors of these shapes and dtypes, in this order.

    Raises
    ------
    WireError
        When there is no such format, or the library that it needs is not installed.
    """
    if name not in FORMATS:
        raise WireError(f"wire format {name!r} is unknown; allowed are {', '.join(FORMATS)}")
    made: Packer = import_module(f"paretopipe_worker.wire.{FORMATS[name][0]}").packer(name, specs)
    return made
