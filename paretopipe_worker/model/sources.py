"""Where models come from: any torchvision classifier, or a factory of a person's own."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import index
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from paretopipe_worker.model.nms import mend_torchvision
from paretopipe_worker.model.usercode import RAISED, aside, shortened, told


class ModelError(ValueError):
    """A model cannot be built, because of its name, its factory or its weights."""


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


def _torchvision_models() -> ModuleType:
    """Import ``torchvision.models``; a user's own model does not need it."""
    mend_torchvision()
    return importlib.import_module("torchvision.models")


def classifiers() -> tuple[str, ...]:
    """Names of all torchvision classifiers, sorted."""
    models = _torchvision_models()
    return tuple(models.list_models(module=models))


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Parameters
    ----------
    name
        What errors call it, and, without `factory`, what builds it: a torchvision classifier, or
        ``package.module:factory`` for a callable that returns an ``nn.Module``.
    factory
        What builds it.
    arguments
        Keyword arguments of the factory.
    path
        File or folder in which the factory's module lies, if it is not on Python's path.
    """

    name: str
    factory: str | None = None
    arguments: Mapping[str, object] = field(default_factory=dict)
    path: Path | None = None

    @classmethod
    def of(cls, source: Source | str) -> Source:
        """The source that a name stands for."""
        return cls(source) if isinstance(source, str) else source

    @property
    def made_by(self) -> str:
        """What builds it."""
        return self.factory or self.name

    @property
    def own(self) -> bool:
        """Whether a person's own factory builds it."""
        return ":" in self.made_by

    @property
    def ignored(self) -> tuple[str, ...]:
        """Prefixes of names in its checkpoints that no tensor of it has."""
        return _VARIANTS.get(self.made_by, _Variant()).ignored

    def factory_of(self) -> Callable[[], object]:
        """Find the callable that builds the model.

        Raises
        ------
        ModelError
            When there is none.
        """
        return _factory(self)

    def made(self) -> nn.Module:
        """Build the model, in eval mode and without gradients.

        Raises
        ------
        ModelError
            When there is no such model, or its factory fails.
        """
        return _call(self, self.factory_of())


def default_input(source: Source | str) -> tuple[int, ...]:
    """Shape of one input, without the batch: ``(channels, height, width)`` for a classifier.

    It is the smallest size that torchvision has weights for, or the attribute ``input_shape`` of
    the user's factory or of the model it returns.

    Raises
    ------
    ModelError
        When there is no such model, or neither the factory nor its model has the attribute.
    """
    return input_of(Source.of(source))


def input_of(source: Source, model: nn.Module | None = None) -> tuple[int, ...]:
    """Look up the input's shape; a `model` that is None is built only where that is necessary."""
    factory, name = source.factory_of(), source.name
    if not source.own:
        weights = _torchvision_models().get_model_weights(source.made_by)
        size = min(entry.transforms.keywords["crop_size"] for entry in weights)
        return (3, size, size)
    shape = getattr(factory, "input_shape", None)
    if shape is None:
        shape = getattr(model or _call(source, factory), "input_shape", None)
    if shape is None:
        raise ModelError(
            f"model {name!r} does not say which input it takes: give `input`, the shape of one "
            f"input without the batch, or set the attribute `input_shape` on the factory or its "
            f"model"
        )
    try:
        lengths = tuple(map(index, shape))
    except TypeError:
        lengths = ()
    if not lengths or min(lengths) < 1:
        raise ModelError(
            f"model {name!r}: its `input_shape` is {shortened(repr(shape))}; allowed is the shape "
            f"of one input without the batch, such as (3, 224, 224)"
        )
    return lengths


def _factory(source: Source) -> Callable[[], object]:
    """The callable that builds a model."""
    name = source.made_by
    if source.own:
        return _user_factory(source)
    models = _torchvision_models()
    known = classifiers()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3)
        hint = f" (close: {', '.join(close)})" if close else ""
        raise ModelError(
            f"unknown model {name!r}{hint}; allowed are torchvision's classifiers, listed by "
            f"`python -c 'from paretopipe_worker.model.sources import *; print(*classifiers())'`, "
            f"and package.module:factory"
        )
    options = {**_VARIANTS.get(name, _Variant()).options, **source.arguments}
    return lambda: models.get_model(name, weights=None, **options)


def _user_factory(source: Source) -> Callable[[], object]:
    """Import ``package.module:factory``."""
    module_name, _, attribute = source.made_by.partition(":")
    if source.path is not None and not source.path.exists():
        raise ModelError(
            f"model {source.name!r}: path: there is no {source.path}; allowed is the file or "
            f"folder in which {module_name!r} lies"
        )
    mend_torchvision()  # the module may import it, and so may the factory when it is called
    try:
        with aside(), _findable(source.path):
            module = importlib.import_module(module_name)
    except RAISED as error:
        where = f"in {source.path}" if source.path else "on this host's Python path"
        raise ModelError(
            f"model {source.name!r}: importing {module_name!r} failed with {told(error)}; "
            f"it must be {where}"
        ) from error
    folder = source.path and (source.path if source.path.is_dir() else source.path.parent)
    if folder and not Path(module.__file__ or "").resolve().is_relative_to(folder.resolve()):
        raise ModelError(
            f"model {source.name!r}: module {module_name!r} is that of {module.__file__} and not "
            f"in {folder}; allowed are names of modules that no other module has"
        )
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise ModelError(
            f"model {source.name!r}: {module_name!r} has no callable {attribute!r}; "
            f"allowed is a function or class that takes {_given(source)} and returns an nn.Module"
        )

    def make() -> object:
        with _findable(source.path):  # what it imports when it is called lies there, too
            return factory(**source.arguments)

    if (shape := getattr(factory, "input_shape", None)) is not None:
        make.input_shape = shape  # type: ignore[attr-defined]
    return make


@contextlib.contextmanager
def _findable(path: Path | None) -> Iterator[None]:
    """Have Python find modules in a folder, or in that of a file, while the block lasts."""
    if path is None:
        yield
        return
    folder = str(path if path.is_dir() else path.parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _given(source: Source) -> str:
    """What a factory is given, as errors say it."""
    names = ", ".join(source.arguments)
    return f"the keyword arguments {names}" if names else "no arguments"


def _call(source: Source, factory: Callable[[], object]) -> nn.Module:
    """Call the factory; return its model in eval mode, without gradients."""
    try:
        with aside():
            model = _usable(factory())
            # These calls are not chained: a model that overrides `train` may return nothing.
            model.eval()
            model.requires_grad_(False)
    except ModelError as error:
        raise ModelError(f"model {source.name!r}: its factory returned {error}") from None
    except RAISED as error:
        raise ModelError(
            f"model {source.name!r}: its factory failed with {told(error)}; allowed is a function "
            f"or class that takes {_given(source)} and returns an nn.Module"
        ) from error
    return model


def _usable(model: object) -> nn.Module:
    """Return the model, or refuse what cannot be cut into stages."""
    if not isinstance(model, nn.Module):
        raise ModelError(f"{type(model).__name__}, not an nn.Module")
    compiled = hasattr(model, "_orig_mod")  # by torch.compile, whose types take a second to import
    if compiled or isinstance(model, torch.jit.ScriptModule):
        kind = "what torch.compile made" if compiled else "TorchScript"
        raise ModelError(f"{kind}; allowed is the nn.Module that it was made from")
    foreign = [key for key, value in model.state_dict().items() if not torch.is_tensor(value)]
    if foreign:
        raise ModelError(
            f"a model whose state holds more than tensors ({foreign[0]}), which cannot be sent to "
            f"the hosts; allowed are layers whose state is tensors alone, so none of "
            f"torch.ao.nn.quantized"
        )
    return model
