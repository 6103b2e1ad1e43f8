"""Build models: with random weights that keep a signal alive, or with those of a checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from paretopipe_worker.cuts import FLOAT32, InputSpec
from paretopipe_worker.model.checkpoints import load_weights
from paretopipe_worker.model.drawing import has_batch_norm, keep_signal_alive
from paretopipe_worker.model.inputs import example_inputs, told_inputs
from paretopipe_worker.model.sources import ModelError, Source, default_inputs, made, origin
from paretopipe_worker.model.usercode import RAISED, aside, told
from paretopipe_worker.model.weights import WeightsError

CALIBRATION_BATCH = 4
"""Number of images that BatchNorm statistics are computed from."""

CALIBRATION_INDEX = 1 << 20
"""Index of that batch among a seed's inputs; no measurement uses so many inputs."""


def build(
    source: Source | str,
    *,
    seed: int,
    input_shape: tuple[int, ...] | None = None,
    inputs: Sequence[InputSpec] = (),
    weights: Path | None = None,
    note: Callable[[str], object] = lambda text: None,
) -> nn.Module:
    """Build a model in eval mode, without gradients.

    Parameters
    ----------
    source
        Where it comes from; a name alone stands for the source of that name.
    seed
        Seed of random weights, where no others are asked for. The same seed gives the same weights
        on the same kind of CPU with the same number of threads. The global generator's state is
        kept.
    input_shape
        Shape of the input at which BatchNorm is calibrated, without the batch; by default
        :func:`~paretopipe_worker.model.sources.default_inputs`.
    inputs
        Instead of it, all inputs of a model that takes several, or one of another dtype.
    weights
        Checkpoint to load instead of random weights, or of those that the source has, see
        :func:`paretopipe_worker.model.checkpoints.load_weights`.
    note
        Called with one line of text for each change that made the checkpoint fit.

    Raises
    ------
    ModelError
        When there is no such model, its factory fails, or the checkpoint does not fit.
    """
    source = Source.of(source)
    if weights is None:
        if source.weights or not origin(source).drawn:
            return made(source)
        return _drawn(source, seed, input_shape, inputs)
    model = skeleton(source, seed=seed)
    try:
        load_weights(model, weights, ignore=origin(source).ignored(source), note=note)
    except WeightsError as error:
        raise ModelError(f"model {source.name!r}: {error}") from error
    return model.eval().requires_grad_(False)


def _drawn(
    source: Source, seed: int, input_shape: tuple[int, ...] | None, inputs: Sequence[InputSpec]
) -> nn.Module:
    """Build a model with random weights that keep its signal alive."""
    with _seeded(seed):
        model = made(source)
        batch = None
        if has_batch_norm(model):
            if inputs:
                items: Sequence[InputSpec] = [replace(e, shape=e.shape[1:]) for e in inputs]
            elif input_shape:
                items = [InputSpec(input_shape, "float32")]
            else:
                items = default_inputs(source, model)
            specs = [replace(each, shape=(CALIBRATION_BATCH, *each.shape)) for each in items]
            batch = example_inputs(specs, seed=seed, index=CALIBRATION_INDEX)
        try:
            with aside():
                keep_signal_alive(model, batch)
        except RAISED as error:
            given = f" on {told_inputs(batch)}" if batch is not None else ""
            raise ModelError(
                f"model {source.name!r}: drawing its weights and running it{given} failed with "
                f"{told(error)}; {runnable(model, batch or ())}"
            ) from error
    return model


def runnable(model: nn.Module, inputs: Sequence[torch.Tensor] = ()) -> str:
    """What is allowed, as the error of a model that does not run on these inputs says it."""
    dtypes = [str(each.dtype).removeprefix("torch.") for each in inputs] or ["float32"]
    what = f"one tensor of {dtypes[0]}" if len(dtypes) == 1 else f"tensors of {', '.join(dtypes)}"
    allowed = f"allowed is a forward that needs nothing but {what}"
    other = {str(p.dtype).removeprefix("torch.") for p in model.parameters()} - {FLOAT32, *dtypes}
    if other:
        allowed += f", and parameters of float32 (it has {', '.join(sorted(other))})"
    return allowed


def skeleton(source: Source | str, *, seed: int) -> nn.Module:
    """Build a model, as :func:`build` does, whose parameters will be replaced.

    The parameters of torchvision's models are on the meta device, so that none is drawn: VGG16 is
    ready in 0.1 s instead of 2. Others may compute with their parameters, which is impossible on
    that device, so theirs are real.

    Raises
    ------
    ModelError
        When there is no such model, or its factory fails.
    """
    source = Source.of(source)
    on_meta = origin(source).on_meta
    with _seeded(seed), _parameters_on_meta() if on_meta else contextlib.nullcontext():
        return made(source)


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
