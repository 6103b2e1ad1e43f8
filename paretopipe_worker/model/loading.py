"""Load a model as a host does: its factory builds it, one file provides all its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from paretopipe_worker.cuts import TensorSpec
from paretopipe_worker.model import weights, zoo
from paretopipe_worker.model.capture import capture
from paretopipe_worker.model.graph import CapturedModel
from paretopipe_worker.model.weights import WeightsError, listed


@dataclass(frozen=True)
class Loaded:
    """A loaded model.

    Attributes
    ----------
    captures
        The model as captured for each input, by the input's shape and dtype.
    weights_sha256
        Digest of the tensors that the model holds, see
        :func:`paretopipe_worker.model.weights.weights_sha256`.
    """

    model: nn.Module
    captures: Mapping[TensorSpec, CapturedModel]
    weights_sha256: str


def load(name: str, file: Path, inputs: Sequence[TensorSpec], *, seed: int) -> Loaded:
    """Build a model, replace its tensors by those of the file, and capture it.

    Parameters
    ----------
    name
        As in :func:`paretopipe_worker.model.zoo.build`.
    file
        Written by :func:`paretopipe_worker.model.weights.save_weights` for a model that was
        captured for the same inputs in the same order.
    inputs
        The inputs to capture the model for, batch first.
    seed
        Seed of the factory's random draws.

    Raises
    ------
    ModelError
        When the model cannot be built.
    WeightsError
        When the file cannot be read, or the model and the file hold different tensors; the text
        names them.
    PartitionError
        When the model cannot be captured.
    """
    model = zoo.skeleton(name, seed=seed)
    state = weights.read_weights(file)
    weights.place(model, state, file)
    placed = weights.tensors(model)
    captures = capture_all(model, inputs, seed=seed)
    own = weights.tensors(model)
    faults = [
        *listed("not in the file", own.keys() - state.keys()),
        *listed("not in the model", state.keys() - own.keys()),
    ]
    if faults:
        raise WeightsError(
            f"{file}: model {name!r} as built here holds other tensors than where the file was "
            f"made: {'; '.join(faults)}"
        )
    # Capturing stores constants on the model: tensors that no module held before.
    late = {key for key, tensor in own.items() if placed.get(key) is not tensor}
    if any(not torch.equal(own[key], state[key]) for key in late):
        weights.place(model, {key: state[key] for key in late}, file)
        for example in inputs:
            _refuse_remade(name, captures[example], example, seed)
    return Loaded(model, captures, weights.weights_sha256(model))


def capture_all(
    model: nn.Module, inputs: Sequence[TensorSpec], *, seed: int
) -> dict[TensorSpec, CapturedModel]:
    """Capture a model for each of its inputs; the graphs' constants stay on the model."""
    return {spec: capture(model, zoo.example_input(spec, seed=seed, index=0)) for spec in inputs}


def _refuse_remade(name: str, before: CapturedModel, spec: TensorSpec, seed: int) -> None:
    """Refuse a model that makes a constant anew in each run and differently from the file.

    Its stages would compute with the file's constant, and the model itself with its own.
    """
    model = before.model
    known = set(vars(model))
    again = capture(model, zoo.example_input(spec, seed=seed, index=0))
    pairs = list(zip(_attributes(before), _attributes(again), strict=True))
    held = weights.tensors(model)
    for left in vars(model).keys() - known:
        delattr(model, left)
    for old, new in pairs:
        if old in held and not torch.equal(held[old], held[new]):
            raise WeightsError(
                f"model {name!r} makes a tensor of shape {tuple(held[old].shape)} as it runs, and "
                "its values here differ from those made on the controller, with which its stages "
                "would compute; make it in __init__, as a buffer or an attribute"
            )


def _attributes(captured: CapturedModel) -> list[str]:
    """Names of the attributes that the graph reads from the model, in the graph's order."""
    return [str(node.target) for node in captured.nodes if node.op == "get_attr"]
