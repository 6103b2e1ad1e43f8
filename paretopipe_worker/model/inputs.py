"""Inputs for models: the same bits on every machine."""

from __future__ import annotations

import torch

from paretopipe_worker.cuts import TensorSpec


def example_input(spec: TensorSpec, *, seed: int, index: int) -> torch.Tensor:
    """Draw input number `index` of a seed, the same bits on every machine.

    An input is fine noise on top of coarse patches. Fine noise alone would give all images the
    same averages, and layers behind a global pooling could not tell them apart.

    Parameters
    ----------
    spec
        Shape, batch first, and dtype.
    seed, index
        Together they select the input.
    """
    # The generator uses 32 bits of a seed: spread the seeds so that their indices do not overlap.
    generator = torch.Generator().manual_seed((seed * 2654435761 + index) % (1 << 32))
    # Integers over powers of two: exact in float32, where normal draws differ between CPUs.
    grain = torch.randint(-64, 65, spec.shape, generator=generator) / 64
    coarse_shape = (*spec.shape[:2], *(min(length, 7) for length in spec.shape[2:]))
    coarse = torch.randint(-64, 65, coarse_shape, generator=generator) / 32
    for dim in range(2, len(spec.shape)):
        fine, rough = spec.shape[dim], coarse_shape[dim]
        coarse = coarse.index_select(dim, torch.arange(fine) * rough // fine)
    return (grain + coarse).to(getattr(torch, spec.dtype))
