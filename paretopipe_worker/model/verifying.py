"""Hold a program against the model that it was captured from, on the machine that captured it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from paretopipe_worker.model import flat, natives
from paretopipe_worker.model.capture import Captured
from paretopipe_worker.model.lowering import ALONE
from paretopipe_worker.model.partition import largest_error, tensors_of
from paretopipe_worker.model.program import (
    GETITEM,
    Operation,
    PartitionError,
    Program,
    Ref,
    mapped,
)

MOST_ERROR = 1e-5
"""Largest difference between a program and its model, relative to the largest reference value: what
a model's own faster path for eager execution may make."""


@dataclass(frozen=True)
class Verified:
    """A captured program, with `native` set on its operations, and how far it is from its model.

    `error` is 0 where both return the same bits.
    """

    captured: Captured
    error: float


def verified(model: nn.Module, captured: Captured, inputs: Sequence[Sequence[Any]]) -> Verified:
    """Run the program and the model on each of the inputs and compare what they return.

    Parameters
    ----------
    inputs
        At least two sets of the model's arguments; they are left as they are.

    Raises
    ------
    PartitionError
        When they differ by more than :data:`MOST_ERROR`, naming the first module whose output does.
    """
    leaves = [tensors_of(each) for each in inputs]
    program = with_natives(captured.program, captured.tensors, leaves[0])
    taken = [value.name for value in program.inputs]
    whole = flat.build(program, captured.tensors, taken, program.outputs)
    errors = []
    for arguments, tensors in zip(inputs, leaves, strict=True):
        with torch.inference_mode():
            wanted = tensors_of(model(*_copied(arguments)))
            errors.append(largest_error(whole(*tensors), wanted))
    if not max(errors) <= MOST_ERROR:
        number = errors.index(max(errors))
        raise PartitionError(
            f"what was captured of {type(model).__name__} does not return what it returns: they "
            f"differ by {max(errors):.2g} of its largest value (allowed: {MOST_ERROR:g})"
            f"{_beginning(model, program, captured.tensors, inputs[number])}; its output depends "
            "on something that torch.export does not record, such as a context, a value that "
            f"changes from call to call, or whether it is being exported; {ALONE}"
        )
    return Verified(replace(captured, program=program), max(errors))


def _copied(values: Any) -> Any:
    """The same values in memory of their own: a model may write to its inputs."""
    return pytree.tree_map_only(torch.Tensor, torch.Tensor.clone, values)


def with_natives(
    program: Program, tensors: Mapping[str, torch.Tensor], inputs: Sequence[torch.Tensor]
) -> Program:
    """Find out which operations torch's own functions compute bit by bit alike."""
    operations: list[Operation] = []

    def compare(operation: Operation, args: Any, kwargs: Any, result: Any) -> None:
        # One that writes would find its arguments changed already.
        same = (
            operation.target != GETITEM
            and not operation.writes
            and all(
                _same(function, args if plain else _copied(args), kwargs, result)
                for plain, function in _functions(operation)
            )
        )
        operations.append(replace(operation, native=bool(same)))

    run(program, tensors, inputs, compare)
    return replace(program, operations=tuple(operations))


def _functions(operation: Operation) -> list[tuple[bool, Callable[..., Any] | None]]:
    """The native functions that may be called for an operation; whether each only reads."""
    found = [(True, natives.native(operation.target))]
    if operation.in_place and (other := natives.in_place(operation.target)):
        found.append((False, natives.native(other)))
    return found


def _same(function: Callable[..., Any] | None, args: Any, kwargs: Any, result: Any) -> bool:
    """Whether a function takes these arguments and returns this result."""
    if function is None:
        return False
    try:
        own = function(*args, **kwargs)
    except (TypeError, RuntimeError):
        return False
    pairs = list(zip(tensors_of(own), tensors_of(result), strict=False))
    return len(tensors_of(own)) == len(tensors_of(result)) and all(
        left.dtype == right.dtype
        and left.stride() == right.stride()
        and bool(torch.equal(left.nan_to_num(), right.nan_to_num()))
        for left, right in pairs
    )


Visit = Callable[[Operation, tuple[Any, ...], dict[str, Any], Any], None]


def run(
    program: Program,
    tensors: Mapping[str, torch.Tensor],
    inputs: Sequence[torch.Tensor],
    visit: Visit,
) -> None:
    """Run a program slowly and plainly, operator by operator, and show each to `visit`."""
    values: dict[str, Any] = dict(tensors)
    values |= {v.name: t.clone() for v, t in zip(program.inputs, inputs, strict=True)}
    last: dict[str, int] = {}
    for number, operation in enumerate(program.operations):
        last |= dict.fromkeys(operation.refs, number)

    def value(argument: Any) -> Any:
        return values[argument.name] if isinstance(argument, Ref) else natives.word(argument)

    with torch.inference_mode():
        for number, operation in enumerate(program.operations):
            args = mapped(operation.args, value)
            kwargs = {name: mapped(each, value) for name, each in operation.kwargs.items()}
            values[operation.name] = natives.overload(operation.target)(*args, **kwargs)
            visit(operation, args, kwargs, values[operation.name])
            for name in operation.refs:
                if last[name] == number and name not in program.outputs:
                    del values[name]


def _beginning(
    model: nn.Module,
    program: Program,
    tensors: Mapping[str, torch.Tensor],
    inputs: Sequence[Any],
) -> str:
    """Which module is the first that returns something else than its operations do."""
    wanted: dict[str, tuple[torch.Tensor, ...]] = {}

    def keep(path: str, output: Any) -> None:
        # What a hook returns would replace the output; what it keeps, a module may write to later.
        wanted.setdefault(path, tuple(each.clone() for each in tensors_of(output)))

    handles = [
        module.register_forward_hook(lambda _m, _a, output, path=path: keep(path, output))
        for path, module in model.named_modules()
        if path
    ]
    try:
        with torch.inference_mode():
            model(*_copied(inputs))
    finally:
        for handle in handles:
            handle.remove()
    found: dict[str, tuple[Operation, Any]] = {}

    def note(operation: Operation, _args: Any, _kwargs: Any, result: Any) -> None:
        for module in operation.modules:
            if "@" not in module:
                found[module] = (operation, [each.clone() for each in tensors_of(result)])

    run(program, tensors, tensors_of(inputs), note)
    for operation in program.operations:
        for module in reversed(operation.modules):
            if module not in found or found[module][0].name != operation.name:
                continue
            own, reference = found[module][1], wanted.get(module, ())
            if own and len(own) == len(reference):
                error = largest_error(tuple(own), reference)
                if error > MOST_ERROR:
                    where = f", {operation.where}" if operation.where else ""
                    return f"; this begins in module {module!r} ({operation.target}{where})"
    return ""
