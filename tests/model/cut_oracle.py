"""Slow, obvious twins of the cut finder: they run models and programs instead of reasoning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from paretopipe_worker.model.partition import Partitioned
from paretopipe_worker.model.program import GETITEM, Operation, Program, Value
from paretopipe_worker.model.verifying import run


class Forgetful:
    """A program that runs operation by operation, and on from what is left after forgetting.

    Attributes
    ----------
    values
        What each operation returns for the example, by name.
    outputs
        What the program returns for it.
    """

    def __init__(self, of: Partitioned, example: torch.Tensor) -> None:
        self.program, self.tensors = of.program, of.tensors
        self.layouts = of.program.layouts()
        fixed = set(of.tensors)
        for operation in self.program.operations:
            if fixed.issuperset(operation.refs):
                fixed.add(operation.name)
        self.idle = fixed - of.tensors.keys()
        """Operations that compute nothing for an input, as is seen when they run."""
        self.values = self._run(self.program, [example], self._idle)
        self.idle |= {each.name for each in self.program.operations if each.target == GETITEM}
        self.values[self.program.inputs[0].name] = example
        self.outputs = [self.values[name] for name in self.program.outputs]

    def suffices(self, names: Sequence[str], end: int) -> bool:
        """Whether the operations from number `end` on return the same from these values alone.

        Those in front that compute nothing and whose arguments are left are repeated.
        """
        ready = {*names, *self.tensors}
        repeated = []
        for operation in self.program.operations[:end]:
            left = operation.name in self.idle and ready.issuperset(operation.refs)
            if left and operation.name not in ready:
                repeated.append(operation)
                ready.add(operation.name)
        later = replace(
            self.program,
            inputs=tuple(Value(name, self.layouts[name]) for name in names),
            operations=(*repeated, *self.program.operations[end:]),
        )
        known = {name: self.values[name] for name in names}
        try:
            values = known | self._run(later, list(known.values()))
            outputs = [values[name] for name in self.program.outputs]
        except KeyError:
            return False
        return all(map(torch.equal, outputs, self.outputs))

    def _idle(self, operation: Operation, given: Any, result: Any) -> None:
        """Note an operation whose result is its first argument, or another view of all of it."""
        tensors = isinstance(given, torch.Tensor) and isinstance(result, torch.Tensor)
        if tensors and given.numel() == result.numel() and not operation.writes:
            memory = [each.untyped_storage().data_ptr() for each in (given, result)]
            if memory[0] == memory[1] and given.dtype == result.dtype:
                self.idle.add(operation.name)

    def _run(
        self,
        program: Program,
        inputs: Sequence[torch.Tensor],
        watch: Callable[[Operation, Any, Any], object] = lambda operation, given, result: None,
    ) -> dict[str, Any]:
        """Run a program; what each of its operations returns."""
        values: dict[str, Any] = {}

        def note(operation: Operation, args: Any, _kwargs: Any, result: Any) -> None:
            values[operation.name] = result
            watch(operation, args[0] if args else None, result)

        run(program, self.tensors, inputs, note)
        return values


def op_cuts(of: Partitioned, example: torch.Tensor) -> list[tuple[Operation, tuple[int, ...]]]:
    """Find operations after which their result alone suffices, by forgetting everything else.

    Returns
    -------
    list
        Each operation and the shape of its result. Those that compute nothing for an input are left
        out, and so is the last one that does.
    """
    twin, found = Forgetful(of, example), []
    operations = of.program.operations
    working = [n for n, operation in enumerate(operations) if operation.name not in twin.idle]
    for number in working[:-1]:
        name = operations[number].name
        value = twin.values[name]
        if isinstance(value, torch.Tensor) and twin.suffices([name], number + 1):
            found.append((operations[number], tuple(value.shape)))
    return found


def block_cuts(
    model: nn.Module, example: torch.Tensor, blocks: list[str]
) -> list[tuple[str, torch.Tensor]]:
    """Find blocks whose output alone suffices, by poisoning the input; without a graph.

    Everything before a block computes on NaN, and the block's output is replaced by the clean
    one. Where the model's output is clean, no other tensor went around the block.

    Returns
    -------
    list
        Path and output of each such block, without the last one. Of blocks that hand the same
        elements on untouched, the first.
    """
    clean: list[tuple[str, torch.Tensor, torch.Tensor]] = []

    def record(path: str, output: torch.Tensor) -> None:
        clean.append((path, output, output.clone()))

    expected = _hooked(model, example, blocks, record)
    poison = torch.full_like(example, torch.nan)
    found: list[tuple[str, torch.Tensor]] = []
    previous = (example, example)
    for path, output, value in clean[:-1]:
        same_memory = output.data_ptr() == previous[0].data_ptr()
        untouched = same_memory and torch.equal(value.flatten(), previous[1].flatten())
        previous = (output, value)
        if untouched:
            continue
        # `value` is bound as a default: the hook must not see the loop's next one.
        result = _hooked(model, poison, [path], lambda path, output, value=value: value.clone())
        if torch.equal(result, expected):
            found.append((path, value))
    return found


def _hooked(model: nn.Module, example: torch.Tensor, blocks: list[str], hook: Any) -> torch.Tensor:
    """Run the model with a hook after each of the blocks, which may replace its output."""
    handles = [
        model.get_submodule(path).register_forward_hook(
            lambda module, args, output, path=path: hook(path, output)
        )
        for path in blocks
    ]
    try:
        output: torch.Tensor = model(example.clone())
        return output
    finally:
        for handle in handles:
            handle.remove()
