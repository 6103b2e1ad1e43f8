"""What an affine wire format may be off by, computed from its definition in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from paretopipe_worker.cuts import TensorSpec


def specs_of(tensors: Sequence[torch.Tensor]) -> list[TensorSpec]:
    """Shapes and dtypes of tensors."""
    return [TensorSpec(tuple(t.shape), str(t.dtype).removeprefix("torch.")) for t in tensors]


def channels_pay(tensor: torch.Tensor, bits: int) -> bool:
    """Whether a scale and a low end for each channel take less than the tensor itself."""
    if tensor.dim() < 2:
        return False
    wide = max(4, tensor.element_size())
    return 2 * wide * tensor.shape[1] + -(-tensor.numel() * bits // 8) < tensor.nbytes


def grouped(tensor: torch.Tensor, bits: int) -> torch.Tensor:
    """The values as float64, of shape (scales, values of each)."""
    if channels_pay(tensor, bits):
        return tensor.double().transpose(0, 1).flatten(1)
    return tensor.double().reshape(1, -1)


def bound(tensor: torch.Tensor, bits: int) -> torch.Tensor:
    """Largest error that each scale allows, of shape (scales, 1).

    Half a step, and what the arithmetic rounds: a few units in the last place of the largest value.
    """
    values = grouped(tensor, bits)
    wide = torch.finfo(torch.promote_types(tensor.dtype, torch.float32))
    span = values.amax(1, keepdim=True) - values.amin(1, keepdim=True)
    scale = (span / (2**bits - 1)).clamp(min=wide.tiny)
    rounding = 4 * wide.eps + torch.finfo(tensor.dtype).eps
    return scale / 2 + rounding * values.abs().amax(1, keepdim=True)


def excess(found: torch.Tensor, sent: torch.Tensor, bits: int) -> float:
    """Largest error over its bound: at most 1."""
    error = (found.double() - sent.double()).abs()
    columns = error.transpose(0, 1).flatten(1) if channels_pay(sent, bits) else error.reshape(1, -1)
    return (columns / bound(sent, bits)).max().item()
