"""Formats that compress the tensors' bytes and lose nothing: zstd and lz4.

A message is one byte that says how the rest is coded, and the rest: the bytes as they are, where
compression gains nothing, or compressed.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Protocol

import torch

from paretopipe_worker.cuts import TensorSpec
from paretopipe_worker.wire.api import Buffer, WireError
from paretopipe_worker.wire.coding import bytes_of
from paretopipe_worker.wire.fixed import Fixed, check
from paretopipe_worker.wire.sizes import KIND_BYTES

_STORED, _COMPRESSED = b"\0", b"\1"


def packer(name: str, specs: Sequence[TensorSpec]) -> Lossless:
    """Make the packer of a format of this module."""
    return Lossless(name, specs, _Zstd() if name == "zstd" else _Lz4())


class _Compressor(Protocol):
    """What a library of this kind does, one call at a time."""

    def compress(self, data: Buffer) -> bytes:
        """Compress."""

    def decompress(self, data: memoryview, size: int) -> bytes:
        """Take no more memory than for `size` bytes; raise WireError where data is damaged."""


class Lossless:
    """The bytes of all tensors, compressed as one; a :class:`~.api.Packer`."""

    def __init__(self, name: str, specs: Sequence[TensorSpec], compressor: _Compressor) -> None:
        self.name = name
        self._raw = Fixed(name, specs)  # which codes nothing by this name
        self._compressor = compressor
        self.most_bytes = KIND_BYTES + self._raw.most_bytes
        self._behind_another = torch.empty(
            self._raw.most_bytes if len(specs) > 1 else 0, dtype=torch.uint8
        )

    def pack(self, tensors: Sequence[torch.Tensor], into: torch.Tensor | None = None) -> memoryview:
        """See :meth:`.api.Packer.pack`."""
        raw = self._as_one(tensors)
        compressed = self._compressor.compress(raw)
        gained = len(compressed) < len(raw)
        kind, rest = (_COMPRESSED, compressed) if gained else (_STORED, raw)
        packed = torch.empty(self.most_bytes, dtype=torch.uint8) if into is None else into
        message = packed.numpy().data[: KIND_BYTES + len(rest)]
        message[:KIND_BYTES], message[KIND_BYTES:] = kind, rest
        return message

    def _as_one(self, tensors: Sequence[torch.Tensor]) -> memoryview:
        """The tensors' bytes one behind the other; a single one's are where they are."""
        if len(tensors) != 1:
            return self._raw.pack(tensors, into=self._behind_another)
        check(self._raw.specs, tensors)
        return bytes_of(tensors[0]).numpy().data

    def unpack(self, packed: Buffer) -> tuple[torch.Tensor, ...]:
        """See :meth:`.api.Packer.unpack`."""
        memory = memoryview(packed)
        if not 1 <= memory.nbytes <= self.most_bytes:
            raise WireError(
                f"a message packed as {self.name} has {memory.nbytes} bytes; these tensors take "
                f"1 to {self.most_bytes}"
            )
        kind, rest = bytes(memory[:1]), memory[1:]
        if kind == _STORED:
            return self._raw.unpack(rest)
        if kind != _COMPRESSED:
            raise WireError(
                f"a message packed as {self.name} begins with byte {kind[0]}; allowed are 0 and 1"
            )
        raw = self._compressor.decompress(rest, self._raw.most_bytes)
        return self._raw.unpack(raw)


class _Zstd:
    """Zstandard at level 1, which gains as much on activations as higher levels do, and sooner.

    (At the cuts of MobileNetV2 levels 1, 3 and 6 leave 70, 69 and 69 % at 780, 520 and 220 MB/s.)
    """

    _LEVEL = 1

    def __init__(self) -> None:
        self._library = _library("zstandard", "zstd")
        self._compressor = self._library.ZstdCompressor(level=self._LEVEL)
        self._decompressor = self._library.ZstdDecompressor()

    def compress(self, data: Buffer) -> bytes:
        compressed: bytes = self._compressor.compress(data)
        return compressed

    def decompress(self, data: memoryview, size: int) -> bytes:
        try:
            # The library takes memory for the sizes that a frame claims, so these come first.
            claimed = self._library.get_frame_parameters(data)
            if claimed.content_size != size or claimed.window_size > max(size, 1024):
                raise WireError(f"a message packed as zstd does not claim to have {size} bytes")
            found: bytes = self._decompressor.decompress(data, allow_extra_data=False)
        except self._library.ZstdError as error:
            raise WireError(f"a message packed as zstd is damaged: {error}") from None
        return found


class _Lz4:
    """LZ4 blocks without their size in front: it is known."""

    def __init__(self) -> None:
        self._library = _library("lz4.block", "lz4")

    def compress(self, data: Buffer) -> bytes:
        compressed: bytes = self._library.compress(data, store_size=False)
        return compressed

    def decompress(self, data: memoryview, size: int) -> bytes:
        try:
            found: bytes = self._library.decompress(data, uncompressed_size=size)
        except self._library.LZ4BlockError as error:
            raise WireError(f"a message packed as lz4 is damaged: {error}") from None
        return found


def _library(module: str, name: str) -> ModuleType:
    """Import a library that only this format needs."""
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise WireError(
            f"wire format {name!r} needs the package {package}, which cannot be imported here "
            f"({error}); requirements-worker.txt names its version"
        ) from None
