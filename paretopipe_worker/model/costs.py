"""What each side of a cut costs: tensors to hold, arithmetic, and memory for what flows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from paretopipe_worker.cuts import FIRST, LAST
from paretopipe_worker.model import flat, verifying
from paretopipe_worker.model.partition import Partitioned
from paretopipe_worker.model.program import Operation


@dataclass(frozen=True)
class Side:
    """One stage of a pipeline of two.

    Attributes
    ----------
    held_bytes
        Bytes of the tensors that it holds: parameters, buffers and constants.
    flops
        Floating-point operations for one batch, a multiplication and an addition counted apart
        (:class:`torch.utils.flop_counter.FlopCounterMode`, which knows convolutions, products of
        matrices and attention).
    peak_bytes
        Most bytes of values that are alive at once, what comes in and goes out included. What
        operators need inside for themselves is not known.
    """

    held_bytes: int
    flops: int
    peak_bytes: int


def sides(model: Partitioned, inputs: Sequence[torch.Tensor]) -> dict[str, tuple[Side, Side]]:
    """Count what both stages cost at each place where a model can be cut.

    Parameters
    ----------
    model
        The program, which runs once, and its tensors.
    inputs
        Tensors that go in.

    Returns
    -------
    The first stage and the second, by the name of the place; at an endpoint one of them does
    everything, and the other nothing.
    """
    flops = _flops(model, inputs)
    entry = tuple(value.name for value in model.program.inputs)
    ends = model.program.outputs
    found = {
        place.name: (
            _side(model, flops, entry, place.values),
            _side(model, flops, place.values, ends),
        )
        for place in model.places
    }
    everything, nothing = _side(model, flops, entry, ends), Side(0, 0, 0)
    return {LAST: (nothing, everything), **found, FIRST: (everything, nothing)}


def _flops(model: Partitioned, inputs: Sequence[torch.Tensor]) -> dict[str, int]:
    """Floating-point operations of each operation, by its name."""
    found: dict[str, int] = {}
    with FlopCounterMode(display=False) as counter:

        def count(operation: Operation, *_: object) -> None:
            found[operation.name] = counter.get_total_flops() - sum(found.values())

        verifying.run(model.program, model.tensors, inputs, count)
    return found


def _side(
    model: Partitioned, flops: dict[str, int], taken: Sequence[str], given: Sequence[str]
) -> Side:
    """What the stage costs that computes some values from others."""
    program = model.program
    operations = flat.needed(program, taken, given)
    held = flat.held_by(program, operations, given)
    return Side(
        held_bytes=sum(program.tensors[name].layout.spec.nbytes for name in held),
        flops=sum(flops[each.name] for each in operations),
        peak_bytes=_peak(model, operations, taken, given),
    )


def _peak(
    model: Partitioned, operations: Sequence[Operation], taken: Sequence[str], given: Sequence[str]
) -> int:
    """Most bytes that are alive at once, by pieces of memory."""
    layouts, tensors = model.program.layouts(), model.program.tensors
    memory = {each.name: each.storage for each in model.program.operations}
    sizes = {name: layouts[name].spec.nbytes for name in taken}
    last = {memory.get(name, name): len(operations) for name in given}
    for number, operation in enumerate(operations):
        for name in (*operation.refs, operation.name):
            piece = memory.get(name, name)
            last[piece] = max(number, last.get(piece, 0))
    alive = sum(sizes.values())
    most = alive
    for number, operation in enumerate(operations):
        piece = memory[operation.name]
        if operation.in_place:
            given_up = memory.get(operation.args[0].name, operation.args[0].name)
            if last[given_up] == number and given_up not in taken:
                alive -= sizes.pop(given_up, 0)
        if piece not in sizes and piece not in tensors:
            sizes[piece] = sum(each.spec.nbytes for each in operation.results)
            alive += sizes[piece]
        most = max(most, alive)
        for name in {memory.get(each, each) for each in (*operation.refs, operation.name)}:
            if last[name] == number:
                alive -= sizes.pop(name, 0)
    return most
