"""Inputs for models: the same bits on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from paretopipe_worker.cuts import InputSpec, TensorSpec
from paretopipe_worker.model.weights import WeightsError, read_weights, save_weights, tensor_sha256

ITEMS = 2
"""How many different inputs are drawn, where a spec names none."""

_IMAGES = "images"


def items(
    specs: Sequence[InputSpec], *, seed: int, images: torch.Tensor | None = None
) -> list[tuple[torch.Tensor, ...]]:
    """The different inputs that a source sends in turn, see :func:`example_input`.

    Parameters
    ----------
    images
        ``(count, channels, height, width)``: what is sent in place of drawn inputs. Each item
        begins with another of the images; after the last comes the first again.
    """
    if images is None:
        return [example_inputs(specs, seed=seed, index=index) for index in range(ITEMS)]
    (spec,) = specs
    batch, *_ = spec.shape
    count, images = len(images), images.to(getattr(torch, spec.dtype))
    return [
        (images[[(first + number) % count for number in range(batch)]],) for first in range(count)
    ]


def save_images(images: torch.Tensor, file: Path) -> None:
    """Write prepared images for :func:`load_images`."""
    save_weights({_IMAGES: images}, file)


def load_images(file: Path, sha256: str) -> torch.Tensor:
    """Read prepared images: ``(count, channels, height, width)``.

    Raises
    ------
    WeightsError
        When the file is missing or damaged, or has others than those of the checksum.
    """
    found = read_weights(file).get(_IMAGES)
    if found is None or tensor_sha256(found) != sha256:
        raise WeightsError(
            f"{file}: has other images than the plan's; delete the file and run the sweep again"
        )
    return found


def example_inputs(
    specs: Sequence[InputSpec], *, seed: int, index: int
) -> tuple[torch.Tensor, ...]:
    """Draw what goes into a model of one or several inputs, see :func:`example_input`."""
    # Inputs of one model differ from each other, too.
    return tuple(
        example_input(spec, seed=seed + (number << 16), index=index)
        for number, spec in enumerate(specs)
    )


def example_input(spec: TensorSpec, *, seed: int, index: int) -> torch.Tensor:
    """Draw input number `index` of a seed, the same bits on every machine.

    An input is fine noise on top of coarse patches. Fine noise alone would give all images the
    same averages, and layers behind a global pooling could not tell them apart.

    Parameters
    ----------
    spec
        Shape, batch first, and dtype. Whole numbers and truth values are drawn evenly, from the
        bounds of an :class:`~paretopipe_worker.cuts.InputSpec` or from 0 and 1.
    seed, index
        Together they select the input.
    """
    # The generator uses 32 bits of a seed: spread the seeds so that their indices do not overlap.
    generator = torch.Generator().manual_seed((seed * 2654435761 + index) % (1 << 32))
    dtype: torch.dtype = getattr(torch, spec.dtype)
    if not dtype.is_floating_point:
        low, high = (spec.low, spec.high) if isinstance(spec, InputSpec) else (0, 2)
        return torch.randint(low, high, spec.shape, generator=generator).to(dtype)
    # Integers over powers of two: exact in float32, where normal draws differ between CPUs.
    grain = torch.randint(-64, 65, spec.shape, generator=generator) / 64
    coarse_shape = (*spec.shape[:2], *(min(length, 7) for length in spec.shape[2:]))
    coarse = torch.randint(-64, 65, coarse_shape, generator=generator) / 32
    for dim in range(2, len(spec.shape)):
        fine, rough = spec.shape[dim], coarse_shape[dim]
        coarse = coarse.index_select(dim, torch.arange(fine) * rough // fine)
    return (grain + coarse).to(dtype)


def told_inputs(inputs: Sequence[torch.Tensor]) -> str:
    """Name inputs in an error: by their shapes, and by their dtypes where these are not float32."""
    words = [
        f"shape {tuple(each.shape)}"
        + ("" if each.dtype == torch.float32 else f" and {each.dtype}".replace("torch.", ""))
        for each in inputs
    ]
    return f"a tensor of {words[0]}" if len(words) == 1 else f"tensors of {', '.join(words)}"
