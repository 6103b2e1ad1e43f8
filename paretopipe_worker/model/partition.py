"""A captured model's cuts, its stages at a split, and the gate that the stages must pass."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from paretopipe_worker.cuts import FIRST, LAST, Cut
from paretopipe_worker.model.graph import CapturedModel, Layout, PartitionError, Place

__all__ = [
    "GRANULARITIES",
    "PartitionError",
    "SplitCheck",
    "check_split",
    "find_cuts",
    "run_unchanged",
    "split",
    "whole",
]

GRANULARITIES = ("block", "op")
"""At granularity ``block`` a cut follows each direct child of the model and of its sequential
children. At ``op`` a cut follows each operation after which exactly one tensor is alive; the
blocks' cuts are among these, under the same names."""

Stage = nn.Module
"""A module that takes the tensors that cross into it, in order, and returns a tuple of the tensors
that leave it."""


@dataclass(frozen=True)
class SplitCheck:
    """What the gate found.

    Attributes
    ----------
    exact
        Whether the stages returned, bit by bit, what the whole model returns, on every input.
    largest_error
        Largest difference divided by the largest reference value: 0 where exact, infinite where
        shapes differ or a value is not finite.
    overwrites_input
        Whether the first stage changes the tensor it is given; if so, every item needs a fresh one.
    """

    exact: bool
    largest_error: float
    overwrites_input: bool


def find_cuts(captured: CapturedModel, granularity: str) -> tuple[Cut, ...]:
    """List the cuts of a granularity in topological order, without endpoints.

    Raises
    ------
    PartitionError
        When the granularity is not one of :data:`GRANULARITIES`.
    """
    if granularity not in GRANULARITIES:
        raise PartitionError(
            f"unknown granularity {granularity!r}; allowed are {', '.join(GRANULARITIES)}"
        )
    return tuple(
        Cut(place.name, tuple(captured.layouts[value].spec for value in place.values))
        for place in captured.places
        if place.block or granularity == "op"
    )


def split(captured: CapturedModel, names: Sequence[str]) -> tuple[Stage | None, ...]:
    """Build the stages of a split.

    Parameters
    ----------
    captured
        The model; stages share its modules and keep its parameters' names.
    names
        The k-1 cuts of k stages, in order. At ``@last`` every operation comes after the cut, at
        ``@first`` every operation comes before it: of three stages, ``("@last", "@first")`` gives
        all operations to the second.

    Returns
    -------
    tuple
        One module per stage, or ``None`` for a stage without operations. A stage takes contiguous
        tensors and returns a tuple of contiguous tensors, which may share memory with those it
        was given. Run it without gradients.

    Raises
    ------
    PartitionError
        When a name is not a cut of the model, or the cuts are not in the order of the data.
    """
    start = Place(LAST, True, 1, captured.nodes[:1])
    end = Place(FIRST, True, len(captured.nodes) - 1, captured.results)
    known = {place.name: place for place in (start, *captured.places, end)}
    for name in names:
        if name not in known:
            raise PartitionError(_unknown(name, known))
    bounds = [start, *(known[name] for name in names), end]
    for before, after in itertools.pairwise(bounds):
        endpoint = before is after and before.name in (FIRST, LAST)
        if before.end >= after.end and not endpoint:
            raise PartitionError(
                f"cuts {before.name!r} and {after.name!r} are not in the order of the data; "
                f"allowed are different cuts in the order of the model's cut table, "
                f"{LAST} before and {FIRST} after them"
            )
    return tuple(
        _build(captured, before, after) if before.end < after.end else None
        for before, after in itertools.pairwise(bounds)
    )


def _unknown(name: str, known: Sequence[str] | dict[str, Place]) -> str:
    """The error's text for a name that is not a cut."""
    close = difflib.get_close_matches(name, known, n=3)
    hint = f" (close: {', '.join(close)})" if close else ""
    return (
        f"the model has no cut {name!r}{hint}; allowed are the endpoints {FIRST} and {LAST} and "
        f"the {len(known) - 2} names of its cut table at granularity op"
    )


def _build(captured: CapturedModel, start: Place, end: Place) -> Stage:
    """Build the module that computes the operations between two places."""
    graph = fx.Graph()
    built: dict[fx.Node, fx.Node] = {}
    for number, value in enumerate(start.values):
        built[value] = _received(graph, f"tensor_{number}", captured.layouts[value])

    def fetch(node: fx.Node) -> fx.Node:
        if node.op == "get_attr" and node not in built:
            built[node] = graph.node_copy(node)
        # A node of an earlier stage enters as the tensor object that it shares with its root.
        return built[node] if node in built else built[captured.roots[node]]

    for node in captured.nodes[start.end : end.end]:
        if node.op != "get_attr":
            built[node] = graph.node_copy(node, fetch)
    graph.output(tuple(_sent(graph, fetch(v), captured.layouts[v]) for v in end.values))
    return fx.GraphModule(captured.model, graph, class_name="Stage")


def _received(graph: fx.Graph, name: str, layout: Layout) -> fx.Node:
    """Add an input that has the strides it has in the whole model."""
    node = graph.placeholder(name)
    if layout.contiguous:
        return node
    return graph.call_function(_restored, (node, layout.strides))


def _restored(tensor: torch.Tensor, strides: tuple[int, ...]) -> torch.Tensor:
    """Copy a received tensor into memory with the strides that it had before it was sent.

    PyTorch chooses kernels by strides, and their rounding differs. Sending the memory as it lies
    would save the copy, but would garble the values where two hosts disagree on the strides.
    """
    shape = tuple(tensor.shape)
    target = torch.empty_strided(shape, strides, dtype=tensor.dtype, device=tensor.device)
    return target.copy_(tensor)


def _sent(graph: fx.Graph, node: fx.Node, layout: Layout) -> fx.Node:
    """Add the operation that makes an output contiguous, where it is not."""
    return node if layout.contiguous else graph.call_method("contiguous", (node,))


def whole(model: nn.Module, tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Run the whole model, whose output its stages must reproduce; the input is left unchanged."""
    with torch.inference_mode():
        output: Any = model(tensor.clone())
    return tuple(output) if isinstance(output, (tuple, list)) else (output,)


def check_split(
    stages: Sequence[Stage | None],
    inputs: Sequence[torch.Tensor],
    references: Sequence[tuple[torch.Tensor, ...]],
) -> SplitCheck:
    """Run the stages one after the other and compare their output with the whole model's.

    Every tensor between two stages is copied into fresh contiguous memory, as a link does.

    Parameters
    ----------
    stages
        From :func:`split`.
    inputs
        At least two different inputs; they are left unchanged.
    references
        :func:`whole` of each input, made on the same host with the same threads and formats.

    Raises
    ------
    PartitionError
        When a stage changes its parameters or buffers as it runs: results would depend on how
        often it ran.
    """
    errors = []
    overwrites = False
    for tensor, reference in zip(inputs, references, strict=True):
        crossing = _received_copies((tensor,))
        given = crossing[0]
        for stage in stages:
            if stage is not None:
                crossing = _received_copies(run_unchanged(stage, *crossing))
        overwrites = overwrites or (stages[0] is not None and not torch.equal(given, tensor))
        errors.append(largest_error(crossing, reference))
    return SplitCheck(max(errors) == 0.0, max(errors), overwrites)


def _received_copies(tensors: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Copy tensors as a link does: the same values in contiguous memory of their own."""
    return tuple(torch.empty(t.shape, dtype=t.dtype, device=t.device).copy_(t) for t in tensors)


def run_unchanged(module: nn.Module, *tensors: torch.Tensor) -> Any:
    """Run a stage or a model and check that it keeps no state.

    Raises
    ------
    PartitionError
        When it changes its parameters or buffers; the text names them.
    """
    state = module.state_dict(keep_vars=True)
    versions = {name: tensor._version for name, tensor in state.items()}
    with torch.inference_mode():
        output = module(*tensors)
    changed = [name for name, tensor in state.items() if tensor._version != versions[name]]
    if changed:
        raise PartitionError(
            f"the model changes {', '.join(changed)} as it runs; "
            f"allowed are models whose output depends on the input alone"
        )
    return output


def largest_error(outputs: tuple[torch.Tensor, ...], reference: tuple[torch.Tensor, ...]) -> float:
    """Largest difference relative to the largest reference value; 0 only for equal tensors."""
    # This runs for every item and is nearly always true, so it comes first and is cheap.
    if len(outputs) == len(reference) and all(map(torch.equal, outputs, reference)):
        return 0.0
    if [t.shape for t in outputs] != [t.shape for t in reference]:
        return float("inf")
    difference = max(
        (a.double() - b.double()).abs().max().item()
        for a, b in zip(outputs, reference, strict=True)
    )
    scale = max(b.double().abs().max().item() for b in reference)
    error = difference / scale if scale else float("inf")
    return error if error == error else float("inf")
