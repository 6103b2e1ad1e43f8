"""What a source of models says, and what each origin does for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import index
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch
from torch import nn

from paretopipe_worker.cuts import EXPORTED, InputSpec
from paretopipe_worker.model.usercode import RAISED, aside, shortened, told

TIMM = "timm/"
"""What the name of a model of timm begins with."""

Transform: TypeAlias = Callable[[Any], torch.Tensor]
"""Makes a model's input ``(channels, height, width)`` of a ``PIL.Image``."""

_MARKS = "+@#:"
"""What names of cuts and splits have beside those of modules: `a+b`, `a:add#2`."""


class ModelError(ValueError):
    """A model cannot be built, because of its name, its factory, its weights or its inputs."""


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Parameters
    ----------
    name
        What errors call it, and, without `factory`, what builds it: a torchvision classifier,
        ``timm/NAME``, or ``package.module:factory`` for a callable that returns an ``nn.Module``.
    factory
        What builds it.
    arguments
        Keyword arguments of the factory.
    path
        File or folder in which the factory's module lies, if it is not on Python's path; or a
        ``.pt2`` file, which is the model.
    weights
        Weights that its library publishes, by their name there; None for random ones, or for those
        of a ``.pt2`` file.
    """

    name: str
    factory: str | None = None
    arguments: Mapping[str, object] = field(default_factory=dict)
    path: Path | None = None
    weights: str | None = None

    @classmethod
    def of(cls, source: Source | str) -> Source:
        """The source that a name, or the path of a ``.pt2`` file, stands for."""
        if isinstance(source, str) and source.endswith(EXPORTED):
            return cls(Path(source).stem, path=Path(source))
        return cls(source) if isinstance(source, str) else source

    @property
    def made_by(self) -> str:
        """What builds it."""
        return self.factory or self.name

    @property
    def exported(self) -> bool:
        """Whether it is a ``.pt2`` file."""
        return self.path is not None and self.path.suffix == EXPORTED

    @property
    def given(self) -> str:
        """What a factory is given, as errors say it."""
        names = ", ".join(self.arguments)
        return f"the keyword arguments {names}" if names else "no arguments"


class Origin(Protocol):
    """One kind of source. Whatever is wrong with a source is a :class:`ModelError`."""

    @property
    def drawn(self) -> bool:
        """Whether random weights are drawn where no others are asked for."""
        ...

    @property
    def on_meta(self) -> bool:
        """Whether models can be built with their parameters on the meta device."""
        ...

    def factory(self, source: Source) -> Callable[[], object]:
        """Find the callable that builds the model, with the weights that the source names."""
        ...

    def inputs(self, source: Source, model: nn.Module | None) -> tuple[InputSpec, ...]:
        """What goes into the model, without the batch.

        A `model` that is None is built only where that is necessary.
        """
        ...

    def ignored(self, source: Source) -> tuple[str, ...]:
        """Prefixes of names in its checkpoints that are passed over: it has no such tensors."""
        ...

    def transform(self, source: Source, shape: tuple[int, ...]) -> Transform | None:
        """What the model's own library does to an image before the model sees it.

        None where it says nothing of that, or makes nothing of that `shape`.
        """
        ...


def no_weights(source: Source, allowed: Sequence[str] = ()) -> ModelError:
    """The error of a source that has no weights of the name that it is asked for."""
    names = f"{', '.join(allowed)}, and " if allowed else ""
    return ModelError(
        f"model {source.name!r}: weights: there are none of the name {source.weights!r}; "
        f"allowed: {names}the path of a checkpoint, which has a '/' or a '.'"
    )


def fetched(source: Source, url: str, make: Callable[[], object]) -> object:
    """Build a model with weights that must be fetched, or say why that failed."""
    try:
        return make()
    except RAISED as error:
        raise ModelError(
            f"model {source.name!r}: weights: {url} cannot be had or does not fit: {told(error)}; "
            "allowed is what this computer reaches or has in its cache, or a checkpoint that was "
            "fetched elsewhere, by its path"
        ) from error


def called(source: Source, factory: Callable[[], object]) -> nn.Module:
    """Call a factory; return its model in eval mode, without gradients.

    Raises
    ------
    ModelError
        When it fails, or returns what cannot be cut into stages.
    """
    try:
        with aside():
            made = factory()
            model = _usable(source, made)
            # These calls are not chained: a model that overrides `train` may return nothing.
            model.eval()
            model.requires_grad_(False)
    except ModelError:
        raise
    except RAISED as error:
        raise ModelError(
            f"model {source.name!r}: its factory failed with {told(error)}; allowed is a function "
            f"or class that takes {source.given} and returns an nn.Module"
        ) from error
    return model


def _usable(source: Source, model: object) -> nn.Module:
    """Return the model, or refuse what cannot be cut into stages."""
    returned = f"model {source.name!r}: its factory returned"
    if not isinstance(model, nn.Module):
        raise ModelError(f"{returned} {type(model).__name__}, not an nn.Module")
    compiled = hasattr(model, "_orig_mod")  # by torch.compile, whose types take a second to import
    if compiled or isinstance(model, torch.jit.ScriptModule):
        kind = "what torch.compile made" if compiled else "TorchScript"
        raise ModelError(f"{returned} {kind}; allowed is the nn.Module that it was made from")
    for name, _ in model.named_modules():
        if not name.isprintable() or any(mark in name for mark in _MARKS):
            raise ModelError(
                f"{returned} a model with a module {shortened(repr(name))}; allowed are names that "
                f"can be printed, without {' '.join(_MARKS)}, which names of cuts have"
            )
    foreign = [key for key, value in model.state_dict().items() if not torch.is_tensor(value)]
    if foreign:
        raise ModelError(
            f"{returned} a model whose state holds more than tensors ({foreign[0]}), which cannot "
            "be sent to the hosts; allowed are layers whose state is tensors alone, so none of "
            "torch.ao.nn.quantized"
        )
    return model


def said_shape(source: Source, shape: Any) -> tuple[InputSpec, ...]:
    """One input of float32, of a shape that a library or a person's code says.

    Raises
    ------
    ModelError
        When there is none, or it is no shape.
    """
    if shape is None:
        raise ModelError(
            f"model {source.name!r} does not say which input it takes: give `input`, the shape of "
            f"one input without the batch, or set the attribute `input_shape` on the factory or "
            f"its model"
        )
    try:
        lengths = tuple(map(index, shape))
    except TypeError:
        lengths = ()
    if not lengths or min(lengths) < 1:
        raise ModelError(
            f"model {source.name!r}: its `input_shape` is {shortened(repr(shape))}; allowed is the "
            f"shape of one input without the batch, such as (3, 224, 224)"
        )
    return (InputSpec(lengths, "float32"),)
