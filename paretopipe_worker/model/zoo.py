"""Models by name: any torchvision classifier or ``package.module:factory``, and inputs for them."""

from __future__ import annotations

import contextlib
import difflib
import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import index
from pathlib import Path
from types import ModuleType

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from paretopipe_worker.cuts import TensorSpec
from paretopipe_worker.model.checkpoints import load_weights
from paretopipe_worker.model.drawing import has_batch_norm, keep_signal_alive
from paretopipe_worker.model.nms import mend_torchvision
from paretopipe_worker.model.usercode import RAISED, aside, shortened, told
from paretopipe_worker.model.weights import WeightsError

CALIBRATION_BATCH = 4
"""Number of images that BatchNorm statistics are computed from."""

CALIBRATION_INDEX = 1 << 20
"""Index of that batch among a seed's inputs; no measurement uses so many inputs."""


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


def build(
    name: str,
    *,
    seed: int,
    input_shape: tuple[int, ...] | None = None,
    weights: Path | None = None,
    note: Callable[[str], object] = lambda text: None,
) -> nn.Module:
    """Build a model in eval mode, without gradients.

    Parameters
    ----------
    name
        A torchvision classifier, or ``package.module:factory`` for a callable that takes no
        arguments and returns an ``nn.Module``.
    seed
        Seed of the random weights. The same seed gives the same weights on the same kind of CPU
        with the same number of threads. The global generator's state is kept.
    input_shape
        Shape of the input at which BatchNorm is calibrated, without the batch; by default
        :func:`default_input`.
    weights
        Checkpoint to load instead of random weights, see
        :func:`paretopipe_worker.model.checkpoints.load_weights`.
    note
        Called with one line of text for each change that made the checkpoint fit.

    Raises
    ------
    ModelError
        When there is no such model, its factory fails, or the checkpoint does not fit.
    """
    if weights is None:
        return _drawn(name, seed, input_shape)
    model = skeleton(name, seed=seed)
    ignored = _VARIANTS.get(name, _Variant()).ignored
    try:
        load_weights(model, weights, ignore=ignored, note=note)
    except WeightsError as error:
        raise ModelError(f"model {name!r}: {error}") from error
    return model.eval().requires_grad_(False)


def _drawn(name: str, seed: int, input_shape: tuple[int, ...] | None) -> nn.Module:
    """Build a model with random weights that keep its signal alive."""
    factory = _factory(name)
    with _seeded(seed):
        model = _call(name, factory)
        batch = None
        if has_batch_norm(model):
            shape = input_shape or _input_of(name, factory, model)
            batch = example_input(
                TensorSpec((CALIBRATION_BATCH, *shape), "float32"),
                seed=seed,
                index=CALIBRATION_INDEX,
            )
        try:
            with aside():
                keep_signal_alive(model, batch)
        except RAISED as error:
            given = f" on a tensor of shape {tuple(batch.shape)}" if batch is not None else ""
            raise ModelError(
                f"model {name!r}: drawing its weights and running it{given} failed with "
                f"{told(error)}; {runnable(model, 'float32')}"
            ) from error
    return model


def runnable(model: nn.Module, dtype: str) -> str:
    """What is allowed, as the error of a model that does not run on inputs of `dtype` says it."""
    allowed = f"allowed is a forward that needs nothing but one tensor of {dtype}"
    other = {str(p.dtype).removeprefix("torch.") for p in model.parameters()} - {dtype}
    if other:
        allowed += f", and parameters of that dtype (it has {', '.join(sorted(other))})"
    return allowed


def skeleton(name: str, *, seed: int) -> nn.Module:
    """Build a model, as :func:`build` does, whose parameters will be replaced.

    The parameters of torchvision's models are on the meta device, so that none is drawn: VGG16 is
    ready in 0.1 s instead of 2. A user's factory may compute with its parameters, which is
    impossible on that device, so its parameters are real.

    Raises
    ------
    ModelError
        When there is no such model, or its factory fails.
    """
    factory = _factory(name)
    with _seeded(seed), contextlib.nullcontext() if ":" in name else _parameters_on_meta():
        return _call(name, factory)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generator for the block, and restore its state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextlib.contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Move each parameter to the meta device when a module registers it, before it is initialised.

    All other tensors stay real: RegNet's builder computes its widths with tensors, and some models
    have tables that are neither parameters nor buffers.
    """

    def emptied(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter:
        return nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    handle = register_module_parameter_registration_hook(emptied)  # type: ignore[arg-type]
    try:
        yield
    finally:
        handle.remove()


def default_input(name: str) -> tuple[int, ...]:
    """Shape of one input, without the batch: ``(channels, height, width)`` for a classifier.

    It is the smallest size that torchvision has weights for, or the attribute ``input_shape`` of
    the user's factory or of the model it returns.

    Raises
    ------
    ModelError
        When there is no such model, or neither the factory nor its model has the attribute.
    """
    factory = _factory(name)
    return _input_of(name, factory, None)


def _input_of(name: str, factory: Callable[[], object], model: nn.Module | None) -> tuple[int, ...]:
    """Look up the input's shape; a `model` that is None is built only where that is necessary."""
    if ":" not in name:
        weights = _torchvision_models().get_model_weights(name)
        size = min(entry.transforms.keywords["crop_size"] for entry in weights)
        return (3, size, size)
    shape = getattr(factory, "input_shape", None)
    if shape is None:
        shape = getattr(model or _call(name, factory), "input_shape", None)
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


def _factory(name: str) -> Callable[[], object]:
    """The callable that builds the model of this name."""
    if ":" in name:
        return _user_factory(name)
    models = _torchvision_models()
    known = classifiers()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3)
        hint = f" (close: {', '.join(close)})" if close else ""
        raise ModelError(
            f"unknown model {name!r}{hint}; allowed are torchvision's classifiers, listed by "
            f"`python -c 'from paretopipe_worker.model.zoo import *; print(*classifiers())'`, "
            f"and package.module:factory"
        )
    options = _VARIANTS.get(name, _Variant()).options
    return lambda: models.get_model(name, weights=None, **options)


def _user_factory(name: str) -> Callable[[], object]:
    """Import ``package.module:factory``."""
    module_name, _, attribute = name.partition(":")
    mend_torchvision()  # the module may import it, and so may the factory when it is called
    try:
        with aside():
            module = importlib.import_module(module_name)
    except RAISED as error:
        raise ModelError(
            f"model {name!r}: importing {module_name!r} failed with {told(error)}; "
            f"it must be on this host's Python path"
        ) from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise ModelError(
            f"model {name!r}: {module_name!r} has no callable {attribute!r}; "
            f"allowed is a function or class that takes no arguments and returns an nn.Module"
        )
    return factory  # type: ignore[no-any-return]


def _call(name: str, factory: Callable[[], object]) -> nn.Module:
    """Call the factory; return its model in eval mode, without gradients."""
    try:
        with aside():
            model = _usable(factory())
            # These calls are not chained: a model that overrides `train` may return nothing.
            model.eval()
            model.requires_grad_(False)
    except ModelError as error:
        raise ModelError(f"model {name!r}: its factory returned {error}") from None
    except RAISED as error:
        raise ModelError(
            f"model {name!r}: its factory failed with {told(error)}; allowed is a function or "
            f"class that takes no arguments and returns an nn.Module"
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
