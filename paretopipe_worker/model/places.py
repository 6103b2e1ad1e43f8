"""Where a program can be cut, and which tensors cross there.

A place lies behind an operation that computes something. Its tensors are those that were computed
before it and are used after it; the model's own tensors are not among them, since every stage has
those it needs. An operation that only looks at the same elements in another way is repeated behind
the place rather than sent, so that places which differ by nothing else are one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from paretopipe_worker.model.program import GETITEM, Operation, Program


@dataclass(frozen=True)
class Place:
    """A place where a program can be cut.

    Attributes
    ----------
    name
        The block whose output crosses, or else the operation.
    block
        Whether a block ends here.
    values
        Names of the tensors that cross, in the order in which they are computed.
    end
        How many of the program's operations lie before it.
    """

    name: str
    block: bool
    values: tuple[str, ...]
    end: int


def find_places(program: Program) -> tuple[Place, ...]:
    """Find all places, in the order of the data, without the endpoints.

    The positions before the first and after the last operation are endpoints and are not listed.
    """
    return tuple(_Finder(program).places())


def fixed(program: Program) -> frozenset[str]:
    """Names of the operations that depend on no input.

    An operation is left out where its memory is written to for each input.
    """
    by_name = {operation.name: operation for operation in program.operations}
    written: set[str] = set()
    while True:
        found, more = set(program.tensors), set[str]()
        for operation in program.operations:
            if operation.storage not in written and found.issuperset(operation.refs):
                found.add(operation.name)
            else:
                more |= {by_name[n].storage if n in by_name else n for n in operation.writes}
        if more <= written:
            return frozenset(found - program.tensors.keys())
        written |= more


class _Finder:
    """Follows which values live while a program computes."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.by_name = {operation.name: operation for operation in program.operations}
        self.layouts = program.layouts()
        self.fixed = fixed(program)
        self.sources = self._sources()
        self.deaths = self._deaths()
        self.closed = self._closed()

    def places(self) -> Iterator[Place]:
        """Yield the places."""
        operations = self.program.operations
        working = [n for n, each in enumerate(operations) if self._works(each)]
        ends = [*working[1:], len(operations)]
        runs = [operations[n:end] for n, end in zip(working, ends, strict=True)]
        names = _Names(self.program, runs)
        alive = [value.name for value in self.program.inputs]
        entries = set(alive)
        for order, number in enumerate(working[:-1]):
            end = working[order + 1]
            alive += [each.name for each in operations[number:end] if self._is_value(each)]
            alive = [name for name in alive if self.deaths.get(name, -1) >= end]
            name, block = names.of(order)
            crosses = all(self.layouts[each].crosses for each in alive)
            if crosses and number not in self.closed and not entries.issuperset(alive):
                yield Place(name, block, tuple(alive), end)

    def _works(self, operation: Operation) -> bool:
        """Whether an operation computes something for each input."""
        return not (operation.free or operation.target == GETITEM or operation.name in self.fixed)

    def _is_value(self, operation: Operation) -> bool:
        """Whether an operation's result may cross: one tensor, and not another one's view."""
        several = len(operation.results) != 1 or operation.name in self.lists
        return not (operation.free or several or operation.name in self.fixed)

    def _sources(self) -> dict[str, str]:
        """By name of a value, that of the value which crosses in its place."""
        # What others take single tensors out of is a list, however many it has.
        self.lists = {o.refs[0] for o in self.program.operations if o.target == GETITEM}
        found: dict[str, str] = {}
        for operation in self.program.operations:
            first = operation.refs[0] if operation.free else operation.name
            found[operation.name] = found.get(first, first)
        return found

    def _deaths(self) -> dict[str, int]:
        """By name of a value, the number of the last operation that works with it."""
        last: dict[str, int] = {}
        for number, operation in enumerate(self.program.operations):
            if operation.free or operation.target == GETITEM:
                continue
            for name in operation.refs:
                last[self.sources.get(name, name)] = number
        for name in self.program.outputs:
            last[self.sources.get(name, name)] = len(self.program.operations)
        return last

    def _closed(self) -> set[int]:
        """Numbers of operations behind which memory lives that is still to be written to."""
        begun: dict[str, int] = {}
        closed: set[int] = set()
        for number, operation in enumerate(self.program.operations):
            begun.setdefault(operation.storage, number)
            if operation.name in self.fixed:
                continue
            for name in operation.writes:
                written = self.by_name[name].storage if name in self.by_name else name
                closed |= set(range(begun.get(written, 0), number))
        return closed


class _Names:
    """Names places by the modules that end there."""

    def __init__(self, program: Program, runs: Sequence[Sequence[Operation]]) -> None:
        self.ranks = {path: rank for rank, path in enumerate(program.blocks)}
        self.runs = runs
        self.calls: Counter[str] = Counter()
        self.names = [self._name(number) for number in range(len(runs))]

    def of(self, number: int) -> tuple[str, bool]:
        """Name of the place behind a working operation, and whether a block ends there."""
        return self.names[number]

    def _name(self, number: int) -> tuple[str, bool]:
        """The first in the program's list of the blocks that end, or else the operation."""
        operation, *looks = self.runs[number]
        following = self.runs[number + 1 :][:1]
        still = set(following[0][0].modules) if following else set[str]()
        own = self._operation(operation, [m for m in operation.modules if m not in still])
        for each in (operation, *looks):
            calls = [m.partition("@")[::2] for m in each.modules if m not in still]
            blocks = [(self.ranks[path], path, call) for path, call in calls if path in self.ranks]
            if blocks:
                _, path, call = min(blocks)
                return _numbered(path, int(call or 0) + 1), True
        return own, False

    def _operation(self, operation: Operation, ended: Sequence[str]) -> str:
        """Name of an operation: the layer that it completes, or it and where it is written."""
        module = operation.modules[-1] if operation.modules else ""
        path = module.partition("@")[0]
        plain = operation.target.partition("::")[2].partition(".")[0]
        name = path if operation.leaf and module in ended else f"{path}:{plain}"
        self.calls[name] += 1
        return _numbered(name, self.calls[name])


def _numbered(name: str, call: int) -> str:
    """Name of the n-th call: the first has the plain name."""
    return name if call == 1 else f"{name}#{call}"
