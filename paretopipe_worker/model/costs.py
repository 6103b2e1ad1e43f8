"""What each side of a cut costs: tensors to hold, arithmetic, and memory for what flows."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from paretopipe_worker.cuts import FIRST, LAST, Footprint
from paretopipe_worker.model import flat, verifying
from paretopipe_worker.model.partition import Partitioned
from paretopipe_worker.model.program import Operation, Program


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


def footprint(model: Partitioned, cuts: Sequence[str]) -> Footprint:
    """Find out what memory the parts of a program between neighbouring cuts need.

    Parameters
    ----------
    cuts
        Names of places where the program can be cut, in the order of the data.
    """
    program = model.program
    places = {place.name: place.values for place in model.places}
    entry = tuple(value.name for value in program.inputs)
    ends = [entry, *(places[name] for name in cuts), program.outputs]
    users: dict[str, list[int]] = {}
    peaks = []
    for number, (taken, given) in enumerate(itertools.pairwise(ends)):
        operations = flat.needed(program, taken, given)
        for name in flat.held_by(program, operations, given):
            users.setdefault(name, []).append(number)
        peaks.append(_peak(model, operations, taken, given, inside=True))
    held: Counter[tuple[int, ...]] = Counter()
    for name, parts in users.items():
        held[tuple(parts)] += program.tensors[name].layout.nbytes
    return Footprint(tuple((size, parts) for parts, size in sorted(held.items())), tuple(peaks))


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
        held_bytes=sum(program.tensors[name].layout.nbytes for name in held),
        flops=sum(flops[each.name] for each in operations),
        peak_bytes=_peak(model, operations, taken, given),
    )


def _peak(
    model: Partitioned,
    operations: Sequence[Operation],
    taken: Sequence[str],
    given: Sequence[str],
    *,
    inside: bool = False,
) -> int:
    """Most bytes that are alive at once, by pieces of memory.

    Each value that comes in is a copy of its own. Operations `inside` a longer stage may take views
    instead, which keep alive all that they are views of.
    """
    pieces = _pieces(model.program, operations, taken, inside)
    sizes: Counter[str] = Counter()
    layouts = model.program.layouts()
    for name in taken:
        sizes[pieces[name]] += layouts[name].nbytes
    if inside:
        made = {o.name: sum(each.nbytes for each in o.results) for o in model.program.operations}
        for piece in sizes:
            sizes[piece] = max(sizes[piece], made.get(piece, 0))
    arrived = set(sizes)
    last = {pieces[name]: len(operations) for name in given if name in pieces}
    for number, operation in enumerate(operations):
        for piece in _touched(operation, pieces):
            last[piece] = max(number, last.get(piece, 0))
    most = alive = sizes.total()
    for number, operation in enumerate(operations):
        if operation.in_place:
            given_up = pieces.get(operation.args[0].name, "")
            if given_up not in arrived and last.get(given_up) == number:
                alive -= sizes.pop(given_up, 0)
        own = pieces.get(operation.name, "")
        if own and own not in sizes:
            sizes[own] = sum(each.nbytes for each in operation.results)
            alive += sizes[own]
        most = max(most, alive)
        for piece in _touched(operation, pieces):
            if last[piece] == number:
                alive -= sizes.pop(piece, 0)
    return most


def _pieces(
    program: Program, operations: Sequence[Operation], taken: Sequence[str], inside: bool
) -> dict[str, str]:
    """The piece of memory that each value of a stage lies in, by its name; not of held tensors."""
    storages = {each.name: each.storage for each in program.operations}
    pieces = {name: storages.get(name, name) if inside else name for name in taken}
    for operation in operations:
        if operation.name in pieces:
            continue
        views = [n for n in operation.refs if storages.get(n, n) == operation.storage]
        if operation.storage == operation.name:
            pieces[operation.name] = operation.name
        elif views and views[0] in pieces:
            pieces[operation.name] = pieces[views[0]]
    return pieces


def _touched(operation: Operation, pieces: dict[str, str]) -> set[str]:
    """Pieces of memory that an operation reads or makes."""
    return {pieces[name] for name in (*operation.refs, operation.name) if name in pieces}
