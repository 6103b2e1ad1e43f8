"""Lower what :mod:`torch.export` recorded to a program, operation by operation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.utils import _pytree as pytree

from paretopipe_worker.model import natives, nodes
from paretopipe_worker.model.blocks import block_paths
from paretopipe_worker.model.program import (
    GETITEM,
    Held,
    Layout,
    Operation,
    PartitionError,
    Program,
    Ref,
    Value,
    Word,
    refs,
)
from paretopipe_worker.model.usercode import shortened
from paretopipe_worker.model.weights import tensor_sha256

ALONE = "allowed are models whose output depends on the input alone"

_DRAWS = "it draws random numbers with"
_DROPOUT = re.compile(r"aten::(feature_)?(alpha_)?dropout_?\.default")
_READ = (torch.SymInt, torch.SymFloat, torch.SymBool)
"""Types of a number that is read from a tensor, and so not known when a model is exported."""


class WritesToGivenError(Exception):
    """An operation writes to an input or a held tensor, through a view or while others look."""


class Lowering:
    """Turns one exported graph into a program, operation by operation.

    Values named in `copied` are copied first: the program writes to the copy.
    """

    def __init__(
        self, model: nn.Module, exported: ExportedProgram, copied: frozenset[str] = frozenset()
    ) -> None:
        self.model = model
        self.exported = exported
        self.copied = copied
        self.nodes = list(exported.graph.nodes)
        self.tensors: dict[str, torch.Tensor] = {}
        self.inputs: list[Value] = []
        self.operations: list[Operation] = []
        self.names: dict[str, str] = {}
        """By the graph's name of a value, that of the value that has its content now."""
        self.storages: dict[int, str] = {}
        self.aliases: dict[int, int] = {}
        """By memory that torch records for dropout's result, that which the result lies in."""

    def lowered(self) -> tuple[Program, dict[str, torch.Tensor]]:
        """Lower the graph: the program, and what it holds by name."""
        for node in self.nodes:
            given = node.args[0] if node.args else None
            if isinstance(given, fx.Node) and _DROPOUT.fullmatch(nodes.name(node)):
                self.aliases |= zip(nodes.memory(node), self._memory(given), strict=True)
        self._placeholders()
        for number, node in enumerate(self.nodes):
            if node.op == "call_function":
                self._operation(number, node)
        outputs, returned = self._outputs()
        program = Program(
            inputs=tuple(self.inputs),
            tensors={
                name: Held(nodes.layout(tensor), tensor_sha256(tensor, name))
                for name, tensor in self.tensors.items()
            },
            operations=tuple(self.operations),
            outputs=outputs,
            returned=returned,
            blocks=tuple(block_paths(self.model)),
        )
        program = _pruned(program)
        return program, {name: self.tensors[name] for name in program.tensors}

    def _memory(self, node: fx.Node) -> list[int]:
        """Which pieces of memory a node's results lie in."""
        return [self.aliases.get(key, key) for key in nodes.memory(node)]

    def _placeholders(self) -> None:
        """Name inputs and held tensors."""
        state = {**self.exported.state_dict, **self.exported.constants}
        by_name = {node.name: node for node in self.nodes if node.op == "placeholder"}
        for spec in self.exported.graph_signature.input_specs:
            if isinstance(spec.arg, ConstantArgument):
                continue
            node = by_name[spec.arg.name]
            if spec.kind == InputKind.USER_INPUT:
                name = f"input_{len(self.inputs)}"
                self.inputs.append(Value(name, nodes.layout(node.meta["val"])))
            elif isinstance(spec.arg, TensorArgument):
                tensor = state[str(spec.target)].detach()
                # Numbered anew in every capture, a constant is known by its content.
                constant = spec.kind == InputKind.CONSTANT_TENSOR
                name = f"constant.{tensor_sha256(tensor)[:16]}" if constant else str(spec.target)
                self.tensors[name] = tensor
            else:
                users = [nodes.at(each) for each in node.users]
                kind = type(self.exported.constants.get(str(spec.target))).__name__
                raise PartitionError(
                    f"it computes with a {kind} in {', '.join(users)}; allowed are tensors and "
                    "numbers (and no generators of random numbers)"
                )
            if name in self.copied:
                name = self._copy(node, name)
            self.names[node.name] = name
            for key in self._memory(node):
                self.storages.setdefault(key, name)

    def _copy(self, node: fx.Node, name: str) -> str:
        """Copy a value that the model writes to; the copy's name."""
        self.operations.append(
            Operation(
                name=f"{name}.copy",
                target="aten::clone.default",
                args=(Ref(name),),
                kwargs={},
                results=(nodes.layout(node.meta["val"].clone()),),
                modules=(),
                leaf=False,
                where="",
                storage=f"{name}.copy",
            )
        )
        return f"{name}.copy"

    def _operation(self, number: int, node: fx.Node) -> None:
        """Lower one call."""
        values = node.meta.get("val")
        if isinstance(values, _READ):
            if node.users:
                raise PartitionError(
                    f"it reads a number from a tensor in {nodes.at(node)}; allowed are numbers "
                    "that follow from shapes"
                )
            return
        target = nodes.target(node)
        args, kwargs = self._arguments(node, (node.args, dict(node.kwargs)))
        results = tuple(nodes.result(each, node) for each in nodes.tensors(values))
        if _DROPOUT.fullmatch(target):
            if args[2]:
                raise PartitionError(f"{_DRAWS} dropout in {nodes.at(node)}; {ALONE}")
            self._pass_on(node, target, args, results)
            return
        writes = self._written(node, target, args, kwargs)
        if not results and not writes:
            return
        if not writes and nodes.draws(node):
            raise PartitionError(f"{_DRAWS} {nodes.plain(node)} in {nodes.at(node)}; {ALONE}")
        twin = natives.out_of_place(target) if writes else None
        in_place = twin is not None and not self._seen_later(number, node)
        operation = Operation(
            name=node.name,
            target=twin if in_place and twin else target,
            args=args,
            kwargs=kwargs,
            results=results,
            modules=tuple(nodes.modules(node)),
            leaf=nodes.leaf(node),
            where=nodes.where(node),
            storage=node.name,
            in_place=in_place,
            writes=() if in_place else writes,
        )
        self._add(node, operation)

    def _pass_on(self, node: fx.Node, target: str, args: Any, results: tuple[Layout, ...]) -> None:
        """Add an operation that returns what it is given."""
        name = args[0].name
        given = [each.storage for each in self.operations if each.name == name]
        self.operations.append(
            Operation(
                name=node.name,
                target=target.replace("_.", "."),
                args=args,
                kwargs={},
                results=results,
                modules=tuple(nodes.modules(node)),
                leaf=nodes.leaf(node),
                where=nodes.where(node),
                storage=given[0] if given else name,
                free=True,
            )
        )
        self.names[node.name] = node.name
        for key in self._memory(node):
            self.storages[key] = self.operations[-1].storage

    def _add(self, node: fx.Node, operation: Operation) -> None:
        """Add an operation; whoever used what it writes uses its result from here on."""
        memory = self._memory(node)
        if operation.in_place:
            for old, new in list(self.names.items()):
                if new == operation.args[0].name:
                    self.names[old] = operation.name
            self.names[node.name] = operation.name
            for key in memory:
                self.storages[key] = operation.name
            self.operations.append(operation)
            return
        storage = next((self.storages[key] for key in memory if key in self.storages), None)
        if operation.writes:
            known = {each.name: each.storage for each in self.operations}
            if given := {known.get(name, name) for name in operation.writes} - known.keys():
                raise WritesToGivenError(*given)
        if storage is not None:
            operation = replace(operation, storage=storage)
        for key in memory:
            self.storages.setdefault(key, operation.name)
        self.names[node.name] = operation.name
        free = storage is not None and not operation.writes and nodes.same_elements(node)
        self.operations.append(replace(operation, free=free))

    def _seen_later(self, number: int, node: fx.Node) -> bool:
        """Whether what an operation writes is looked at later by another name for its memory."""
        written = node.args[0]
        assert isinstance(written, fx.Node)
        memory = set(self._memory(written))
        same = {node.name, written.name}
        current = self.names[written.name]
        for later in self.nodes[number + 1 :]:
            for argument in later.all_input_nodes:
                if memory.isdisjoint(self._memory(argument)) or argument.name in same:
                    continue
                if argument.name in self.names and self.names[argument.name] != current:
                    return True
        return False

    def _written(
        self, node: fx.Node, target: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[str, ...]:
        """Names of the values that an operator writes to."""
        if target == GETITEM:
            return ()
        schema = node.target._schema  # type: ignore[union-attr]
        found = []
        for number, argument in enumerate(schema.arguments):
            value = args[number] if number < len(args) else kwargs.get(argument.name)
            if argument.alias_info is not None and argument.alias_info.is_write:
                found += [ref.name for ref in refs(value)]
        return tuple(found)

    def _arguments(self, node: fx.Node, arguments: Any) -> Any:
        """The arguments of a call as the program has them."""

        def lowered(value: Any) -> Any:
            if isinstance(value, fx.Node):
                return Ref(self.names[value.name])
            if isinstance(value, list | tuple):
                return tuple(lowered(each) for each in value)
            for kind in (torch.dtype, torch.layout, torch.memory_format):
                if isinstance(value, kind):
                    return Word(kind.__name__, str(value).removeprefix("torch."))
            if isinstance(value, torch.device):
                return Word("device", value.type)
            if value is None or isinstance(value, bool | int | float | str):
                return value
            raise PartitionError(
                f"{nodes.plain(node)} takes {shortened(repr(value))} in {nodes.at(node)}; allowed "
                "are tensors and numbers"
            )

        args, kwargs = arguments
        return lowered(args), {name: lowered(value) for name, value in kwargs.items()}

    def _outputs(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What comes out, and what the model calls it."""
        spec = self.exported.call_spec.out_spec
        specs = self.exported.graph_signature.output_specs
        paths = [
            pytree.keystr(path)
            for path, _ in pytree.tree_flatten_with_path(
                pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
            )[0]
        ]
        returned = [each for each in specs if each.kind == OutputKind.USER_OUTPUT]
        names, called = [], []
        for each, path in zip(returned, paths, strict=True):
            if isinstance(each.arg, TensorArgument):
                names.append(self.names[each.arg.name])
                called.append(path)
            elif not (isinstance(each.arg, ConstantArgument) and each.arg.value is None):
                raise PartitionError(
                    f"{type(self.model).__name__} returns something other than tensors"
                    f"{f' at {path}' if path else ''}; allowed are tensors, and tuples, lists and "
                    "dicts of them"
                )
        if not names:
            raise PartitionError(f"{type(self.model).__name__} returns no tensor")
        return tuple(names), tuple(called)


def _pruned(program: Program) -> Program:
    """Leave out what no output depends on."""
    storages = {operation.name: operation.storage for operation in program.operations}
    used = {*program.outputs, *(storages.get(name, name) for name in program.outputs)}
    kept: list[Operation] = []
    for operation in reversed(program.operations):
        # Whoever writes to memory is needed by all who look at it later, by whichever name.
        if operation.name in used or any(storages[name] in used for name in operation.writes):
            used |= {*operation.refs, *(storages.get(name, name) for name in operation.refs)}
            kept.append(operation)
    held = {name: held for name, held in program.tensors.items() if name in used}
    return replace(program, operations=tuple(reversed(kept)), tensors=held)
