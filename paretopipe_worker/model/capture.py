"""Capture a model as a program, with :mod:`torch.export`, and hold it against the model itself."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.utils import _pytree as pytree

from paretopipe_worker.model import natives
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
from paretopipe_worker.model.usercode import RAISED, aside, shortened, told
from paretopipe_worker.model.weights import tensor_sha256

_ROOT = "L__self__"
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in ')
_TORCH = str(Path(torch.__file__).parent)
_DROPOUT = re.compile(r"aten::(feature_)?(alpha_)?dropout_?\.default")


@dataclass(frozen=True)
class Captured:
    """A program and the tensors that it holds, by name."""

    program: Program
    tensors: Mapping[str, torch.Tensor]


def capture(model: nn.Module, inputs: Sequence[Any]) -> Captured:
    """Capture what a model computes from inputs of these shapes.

    Parameters
    ----------
    model
        In eval mode.
    inputs
        Arguments of its ``forward``: tensors, and tuples, lists and dicts of them. Their shapes,
        batch included, and dtypes are what the program is for.

    Raises
    ------
    PartitionError
        When the model fails on the inputs, its control flow depends on values of tensors, it draws
        random numbers, or returns anything but tensors; with module, file and line.
    """
    exported = _exported(model, inputs)
    return _Lowering(model, exported).captured()


def _exported(model: nn.Module, inputs: Sequence[Any]) -> ExportedProgram:
    """Export the model, or say in a line where that failed."""
    try:
        with aside(), torch.no_grad():
            return torch.export.export(model, tuple(inputs), strict=False)
    except RAISED as error:
        raise PartitionError(
            f"{type(model).__name__} cannot be captured: {_reason(error)}; allowed is control flow "
            "that depends on shapes and not on the values of tensors"
        ) from error


def _reason(error: BaseException) -> str:
    """What export said, with the line of the model's code, where there is one."""
    text = str(error)
    frames = [match for match in _FRAME.finditer(text) if not match[1].startswith(_TORCH)]
    where = f"{_short(frames[-1][1])}:{frames[-1][2]}: " if frames else ""
    return where + shortened(told(error))


def _short(file: str) -> str:
    """A file's path from the entry of Python's path that it was found by."""
    roots = [root for root in sys.path if root and file.startswith(f"{root}/")]
    return file.removeprefix(max(roots, key=len)).lstrip("/") if roots else file


class _Lowering:
    """Turns one exported graph into a program, operation by operation."""

    def __init__(self, model: nn.Module, exported: ExportedProgram) -> None:
        self.model = model
        self.exported = exported
        self.nodes = list(exported.graph.nodes)
        self.tensors: dict[str, torch.Tensor] = {}
        self.inputs: list[Value] = []
        self.operations: list[Operation] = []
        self.names: dict[str, str] = {}
        """By the graph's name of a value, that of the value that has its content now."""
        self.storages: dict[int, str] = {}
        self.last: dict[int, int] = {}
        """Where the graph uses each piece of memory for the last time."""

    def captured(self) -> Captured:
        """Lower the graph."""
        for number, node in enumerate(self.nodes):
            for argument in node.all_input_nodes:
                for key in _memory(argument):
                    self.last[key] = number
        self._placeholders()
        for number, node in enumerate(self.nodes):
            if node.op == "call_function":
                self._operation(number, node)
            elif node.op not in ("placeholder", "output"):
                raise PartitionError(
                    f"{type(self.model).__name__}: node {node.op} is not supported"
                )
        outputs, returned = self._outputs()
        program = Program(
            inputs=tuple(self.inputs),
            tensors={
                name: Held(_layout(tensor), tensor_sha256(tensor, name))
                for name, tensor in self.tensors.items()
            },
            operations=tuple(self.operations),
            outputs=outputs,
            returned=returned,
            blocks=tuple(block_paths(self.model)),
        )
        program = _pruned(program)
        return Captured(program, {name: self.tensors[name] for name in program.tensors})

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
                self.inputs.append(Value(name, _layout(node.meta["val"])))
            elif isinstance(spec.arg, TensorArgument):
                tensor = state[str(spec.target)].detach()
                # Numbered anew in every capture, a constant is known by its content.
                constant = spec.kind == InputKind.CONSTANT_TENSOR
                name = f"constant.{tensor_sha256(tensor)[:16]}" if constant else str(spec.target)
                self.tensors[name] = tensor
            else:
                raise PartitionError(
                    f"{type(self.model).__name__} holds {spec.target}, which is no tensor"
                )
            self.names[node.name] = name
            for key in _memory(node):
                self.storages.setdefault(key, name)

    def _operation(self, number: int, node: fx.Node) -> None:
        """Lower one call."""
        target = _target(node)
        where = _where(node)
        args, kwargs = self._arguments(node, (node.args, dict(node.kwargs)), where)
        values = node.meta.get("val")
        results = tuple(_layout(each) for each in _tensors(values))
        if _DROPOUT.fullmatch(target):
            if args[2]:
                raise PartitionError(f"dropout is in training mode in {_at(node, where)}")
            self._pass_on(node, target, args, results, where)
            return
        writes = self._written(node, target, args)
        if not results and not writes:
            return
        if not writes and _draws(node):
            raise PartitionError(f"{target} draws random numbers in {_at(node, where)}")
        twin = natives.out_of_place(target) if writes else None
        in_place = twin is not None and not self._seen_later(number, node)
        operation = Operation(
            name=node.name,
            target=twin if in_place and twin else target,
            args=args,
            kwargs=kwargs,
            results=results,
            modules=tuple(_modules(node)),
            leaf=_leaf(node),
            where=where,
            storage=node.name,
            in_place=in_place,
            writes=() if in_place else writes,
        )
        self._add(node, operation)

    def _pass_on(
        self, node: fx.Node, target: str, args: Any, results: tuple[Layout, ...], where: str
    ) -> None:
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
                modules=tuple(_modules(node)),
                leaf=_leaf(node),
                where=where,
                storage=given[0] if given else name,
                free=True,
            )
        )
        self.names[node.name] = node.name
        for key in _memory(node):
            self.storages[key] = self.operations[-1].storage

    def _add(self, node: fx.Node, operation: Operation) -> None:
        """Add an operation; whoever used what it writes uses its result from here on."""
        memory = _memory(node)
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
        if storage is not None:
            operation = replace(operation, storage=storage)
        for key in memory:
            self.storages.setdefault(key, operation.name)
        self.names[node.name] = operation.name
        free = storage is not None and not operation.writes and self._same_elements(operation)
        self.operations.append(replace(operation, free=free))

    def _same_elements(self, operation: Operation) -> bool:
        """Whether the result has as many elements, of the same dtype, as what it is a view of."""
        known = {value.name: value.layout for value in self.inputs}
        known |= {o.name: o.results[0] for o in self.operations if len(o.results) == 1}
        known |= {n: _layout(self.tensors[n]) for n in operation.refs if n in self.tensors}
        given = known.get(operation.refs[0]) if operation.refs else None
        if given is None or len(operation.results) != 1:
            return False
        return given.spec.nbytes == operation.results[0].spec.nbytes

    def _seen_later(self, number: int, node: fx.Node) -> bool:
        """Whether what an operation writes is looked at later by another name for its memory."""
        written = node.args[0]
        assert isinstance(written, fx.Node)
        memory = set(_memory(written))
        same = {node.name, written.name}
        current = self.names[written.name]
        for later in self.nodes[number + 1 :]:
            for argument in later.all_input_nodes:
                if memory.isdisjoint(_memory(argument)) or argument.name in same:
                    continue
                if argument.name in self.names and self.names[argument.name] != current:
                    return True
        return False

    def _written(self, node: fx.Node, target: str, args: tuple[Any, ...]) -> tuple[str, ...]:
        """Names of the values that an operator writes to."""
        if target == GETITEM:
            return ()
        schema = node.target._schema  # type: ignore[union-attr]
        found = []
        for argument, value in zip(schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                found += [ref.name for ref in refs(value)]
        return tuple(found)

    def _arguments(self, node: fx.Node, arguments: Any, where: str) -> Any:
        """The arguments of a call as the program has them."""

        def lowered(value: Any) -> Any:
            if isinstance(value, fx.Node):
                if isinstance(value.meta.get("val"), torch.SymInt | torch.SymFloat | torch.SymBool):
                    raise PartitionError(
                        f"{_at(node, where)} computes with a number that depends on the values of "
                        "tensors; allowed are numbers that follow from shapes"
                    )
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
            raise PartitionError(f"{_at(node, where)} takes {shortened(repr(value))}")

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
    used = set(program.outputs)
    kept: list[Operation] = []
    for operation in reversed(program.operations):
        wanted = operation.name in used or any(
            name in used or _storage(program, name) in used for name in operation.writes
        )
        if wanted:
            used |= {*operation.refs, operation.storage}
            kept.append(operation)
    held = {name: held for name, held in program.tensors.items() if name in used}
    return replace(program, operations=tuple(reversed(kept)), tensors=held)


def _storage(program: Program, name: str) -> str:
    """The first value whose memory a value shares."""
    found = [each.storage for each in program.operations if each.name == name]
    return found[0] if found else name


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    """Tensors among what a node yields."""
    for value in values if isinstance(values, list | tuple) else [values]:
        if isinstance(value, torch.Tensor):
            yield value


def _memory(node: fx.Node) -> list[int]:
    """Which pieces of memory a node's results lie in."""
    return [value.untyped_storage()._cdata for value in _tensors(node.meta.get("val"))]


def _layout(tensor: torch.Tensor) -> Layout:
    """Layout of a real or fake tensor."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    return Layout(tuple(tensor.shape), tuple(tensor.stride()), dtype)


def _target(node: fx.Node) -> str:
    """The operator of a call."""
    if isinstance(node.target, torch._ops.OpOverload):
        return f"{node.target.namespace}::{node.target._opname}.{node.target._overloadname}"
    if getattr(node.target, "__name__", "") == "getitem":
        return GETITEM
    name = getattr(node.target, "__name__", str(node.target))
    raise PartitionError(
        f"{_at(node, _where(node))} calls {name}, which is no operator; allowed is what torch "
        "computes without contexts of its own (autocast, checkpoints, higher-order functions)"
    )


def _draws(node: fx.Node) -> bool:
    """Whether an operator's result is drawn at random, with the arguments that it is given."""
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    schema = node.target._schema  # type: ignore[union-attr]
    given = {a.name: value for a, value in zip(schema.arguments, node.args, strict=False)}
    given |= node.kwargs
    off = given.get("train", given.get("training")) is False
    asked = [a.name for a in schema.arguments if a.name in ("dropout_p", "dropout")]
    return not off and not (asked and not any(given.get(name, 0.0) for name in asked))


def _stack(node: fx.Node) -> list[tuple[str, str, str]]:
    """Key, path and type of the modules that a call is in, outermost first."""
    return [(key, path, kind) for key, (path, kind) in node.meta.get("nn_module_stack", {}).items()]


def _modules(node: fx.Node) -> Iterator[str]:
    """Paths of the modules that a call is in, with the number of each call after the first."""
    for key, path, _ in _stack(node):
        if path:
            _, _, call = key.partition("@")
            yield f"{path}@{call}" if call else path


def _leaf(node: fx.Node) -> bool:
    """Whether the innermost module is one of torch's own."""
    stack = _stack(node)
    return bool(stack) and stack[-1][2].startswith("torch.nn.modules.")


def _where(node: fx.Node) -> str:
    """File and line in the model's code that a call comes from."""
    frames = [
        match
        for match in _FRAME.finditer(node.meta.get("stack_trace") or "")
        if not match[1].startswith(_TORCH)
    ]
    return f"{_short(frames[-1][1])}:{frames[-1][2]}" if frames else ""


def _at(node: fx.Node, where: str) -> str:
    """Where a call is, for errors."""
    modules = list(_modules(node))
    module = f"module {modules[-1]!r}" if modules else "forward"
    return f"{module} ({where})" if where else module
