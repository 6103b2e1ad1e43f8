"""How one tensor lies in a packed message, where its size follows from its shape and dtype.

A packed tensor is a piece of a ``uint8`` tensor, at any address: it is read and written as bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol

import torch

from paretopipe_worker.cuts import TensorSpec
from paretopipe_worker.wire import sizes
from paretopipe_worker.wire.api import WireError


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor, of shape (bytes,); a copy only where it is not contiguous."""
    whole = tensor.contiguous()
    # A single number may have any stride, and `view` asks for 1.
    return whole.as_strided((whole.numel(),), (1,)).view(torch.uint8)


def read(piece: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Bytes as numbers, of shape (count,); a copy only where the address asks for one."""
    aligned = piece.storage_offset() % dtype.itemsize == 0
    return (piece if aligned else piece.clone()).view(dtype)


def pieces(tensor: torch.Tensor, sizes: Sequence[int]) -> list[torch.Tensor]:
    """Parts of a tensor of one dimension, one behind the other; they share its memory."""
    ends = [0, *itertools.accumulate(sizes)]
    return [tensor[start:end] for start, end in itertools.pairwise(ends)]


class Coding(Protocol):
    """How tensors of one shape and dtype are coded, in `nbytes` bytes."""

    nbytes: int

    def write(self, tensor: torch.Tensor, piece: torch.Tensor) -> None:
        """Code a tensor into a piece of a message."""

    def read(self, piece: torch.Tensor) -> torch.Tensor:
        """Decode a piece; the result may share its memory."""


class Raw:
    """The tensor's own bytes."""

    def __init__(self, spec: TensorSpec) -> None:
        self.spec = spec
        self.nbytes = spec.nbytes
        self._dtype: torch.dtype = getattr(torch, spec.dtype)

    def write(self, tensor: torch.Tensor, piece: torch.Tensor) -> None:
        """Copy the bytes."""
        piece.copy_(bytes_of(tensor))

    def read(self, piece: torch.Tensor) -> torch.Tensor:
        """Take the bytes as they are.

        Raises
        ------
        WireError
            For truth values that are neither 0 nor 1.
        """
        if self._dtype == torch.bool and (piece > 1).any():
            raise WireError("a packed truth value is neither 0 nor 1")
        return read(piece, self._dtype).view(self.spec.shape)


class Cast:
    """Floating-point numbers as others that have fewer bytes: fp16 or bf16, by `name`."""

    def __init__(self, name: str, spec: TensorSpec) -> None:
        self.spec = spec
        self.nbytes = sizes.cast_bytes(name, spec)
        self._narrow: torch.dtype = getattr(torch, sizes.NARROW[name])
        self._dtype: torch.dtype = getattr(torch, spec.dtype)

    def write(self, tensor: torch.Tensor, piece: torch.Tensor) -> None:
        """Round the numbers.

        Raises
        ------
        WireError
            Where finite numbers would become infinite.
        """
        cast = tensor.to(self._narrow)
        ends = torch.stack(tensor.aminmax()).to(self._narrow)
        # What was infinite, or no number, before may stay so; the rare case pays for finding out.
        if not ends.isfinite().all() and (cast.isinf() & tensor.isfinite()).any():
            largest = tensor[tensor.isfinite()].abs().max().item()
            raise WireError(
                f"{self.spec.dtype} values up to {largest:g} cannot be packed as {self._narrow}, "
                f"whose largest is {torch.finfo(self._narrow).max:g}"
            )
        piece.copy_(bytes_of(cast))

    def read(self, piece: torch.Tensor) -> torch.Tensor:
        """Widen the numbers."""
        return read(piece, self._narrow).to(self._dtype).view(self.spec.shape)


class Affine:
    """Floating-point numbers as multiples of a scale above a low end: ``low + scale * step``.

    Each channel (dimension 1), or the tensor as a whole, has a scale and a low end of its own. Its
    lowest value is step 0, its highest the last step. So a value is off by half a scale at most,
    and by what the arithmetic rounds. Steps of 4 bits lie two in a byte, the tensor's first half
    in the lower bits.

    Parameters
    ----------
    name
        int8 or int4.
    spec
        A tensor of floating-point numbers that is not empty.
    channels
        Whether each channel has its own scale.
    """

    def __init__(self, name: str, spec: TensorSpec, *, channels: bool) -> None:
        self.spec, self.bits = spec, sizes.BITS[name]
        self._dtype: torch.dtype = getattr(torch, spec.dtype)
        # Numbers of 16 bits are too coarse to compute with.
        self._wide = torch.promote_types(self._dtype, torch.float32)
        self._count = spec.nbytes // self._dtype.itemsize
        self._ends = (
            (1, spec.shape[1], *(1 for _ in spec.shape[2:]))
            if channels
            else tuple(1 for _ in spec.shape)
        )
        self._over = [n for n in range(len(spec.shape)) if not (channels and n == 1)]
        self._scales = spec.shape[1] if channels else 1
        self._ends_bytes = 2 * self._scales * self._wide.itemsize
        self.nbytes = sizes.affine_bytes(name, spec, channels=channels)

    def write(self, tensor: torch.Tensor, piece: torch.Tensor) -> None:
        """Find the scales and round to the nearest step.

        Raises
        ------
        WireError
            Where values are not finite or too far apart, or where the highest is so near the
            largest number that the last step would round to infinity.
        """
        wide = tensor.to(self._wide)
        low = wide.amin(self._over, keepdim=True)
        # A channel of one value has a scale, too: nothing is divided by zero, and step 0 is exact.
        scale = (wide.amax(self._over, keepdim=True) - low) / self._steps
        scale.clamp_(min=torch.finfo(self._wide).tiny)
        if not self._sound(low, scale):
            raise WireError(
                f"values of {self.spec.dtype} cannot be packed as int{self.bits}: some are not "
                f"finite, too far apart for {self._wide}, or too near its largest number"
            )
        steps = wide.sub(low).div_(scale).round_().clamp_(0, self._steps).to(torch.uint8).flatten()
        if self.bits == 4:
            half = (self._count + 1) // 2
            upper = steps[half:]
            steps = steps[:half]
            steps[: len(upper)] |= upper << 4
        piece[: self._ends_bytes] = bytes_of(torch.cat([low.flatten(), scale.flatten()]))
        piece[self._ends_bytes :] = steps

    def read(self, piece: torch.Tensor) -> torch.Tensor:
        """Compute the values.

        Raises
        ------
        WireError
            Where low ends and scales are none that :meth:`write` writes.
        """
        ends = read(piece[: self._ends_bytes], self._wide)
        low, scale = (each.view(self._ends) for each in pieces(ends, [self._scales] * 2))
        if not self._sound(low, scale):
            raise WireError(f"the packed scales of int{self.bits} make no finite values")
        steps = piece[self._ends_bytes :]
        if self.bits == 4:
            steps = torch.cat([steps & 15, steps[: self._count // 2] >> 4])
        wide = steps.view(self.spec.shape).to(self._wide)
        return wide.mul_(scale).add_(low).to(self._dtype)

    def _sound(self, low: torch.Tensor, scale: torch.Tensor) -> bool:
        """Whether all steps are finite numbers of the tensor's dtype, in ascending order."""
        ends = torch.cat([low, low + scale * self._steps]).to(self._dtype)
        least = torch.finfo(self._wide).tiny
        return bool(ends.isfinite().all() and (scale >= least).all())

    @property
    def _steps(self) -> int:
        """The last step."""
        return (1 << self.bits) - 1
