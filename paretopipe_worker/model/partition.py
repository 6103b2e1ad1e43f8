"""A program's cuts, its stages at a split, and the gate that the stages must pass."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from paretopipe_worker.cuts import FIRST, LAST, Cut, TensorSpec
from paretopipe_worker.model import flat
from paretopipe_worker.model.flat import Stage
from paretopipe_worker.model.places import Place, find_places
from paretopipe_worker.model.program import PartitionError, Program

GRANULARITIES = ("block", "op")
"""At granularity ``block`` a cut follows each block, whatever crosses there. At ``op`` it follows
each operation after which few tensors are alive."""


@dataclass(frozen=True)
class Partitioned:
    """A program with the tensors that it holds, ready to be split."""

    program: Program
    tensors: Mapping[str, torch.Tensor]

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Where it can be cut, in the order of the data."""
        return find_places(self.program)

    @cached_property
    def whole(self) -> Stage:
        """All of it as one stage: the reference for its stages."""
        taken = [value.name for value in self.program.inputs]
        return flat.build(self.program, self.tensors, taken, self.program.outputs)

    @property
    def complete(self) -> bool:
        """Whether all of the program's tensors are here."""
        return self.program.tensors.keys() <= self.tensors.keys()

    def held_between(self, before: str, after: str) -> tuple[str, ...]:
        """Names of the tensors that the stage between two cuts, or endpoints, binds."""
        ends = {place.name: place.values for place in self.places}
        ends |= {LAST: tuple(value.name for value in self.program.inputs)}
        ends |= {FIRST: self.program.outputs}
        operations = flat.needed(self.program, ends[before], ends[after])
        return flat.held_by(self.program, operations, ends[after])

    def specs(self, names: Sequence[str]) -> tuple[TensorSpec, ...]:
        """Shape and dtype of values of the program."""
        layouts = self.program.layouts()
        return tuple(layouts[name].spec for name in names)


@dataclass(frozen=True)
class SplitCheck:
    """What the gate found.

    Attributes
    ----------
    exact
        Whether the stages returned, bit by bit, what the whole program returns, on every input.
    largest_error
        Largest difference divided by the largest reference value: 0 where exact, infinite where
        shapes differ or a value is not finite.
    """

    exact: bool
    largest_error: float


def find_cuts(model: Partitioned, granularity: str, max_tensors: int = 1) -> tuple[Cut, ...]:
    """List the cuts of a granularity in topological order, without endpoints.

    At granularity ``op`` at most `max_tensors` tensors cross each of them.

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
        Cut(place.name, model.specs(place.values))
        for place in model.places
        if (place.block if granularity == "block" else len(place.values) <= max_tensors)
    )


def split(
    model: Partitioned, names: Sequence[str], *, only: int | None = None
) -> tuple[Stage | None, ...]:
    """Build the stages of a split.

    Parameters
    ----------
    model
        The program; stages bind its tensors.
    names
        The k-1 cuts of k stages, in order. At ``@last`` every operation comes after the cut, at
        ``@first`` every operation comes before it. For three stages, ``("@last", "@first")`` gives
        all operations to the second stage. Between two equal cuts the stage is empty.
    only
        The rank whose stage to build, where its tensors may be all that there are: the others are
        ``None``, too.

    Returns
    -------
    tuple
        One function per stage, ``None`` for a stage without operations. A stage takes the tensors
        that cross into it, contiguous, and returns a tuple of contiguous tensors, which may share
        memory with those it was given. It never writes to these. A tensor that only a later stage
        uses is handed on. Run it without gradients.

    Raises
    ------
    PartitionError
        When a name is not a cut of the model, or the order is not the order of the data.
    """
    program = model.program
    entry = tuple(value.name for value in program.inputs)
    start = Place(LAST, True, entry, 0)
    end = Place(FIRST, True, program.outputs, len(program.operations))
    known = {place.name: place for place in (start, *model.places, end)}
    for name in names:
        if name not in known:
            raise PartitionError(_unknown(name, known))
    bounds = [start, *(known[name] for name in names), end]
    for before, after in itertools.pairwise(bounds):
        if before is not after and before.end >= after.end:
            raise PartitionError(
                f"cuts {before.name!r} and {after.name!r} are not in the order of the data; "
                f"allowed are cuts in the order of the model's cut table, {LAST} before and "
                f"{FIRST} after them; between two equal ones a stage is empty"
            )
    return tuple(
        flat.build(program, model.tensors, before.values, after.values)
        if before.end < after.end and only in (None, rank)
        else None
        for rank, (before, after) in enumerate(itertools.pairwise(bounds))
    )


def noting(
    model: Partitioned,
    before: str,
    after: str,
    inside: Sequence[str],
    note: Callable[[], object],
) -> Stage:
    """Build the stage between two cuts, or endpoints, which calls `note` at others inside.

    Raises
    ------
    PartitionError
        When its tensors are not all here.
    """
    program = model.program
    ends = {place.name: place for place in model.places}
    entry = tuple(value.name for value in program.inputs)
    taken = entry if before == LAST else ends[before].values
    given = program.outputs if after == FIRST else ends[after].values
    marks = [ends[name].end for name in inside]
    return flat.build_noting(program, model.tensors, taken, given, marks, note)


def _unknown(name: str, known: Sequence[str] | Mapping[str, Place]) -> str:
    """The error's text for a name that is not a cut."""
    close = difflib.get_close_matches(name, known, n=3)
    hint = f" (close: {', '.join(close)})" if close else ""
    return (
        f"the model has no cut {name!r}{hint}; allowed are the endpoints {FIRST} and {LAST} and "
        f"the {len(known) - 2} names of its cut table at granularity op"
    )


def check_split(
    stages: Sequence[Stage | None],
    inputs: Sequence[Sequence[torch.Tensor]],
    references: Sequence[tuple[torch.Tensor, ...]],
) -> SplitCheck:
    """Compare the stages, run one after the other, with the whole program on the same host.

    Every tensor between two stages is copied into fresh contiguous memory, as a link would do.

    Parameters
    ----------
    stages
        From :func:`split`.
    inputs
        At least two different sets of inputs.
    references
        What the whole program returns for each input, on the same host with the same threads.
    """
    errors = []
    for given, reference in zip(inputs, references, strict=True):
        crossing = _received_copies(given)
        for stage in stages:
            if stage is not None:
                with torch.inference_mode():
                    crossing = _received_copies(stage(*crossing))
        errors.append(largest_error(crossing, reference))
    return SplitCheck(max(errors) == 0.0, max(errors))


def _received_copies(tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Copy tensors as a link does: the same values in contiguous memory of their own."""
    return tuple(torch.empty(t.shape, dtype=t.dtype, device=t.device).copy_(t) for t in tensors)


def run_unchanged(module: nn.Module, *tensors: torch.Tensor) -> Any:
    """Run a model and check that it keeps no state.

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


def whole(model: nn.Module, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Run the model itself, leaving the inputs as they are; its outputs."""
    with torch.inference_mode():
        return tensors_of(model(*(tensor.clone() for tensor in tensors)))


def tensors_of(values: Any) -> tuple[torch.Tensor, ...]:
    """Tensors in nested tuples, lists and dicts, in order."""
    return tuple(leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor))


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
