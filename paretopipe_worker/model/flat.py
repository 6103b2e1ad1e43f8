"""Stages of a program as flat functions: faster than the modules they come from.

A stage is one Python function without lookups: torch's own functions and the tensors it holds are
bound beforehand, what depends on these tensors alone is computed once, and every value is released
after its last use. A stage returns the same bits as the model's own modules.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch

from paretopipe_worker.model import natives
from paretopipe_worker.model.places import fixed
from paretopipe_worker.model.program import (
    GETITEM,
    Layout,
    Operation,
    PartitionError,
    Program,
    Ref,
    Word,
    mapped,
    renamed,
)

Stage: TypeAlias = Callable[..., tuple[torch.Tensor, ...]]
"""Takes the tensors that cross into it, in order, and returns a tuple of those that leave it."""


def build(
    program: Program,
    tensors: Mapping[str, torch.Tensor],
    taken: Sequence[str],
    given: Sequence[str],
) -> Stage:
    """Build the function that computes some values of a program from others.

    Parameters
    ----------
    program
        The program.
    tensors
        At least those of the program's tensors that the stage needs, by name. They are bound, not
        copied.
    taken
        Names of the values that come in, contiguous, in order.
    given
        Names of the values that go out, in order; they are made contiguous. They may share memory
        with what came in, which is never written to.

    Raises
    ------
    PartitionError
        When a value depends on more than what comes in, or a tensor is missing.
    """
    operations, given = _without_idle(program, needed(program, taken, given), given)
    builder = _Builder(program, tensors, taken, given, operations)
    with torch.inference_mode():
        stage: Stage = builder.function()
    return stage


def build_noting(
    program: Program,
    tensors: Mapping[str, torch.Tensor],
    taken: Sequence[str],
    given: Sequence[str],
    marks: Sequence[int],
    note: Callable[[], object],
) -> Stage:
    """Build a stage as :func:`build` does, which calls a function at places inside it.

    Parameters
    ----------
    marks
        For each place, not falling, how many of the program's operations lie before it.
    note
        What is called each time that the stage comes to one of them.
    """
    operations, given = _without_idle(program, needed(program, taken, given), given)
    builder = _Builder(program, tensors, taken, given, operations, marks, note)
    with torch.inference_mode():
        stage: Stage = builder.function()
    return stage


def needed(program: Program, taken: Sequence[str], given: Sequence[str]) -> list[Operation]:
    """List the operations of a stage, in order; see :func:`build`."""
    by_name = {operation.name: operation for operation in program.operations}
    writers: dict[str, list[str]] = {}
    for operation in program.operations:
        for name in operation.writes:
            storage = by_name[name].storage if name in by_name else name
            writers.setdefault(storage, []).append(operation.name)
    for name in taken:
        # What comes in was written before: no cut lies where its memory is still to be written.
        writers.pop(by_name[name].storage if name in by_name else name, None)
    ready = {*taken, *program.tensors}
    wanted, todo = set[str](), [name for name in given if name not in ready]
    while todo:
        name = todo.pop()
        if name in wanted:
            continue
        if name not in by_name:
            raise PartitionError(
                f"a stage from {', '.join(taken) or 'nothing'} to {', '.join(given)} also takes "
                f"{name}; allowed are stages whose values all come from what crosses"
            )
        wanted.add(name)
        operation = by_name[name]
        todo += [each for each in operation.refs if each not in ready]
        todo += writers.get(operation.storage, [])
    return [operation for operation in program.operations if operation.name in wanted]


def held_by(
    program: Program, operations: Sequence[Operation], given: Sequence[str]
) -> tuple[str, ...]:
    """Name the program's tensors that a stage of these operations binds, see :func:`needed`."""
    used = {*given, *(name for operation in operations for name in operation.refs)}
    return tuple(name for name in program.tensors if name in used)


def _without_idle(
    program: Program, operations: Sequence[Operation], given: Sequence[str]
) -> tuple[list[Operation], list[str]]:
    """Leave out operations that return what they are given, such as dropout."""
    layouts = program.layouts()
    same: dict[str, str] = {}
    left = []
    for operation in operations:
        args = renamed(same, operation.args)
        first = args[0].name if operation.free and isinstance(args[0], Ref) else None
        if first is not None and layouts[first] == operation.results[0]:
            same[operation.name] = first
            continue
        kwargs = {name: renamed(same, value) for name, value in operation.kwargs.items()}
        left.append(replace(operation, args=args, kwargs=kwargs))
    return left, [same.get(name, name) for name in given]


class _Builder:
    """Writes a stage's source and binds what it uses."""

    def __init__(
        self,
        program: Program,
        tensors: Mapping[str, torch.Tensor],
        taken: Sequence[str],
        given: Sequence[str],
        operations: Sequence[Operation],
        marks: Sequence[int] = (),
        note: Callable[[], object] | None = None,
    ) -> None:
        self.marks, self.note = marks, note
        self.program, self.layouts = program, program.layouts()
        self.taken, self.given = taken, given
        held = {name for each in operations for name in each.refs if name in program.tensors}
        if missing := held - tensors.keys():
            raise PartitionError(f"the stage lacks the tensor {min(missing)!r}")
        self.known: dict[str, Any] = dict(tensors)
        """Values that are known before the stage runs."""
        self.operations = self._precomputed(operations)
        self.storages = {each.name: each.storage for each in self.operations}
        self.bound: dict[str, Any] = {}
        self.bound_names: dict[int, str] = {}
        self.locals: dict[str, str] = {}
        self.lines: list[str] = []

    def _precomputed(self, operations: Sequence[Operation]) -> list[Operation]:
        """Compute what depends on held tensors alone; what is left."""
        left = []
        known = fixed(self.program)
        for operation in operations:
            if operation.name in self.taken:
                continue
            if operation.name not in known:
                left.append(operation)
                continue
            args = mapped(operation.args, self._value)
            kwargs = {name: mapped(value, self._value) for name, value in operation.kwargs.items()}
            self.known[operation.name] = natives.overload(operation.target)(*args, **kwargs)
        return left

    def _value(self, argument: Ref | Word) -> Any:
        """What a reference or word stands for."""
        return self.known[argument.name] if isinstance(argument, Ref) else natives.word(argument)

    def function(self) -> Callable[..., Any]:
        """Write the function, and compile it."""
        for number, name in enumerate(self.taken):
            self.locals[name] = f"x{number}"
        parameters = ", ".join(self.locals.values())
        for name in self.taken:
            if not self.layouts[name].contiguous:
                restored = self._bind(restoring(self.layouts[name]))
                self.lines.append(f"{self.locals[name]} = {restored}({self.locals[name]})")
        last, before = self._last_uses(), self._notes_before()
        for number, operation in enumerate(self.operations):
            self.lines += before.pop(number, [])
            self._write(number, operation, last)
        self.lines += before.pop(len(self.operations), [])
        results = "(" + "".join(f"{self._result(name)}, " for name in self.given) + ")"
        body = "\n    ".join([*self.lines, f"return {results}"])
        source = f"def stage({parameters}):\n    {body}\n"
        exec(compile(source, "<stage>", "exec"), self.bound)
        stage: Callable[..., Any] = self.bound["stage"]
        return stage

    def _notes_before(self) -> dict[int, list[str]]:
        """Lines that note each mark, by the operation that they come before."""
        places = {each.name: place for place, each in enumerate(self.program.operations)}
        begins = [places[each.name] for each in self.operations]
        lines: dict[int, list[str]] = {}
        for mark in self.marks:
            lines.setdefault(bisect.bisect_left(begins, mark), []).append(
                f"{self._bind(self.note)}()"
            )
        return lines

    def _last_uses(self) -> dict[int, list[str]]:
        """Values whose last use is each operation."""
        last: dict[str, int] = {}
        for number, operation in enumerate(self.operations):
            last[operation.name] = number
            for name in operation.refs:
                last[name] = number
        ends: dict[int, list[str]] = {}
        for name, number in last.items():
            if name not in self.given and name not in self.known:
                ends.setdefault(number, []).append(name)
        self.ends = last
        return ends

    def _write(self, number: int, operation: Operation, last: Mapping[int, list[str]]) -> None:
        """Write one operation, and release the values that it is the last to use."""
        self.locals[operation.name] = f"v{number}"
        arguments = [self._written(each) for each in operation.args]
        arguments += [f"{name}={self._written(v)}" for name, v in operation.kwargs.items()]
        if operation.target == GETITEM:
            call = f"{arguments[0]}[{arguments[1]}]"
        else:
            call = f"{self._bind(self._called(number, operation))}({', '.join(arguments)})"
        self.lines.append(f"{self.locals[operation.name]} = {call}")
        ended = [self.locals[name] for name in last.get(number, ())]
        if ended:
            self.lines.append(f"del {', '.join(ended)}")

    def _called(self, number: int, operation: Operation) -> Callable[..., Any]:
        """What to call for an operation."""
        target = operation.target
        natives.overload(target)  # a host that lacks it lacks the native function or has another
        if operation.in_place and self._may_overwrite(number, operation.args[0].name):
            target = natives.in_place(target) or target
        function = natives.native(target) if operation.native else None
        return function or natives.overload(target)

    def _may_overwrite(self, number: int, name: str) -> bool:
        """Whether the stage made a value itself and nothing later reads its memory."""
        own = self.storages.get(name)
        if own is None or own not in self.storages:
            return False
        same = [each for each, storage in self.storages.items() if storage == own]
        return all(self.ends.get(each, -1) <= number and each not in self.given for each in same)

    def _written(self, argument: Any) -> str:
        """An argument as source."""
        if isinstance(argument, tuple):
            return f"[{', '.join(self._written(each) for each in argument)}]"
        if isinstance(argument, Word):
            return self._bind(natives.word(argument))
        if isinstance(argument, Ref):
            if argument.name in self.known:
                return self._bind(self.known[argument.name])
            return self.locals[argument.name]
        if isinstance(argument, float) and not math.isfinite(argument):
            return self._bind(argument)
        return repr(argument)

    def _bind(self, value: Any) -> str:
        """Give a value a name that the function finds it by."""
        name = self.bound_names.setdefault(id(value), f"c{len(self.bound)}")
        self.bound[name] = value
        return name

    def _result(self, name: str) -> str:
        """A value as it goes out."""
        found = self._bind(self.known[name]) if name in self.known else self.locals[name]
        return found if self.layouts[name].contiguous else f"{found}.contiguous()"


def restoring(layout: Layout) -> Callable[[torch.Tensor], torch.Tensor]:
    """Make the function that gives a contiguous tensor the strides it has in the whole model.

    Kernels are chosen, and rounding differs, by them. It is a copy: sending the memory as it lies
    would save it, but garble the values as soon as two hosts disagree on the strides.
    """
    dtype = getattr(torch, layout.dtype)

    def restored(tensor: torch.Tensor) -> torch.Tensor:
        device = tensor.device
        target = torch.empty_strided(layout.shape, layout.strides, dtype=dtype, device=device)
        return target.copy_(tensor)

    def overlapping(tensor: torch.Tensor) -> torch.Tensor:
        memory = torch.empty(length, dtype=dtype, device=tensor.device)
        memory.scatter_(0, places.to(tensor.device), tensor.view(-1))
        return memory.as_strided(layout.shape, layout.strides)

    length = 1
    for stride, width in sorted(zip(layout.strides, layout.shape, strict=True)):
        if width > 1 and stride < length:
            break
        length += stride * (width - 1)
    else:
        return restored
    # Elements share memory, as those of an expanded tensor do: it cannot be copied to as it lies.
    length = 1 + sum(s * (w - 1) for s, w in zip(layout.strides, layout.shape, strict=True))
    places = torch.arange(length).as_strided(layout.shape, layout.strides).flatten()
    return overlapping
