"""Models of timm (PyTorch Image Models), as ``timm/NAME``; only the controller needs timm."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Callable
from types import ModuleType

from torch import nn

from paretopipe_worker.cuts import InputSpec
from paretopipe_worker.model.nms import mend_torchvision
from paretopipe_worker.model.origins.api import (
    TIMM,
    ModelError,
    Source,
    Transform,
    fetched,
    no_weights,
    said_shape,
)
from paretopipe_worker.model.usercode import RAISED, aside, told

PRETRAINED = "pretrained"
"""What weights are called that timm has for a model."""


class Timm:
    """Models of timm."""

    drawn = True
    on_meta = False

    def factory(self, source: Source) -> Callable[[], object]:
        """Find the builder of a model; its tag, or the default one, names pretrained weights."""
        timm, name = _library(source), _known(source)
        if not source.weights:
            return lambda: timm.create_model(name, pretrained=False, **source.arguments)
        config = timm.get_pretrained_cfg(name)
        there = [PRETRAINED] if config is not None and config.has_weights else []
        if source.weights not in there:
            raise no_weights(source, there)
        where = f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else config.url
        return lambda: fetched(
            source, where, lambda: timm.create_model(name, pretrained=True, **source.arguments)
        )

    def inputs(self, source: Source, model: nn.Module | None) -> tuple[InputSpec, ...]:
        """Image of the size in the model's configuration."""
        config = _library(source).get_pretrained_cfg(_known(source))
        return said_shape(source, getattr(config, "input_size", None))

    def ignored(self, source: Source) -> tuple[str, ...]:
        """None."""
        return ()

    def transform(self, source: Source, shape: tuple[int, ...]) -> Transform | None:
        """The transforms of the model's configuration, which make any size."""
        config = _library(source).get_pretrained_cfg(_known(source))
        if config is None or len(shape) != 3:
            return None
        data = importlib.import_module("timm.data")
        resolved = data.resolve_data_config({"input_size": shape}, config.to_dict())
        made: Transform = data.create_transform(**resolved, is_training=False)
        return made


def _library(source: Source) -> ModuleType:
    """Import timm."""
    if importlib.util.find_spec("timm") is None:
        raise ModelError(
            f"model {source.name!r}: timm is not installed on this computer; install what "
            "requirements.txt lists, or timm alone with: pip install timm"
        )
    mend_torchvision()
    try:
        with aside():
            return importlib.import_module("timm")
    except RAISED as error:
        raise ModelError(
            f"model {source.name!r}: importing timm failed with {told(error)}"
        ) from error


def _known(source: Source) -> str:
    """Name of a model as timm has it."""
    timm, name = _library(source), source.made_by.removeprefix(TIMM)
    plain, _, tag = name.partition(".")
    if not timm.is_model(plain):
        close = difflib.get_close_matches(plain, timm.list_models(), n=3)
        hint = f" (close: {', '.join(TIMM + each for each in close)})" if close else ""
        raise ModelError(
            f"unknown model {source.made_by!r}{hint}; allowed is timm/NAME with a name of timm's, "
            "listed by `python -c 'import timm; print(*timm.list_models())'`"
        )
    tagged = timm.list_pretrained(f"{plain}.*")
    if tag and name not in tagged:
        tags = ", ".join(each.partition(".")[2] for each in tagged)
        raise ModelError(
            f"unknown model {source.made_by!r}: {plain!r} has no weights of the tag {tag!r}; "
            f"allowed tags: {tags or 'none'}"
        )
    return name
