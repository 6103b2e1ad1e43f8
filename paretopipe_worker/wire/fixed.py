"""Formats in which given tensors always take as many bytes: fp32, fp16, bf16, int8, int4."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import torch

from paretopipe_worker.cuts import TensorSpec
from paretopipe_worker.wire import sizes
from paretopipe_worker.wire.api import Buffer, WireError
from paretopipe_worker.wire.coding import Affine, Cast, Coding, Raw, pieces


def packer(name: str, specs: Sequence[TensorSpec]) -> Fixed:
    """Make the packer of a format of this module."""
    return Fixed(name, specs)


def coding(name: str, spec: TensorSpec) -> Coding:
    """Choose how one tensor is coded, as :func:`~.sizes.tensor_bytes` says."""
    raw = Raw(spec)
    codings: list[Coding] = []
    if spec.nbytes and getattr(torch, spec.dtype).is_floating_point:
        if name in sizes.NARROW:
            codings.append(Cast(name, spec))
        if name in sizes.BITS and len(spec.shape) > 1:
            codings.append(Affine(name, spec, channels=True))
        if name in sizes.BITS:
            codings.append(Affine(name, spec, channels=False))
    return next((each for each in codings if each.nbytes < raw.nbytes), raw)


class Fixed:
    """One coding for each tensor, one behind the other; a :class:`~.api.Packer`."""

    def __init__(self, name: str, specs: Sequence[TensorSpec]) -> None:
        self.name = name
        self.specs = tuple(specs)
        self._codings = [coding(name, spec) for spec in specs]
        self._sizes = [each.nbytes for each in self._codings]
        self.most_bytes = sum(self._sizes)

    def pack(self, tensors: Sequence[torch.Tensor], into: torch.Tensor | None = None) -> memoryview:
        """See :meth:`.api.Packer.pack`."""
        check(self.specs, tensors)
        packed = torch.empty(self.most_bytes, dtype=torch.uint8) if into is None else into
        parts = pieces(packed, self._sizes)
        for number, (each, tensor) in enumerate(zip(self._codings, tensors, strict=True)):
            try:
                each.write(tensor, parts[number])
            except WireError as error:
                raise WireError(f"tensor {number} of the message: {error}") from None
        return packed.numpy().data

    def unpack(self, packed: Buffer) -> tuple[torch.Tensor, ...]:
        """See :meth:`.api.Packer.unpack`."""
        if (size := memoryview(packed).nbytes) != self.most_bytes:
            raise WireError(
                f"a message packed as {self.name} has {size} bytes; these tensors take exactly "
                f"{self.most_bytes}"
            )
        owned = torch.empty(size, dtype=torch.uint8)
        owned.numpy().data[:] = packed
        parts = pieces(owned, self._sizes)
        return tuple(each.read(part) for each, part in zip(self._codings, parts, strict=True))


def check(specs: Sequence[TensorSpec], tensors: Sequence[torch.Tensor]) -> None:
    """Hold tensors against what a message consists of.

    Raises
    ------
    WireError
        When their number, a shape or a dtype differs.
    """
    given = [TensorSpec(tuple(t.shape), str(t.dtype).removeprefix("torch.")) for t in tensors]
    for number, (spec, found) in enumerate(zip_longest(specs, given)):
        if spec != found:
            raise WireError(f"tensor {number} of the message is {_told(found)}, not {_told(spec)}")


def _told(spec: TensorSpec | None) -> str:
    return f"{spec.dtype} of shape {spec.shape}" if spec else "missing"
