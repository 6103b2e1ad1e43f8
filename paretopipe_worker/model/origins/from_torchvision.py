"""Torchvision's classifiers, by name."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from torch import nn

from paretopipe_worker.cuts import InputSpec
from paretopipe_worker.model.nms import mend_torchvision
from paretopipe_worker.model.origins.api import (
    ModelError,
    Source,
    Transform,
    fetched,
    no_weights,
    said_shape,
)


@dataclass(frozen=True)
class _Variant:
    """Options of one torchvision builder, and name prefixes to ignore in its checkpoints."""

    options: Mapping[str, object] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()


# Auxiliary heads are used in training only. With init_weights=True the builders draw truncated
# normal numbers, which takes 20 times as long, and calibration replaces their scale anyway.
_HEADLESS = {"aux_logits": False, "init_weights": False}
_VARIANTS = {
    "inception_v3": _Variant(_HEADLESS, ("AuxLogits.",)),
    "googlenet": _Variant(_HEADLESS, ("aux1.", "aux2.")),
}


def torchvision_models() -> ModuleType:
    """Import ``torchvision.models``; a user's own model does not need it."""
    mend_torchvision()
    return importlib.import_module("torchvision.models")


def classifiers() -> tuple[str, ...]:
    """Names of all torchvision classifiers, sorted."""
    models = torchvision_models()
    return tuple(models.list_models(module=models))


class Torchvision:
    """Torchvision's classifiers."""

    drawn = True
    on_meta = True

    def factory(self, source: Source) -> Callable[[], object]:
        """Find the builder of a classifier."""
        name, get = _known(source), torchvision_models().get_model
        if source.weights:
            # Such as DEFAULT or IMAGENET1K_V1. The builder chooses the options that they need.
            weights = _entry(source, source.weights)
            options = {"weights": weights, "progress": False, **source.arguments}
            return lambda: fetched(source, weights.url, lambda: get(name, **options))
        options = {**_VARIANTS.get(name, _Variant()).options, **source.arguments}
        return lambda: get(name, weights=None, **options)

    def inputs(self, source: Source, model: nn.Module | None) -> tuple[InputSpec, ...]:
        """Image of the size of the weights, of random ones the smallest that there are."""
        if source.weights:
            size = _size(_entry(source, source.weights))
        else:
            size = min(map(_size, torchvision_models().get_model_weights(_known(source))))
        return said_shape(source, (3, size, size))

    def ignored(self, source: Source) -> tuple[str, ...]:
        """Auxiliary heads."""
        return _VARIANTS.get(source.made_by, _Variant()).ignored

    def transform(self, source: Source, shape: tuple[int, ...]) -> Transform | None:
        """The transforms of the weights; of random ones, those of the newest of that size."""
        name = source.weights or "DEFAULT"
        published = torchvision_models().get_model_weights(_known(source))
        fitting = [
            entry.transforms
            for entry in (_entry(source, name), *([] if source.weights else published))
            if (3, _size(entry), _size(entry)) == shape
        ]
        return fitting[0]() if fitting else None


def _size(entry: Any) -> int:
    """Height and width of the images that a set of weights is for."""
    size: int = entry.transforms.keywords["crop_size"]
    return size


def _known(source: Source) -> str:
    """Name of a classifier."""
    name, known = source.made_by, classifiers()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3)
        hint = f" (close: {', '.join(close)})" if close else ""
        raise ModelError(
            f"unknown model {name!r}{hint}; allowed are torchvision's classifiers, listed by "
            f"`python -c 'from paretopipe_worker.model.sources import *; print(*classifiers())'`, "
            f"timm/NAME, package.module:factory, and the path of a .pt2 file"
        )
    return name


def _entry(source: Source, weights: str) -> Any:
    """One of the sets of weights that torchvision has for a classifier."""
    published = torchvision_models().get_model_weights(_known(source))
    found = getattr(published, weights, None) if weights.isidentifier() else None
    if not isinstance(found, published):
        raise no_weights(source, list(published.__members__))
    return found
