"""Where models come from: torchvision, timm, a ``.pt2`` file, or a person's own factory."""

from __future__ import annotations

from torch import nn

from paretopipe_worker.cuts import InputSpec
from paretopipe_worker.model.origins.api import TIMM, ModelError, Origin, Source, Transform, called
from paretopipe_worker.model.origins.exported import Exported
from paretopipe_worker.model.origins.from_timm import Timm
from paretopipe_worker.model.origins.from_torchvision import Torchvision, classifiers
from paretopipe_worker.model.origins.own import Own

__all__ = [
    "ModelError",
    "Source",
    "Transform",
    "classifiers",
    "default_input",
    "default_inputs",
    "made",
    "origin",
]


def origin(source: Source) -> Origin:
    """What builds the models of a source."""
    if source.exported and source.factory is None:
        return Exported()
    if ":" in source.made_by:
        return Own()
    return Timm() if source.made_by.startswith(TIMM) else Torchvision()


def made(source: Source) -> nn.Module:
    """Build a model, in eval mode and without gradients.

    Raises
    ------
    ModelError
        When there is no such model, its weights cannot be had, or its factory fails.
    """
    return called(source, origin(source).factory(source))


def default_inputs(source: Source | str, model: nn.Module | None = None) -> tuple[InputSpec, ...]:
    """What goes into a model by default, without the batch.

    For a classifier it is an image ``(channels, height, width)`` of the smallest size that
    torchvision has weights for, or of the size in timm's configuration. For a ``.pt2`` file it is
    what the file was exported with. For a person's own model it is the attribute ``input_shape`` of
    the factory, or of the model that it returns.

    Parameters
    ----------
    model
        The model, where it was built already.

    Raises
    ------
    ModelError
        When there is no such model, or it does not say.
    """
    source = Source.of(source)
    return origin(source).inputs(source, model)


def default_input(source: Source | str) -> tuple[int, ...]:
    """Shape of a model's first input by default, without the batch, see :func:`default_inputs`."""
    return default_inputs(source)[0].shape
