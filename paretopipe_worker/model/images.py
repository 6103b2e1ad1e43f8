"""Images from a folder as a model's inputs; they are read on the controller alone."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from paretopipe_worker.cuts import InputSpec
from paretopipe_worker.model.sources import ModelError, Source, default_inputs, origin
from paretopipe_worker.model.usercode import RAISED, aside, told

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""What files of images are called, in letters of either case; others are passed over."""

_MODES = {1: "L", 3: "RGB"}
_MEAN, _SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the pixels of ImageNet, by channel: what most networks for images are trained with."""


def prepared(
    source: Source,
    folder: Path,
    count: int,
    shape: tuple[int, ...] | None = None,
    note: Callable[[str], object] = lambda text: None,
) -> torch.Tensor:
    """Read the first images of a folder and prepare them for a model.

    That is done by the transforms of the model's own library. Where there are none for the shape,
    an image is resized and cropped around its centre, and its pixels are normalised as those of
    ImageNet.

    Parameters
    ----------
    count
        How many images, in the order of their names; fewer where there are fewer.
    shape
        Of one prepared image, ``(channels, height, width)``; by default the model's own.
    note
        Called with a line that says how the images were prepared.

    Returns
    -------
    Tensor of float32, ``(count, channels, height, width)``.

    Raises
    ------
    ModelError
        When the model takes no image, there are fewer than two of them, or one cannot be read.
    """
    shape = shape or _image_shape(source)
    own = origin(source).transform(source, shape)
    transform = own or _plainly(shape)
    how = "the transforms of its library"
    if own is None:
        how = "resizing, cropping around the centre and normalising as ImageNet is"
    found = []
    for path in _files(source, folder)[:count]:
        try:
            with aside(), _pillow(source).open(path) as image:
                tensor = transform(image.convert(_MODES.get(shape[0], "RGB")))
        except ModelError:
            raise
        except RAISED as error:
            raise ModelError(
                f"model {source.name!r}: inputs: {path} cannot be read as an image: {told(error)}; "
                "allowed are images that Pillow reads"
            ) from error
        if tuple(tensor.shape) != shape or tensor.dtype != torch.float32:
            raise ModelError(
                f"model {source.name!r}: inputs: {how} made a tensor of {tuple(tensor.shape)}, "
                f"{tensor.dtype} of {path}; the model takes {shape} of float32"
            )
        found.append(tensor)
    note(f"{source.name}: {len(found)} images of {folder}, prepared by {how}")
    return torch.stack(found)


def _image_shape(source: Source) -> tuple[int, ...]:
    """Shape of the one image that a model takes by default."""
    taken = default_inputs(source)
    first, *more = taken or (InputSpec((), ""),)
    if more or first.dtype != "float32" or len(first.shape) != 3 or first.shape[0] not in _MODES:
        told_of = ", ".join(f"{each.dtype} {each.shape}" for each in taken)
        raise ModelError(
            f"model {source.name!r}: inputs: it takes {told_of}, which are no images; allowed are "
            "models that take one tensor of float32 of 1 or 3 channels"
        )
    return first.shape


def _files(source: Source, folder: Path) -> list[Path]:
    """The images of a folder, by name."""
    try:
        there = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise ModelError(
            f"model {source.name!r}: inputs: {folder} cannot be read: {error.strerror}; allowed is "
            "a folder of images"
        ) from error
    if len(there) < 2:
        raise ModelError(
            f"model {source.name!r}: inputs: {folder} has {len(there)} images; allowed is a folder "
            f"of at least 2, in files that end in {', '.join(SUFFIXES)}"
        )
    return there


def _pillow(source: Source) -> ModuleType:
    """Import Pillow."""
    try:
        return importlib.import_module("PIL.Image")
    except ImportError as error:
        raise ModelError(
            f"model {source.name!r}: inputs: Pillow reads images, and is not installed on this "
            "computer; install what requirements.txt lists, or it alone with: pip install pillow"
        ) from error


def _plainly(shape: tuple[int, ...]) -> Callable[[Any], torch.Tensor]:
    """A transform for models whose library has none."""
    channels, height, width = shape

    def transform(image: Any) -> torch.Tensor:
        fitted = importlib.import_module("PIL.ImageOps").fit(image, (width, height))
        pixels = torch.frombuffer(bytearray(fitted.tobytes()), dtype=torch.uint8)
        planes = pixels.view(height, width, channels).permute(2, 0, 1).float() / 255
        mean, spread = (torch.tensor(each).view(-1, 1, 1) for each in (_MEAN, _SPREAD))
        if channels == 1:
            mean, spread = mean.mean(), spread.mean()
        return ((planes - mean) / spread).contiguous()

    return transform
