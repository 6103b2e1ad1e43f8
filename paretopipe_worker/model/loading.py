"""Load a model as a host does: built by its factory, all its tensors from one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from paretopipe_worker.cuts import TensorSpec
from paretopipe_worker.model import weights, zoo
from paretopipe_worker.model.capture import trace
from paretopipe_worker.model.graph import TracedModel
from paretopipe_worker.model.weights import WeightsError, listed


@dataclass(frozen=True)
class Loaded:
    """A model and what was seen of it once it was loaded.

    Attributes
    ----------
    traces
        By the shape and dtype of an input.
    weights_sha256
        Digest of the tensors that the model holds, see
        :func:`paretopipe_worker.model.weights.weights_sha256`.
    """

    model: nn.Module
    traces: Mapping[TensorSpec, TracedModel]
    weights_sha256: str


def load(name: str, file: Path, inputs: Sequence[TensorSpec], *, seed: int) -> Loaded:
    """Build a model, put the file's tensors in place of its own, and trace it.

    Parameters
    ----------
    name
        As in :func:`paretopipe_worker.model.zoo.build`.
    file
        From :func:`paretopipe_worker.model.weights.save_weights`, of a model that was traced for
        the same inputs in the same order.
    inputs
        What to trace it for, batch first.
    seed
        Seeds what the factory draws.

    Raises
    ------
    ModelError
        When the model cannot be built.
    WeightsError
        When the file cannot be read, or the model holds other tensors than it; the text names them.
    PartitionError
        When the model cannot be traced.
    """
    model = zoo.skeleton(name, seed=seed)
    state = weights.read_weights(file)
    weights.place(model, state, file)
    placed = weights.tensors(model)
    traces = traced(model, inputs, seed=seed)
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
    # Tensors that no module held before the trace, which keeps constants on the model.
    late = {key for key, tensor in own.items() if placed.get(key) is not tensor}
    if any(not torch.equal(own[key], state[key]) for key in late):
        weights.place(model, {key: state[key] for key in late}, file)
        for example in inputs:
            _refuse_remade(name, traces[example], example, seed)
    return Loaded(model, traces, weights.weights_sha256(model))


def traced(
    model: nn.Module, inputs: Sequence[TensorSpec], *, seed: int
) -> dict[TensorSpec, TracedModel]:
    """Trace a model for each of its inputs; constants of the traces stay on the model."""
    return {spec: trace(model, zoo.example_input(spec, seed=seed, index=0)) for spec in inputs}


def _refuse_remade(name: str, before: TracedModel, spec: TensorSpec, seed: int) -> None:
    """Refuse constants that the model makes anew in each run, other than in the file.

    Its stages would compute with the file's and the model itself with its own.
    """
    model = before.model
    known = set(vars(model))
    again = trace(model, zoo.example_input(spec, seed=seed, index=0))
    pairs = list(zip(_attributes(before), _attributes(again), strict=True))
    held = weights.tensors(model)
    for left in vars(model).keys() - known:
        delattr(model, left)
    for old, new in pairs:
        if old in held and not torch.equal(held[old], held[new]):
            raise WeightsError(
                f"model {name!r} makes a tensor of shape {tuple(held[old].shape)} as it runs, and "
                "here another one than on the controller, with which its stages would compute; "
                "make it in __init__, as a buffer or an attribute"
            )


def _attributes(traced: TracedModel) -> list[str]:
    """What the graph takes from the model itself, in its order."""
    return [str(node.target) for node in traced.nodes if node.op == "get_attr"]
