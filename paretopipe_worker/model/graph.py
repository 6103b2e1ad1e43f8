"""A captured model's graph: what each node yields, and the places where exactly one tensor crosses.

An operation that returns its argument unchanged (dropout in eval mode, ``contiguous`` on a
contiguous tensor) does no work. The places before and after it are the same place, listed once.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from paretopipe_worker.cuts import DTYPE_BYTES, TensorSpec


class PartitionError(ValueError):
    """A model cannot be captured, or cannot be split as asked."""


@dataclass(frozen=True)
class Layout:
    """Shape, strides in elements, and dtype of a tensor in the graph."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Layout:
        """Layout of a real or fake tensor."""
        dtype = str(tensor.dtype).removeprefix("torch.")
        return cls(tuple(tensor.shape), tuple(tensor.stride()), dtype)

    @property
    def spec(self) -> TensorSpec:
        """Shape and dtype; strides do not matter on a link, where all tensors are contiguous."""
        return TensorSpec(self.shape, self.dtype)

    @property
    def contiguous(self) -> bool:
        """Whether the strides equal those of a received tensor, dimensions of length 1 included."""
        expected = torch.empty(self.shape, device="meta").stride()
        return self.strides == tuple(expected)


@dataclass(frozen=True)
class Place:
    """A place where the graph can be cut.

    Attributes
    ----------
    name
        Name of the block whose output crosses, or of the operation where no block ends.
    block
        Whether a block ends here.
    end
        Number of the graph's nodes before the place.
    values
        For each tensor that crosses, the first node that yields it.
    """

    name: str
    block: bool
    end: int
    values: tuple[fx.Node, ...]


@dataclass(frozen=True)
class CapturedModel:
    """A model's graph for one input shape, in order of execution.

    Attributes
    ----------
    model
        The model itself; stages share its modules.
    nodes
        The graph's nodes, input first, output last.
    roots
        For every node, the first node that yields the same tensor object: in-place operations
        and operations that do no work return their argument.
    layouts
        Layout of every tensor, by node.
    places
        The places where exactly one tensor crosses, in order.
    """

    model: nn.Module
    nodes: tuple[fx.Node, ...]
    roots: Mapping[fx.Node, fx.Node]
    layouts: Mapping[fx.Node, Layout]
    places: tuple[Place, ...]

    @property
    def input(self) -> TensorSpec:
        """The model's input."""
        return self.layouts[self.nodes[0]].spec

    @property
    def results(self) -> tuple[fx.Node, ...]:
        """Nodes that the model returns."""
        return result_nodes(self.nodes[-1])

    @property
    def output(self) -> tuple[TensorSpec, ...]:
        """The tensors that the model returns."""
        return tuple(self.layouts[node].spec for node in self.results)

    def sha256(self) -> str:
        """Digest of the computation, without the values of tensors.

        It covers the operations in order with their arguments, the settings of torch's own
        modules, and the layouts. It is equal on all hosts that build the same model.
        """
        digest = hashlib.sha256()
        places = {node: f"%{number}" for number, node in enumerate(self.nodes)}
        for node in self.nodes:
            arguments = fx.map_arg((node.args, node.kwargs), places.__getitem__)
            # The memory layout of the model's own tensors depends on how they were loaded.
            layout = None if node.op == "get_attr" else self.layouts.get(node)
            digest.update(f"{node.op} {_written(node.target)} {arguments} {layout}\n".encode())
            if node.op == "call_module":
                leaf = self.model.get_submodule(str(node.target))
                digest.update(f"{[_settings(module) for module in leaf.modules()]}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Flow:
    """What a run of the graph, node by node, showed.

    Attributes
    ----------
    layouts
        Layout of every node that yields a tensor.
    roots
        For every node, the first node that yields the same tensor object.
    working
        Operations that compute or change something.
    overwritten
        For every node, the roots of the tensors that it changes in place.
    constants
        Values that depend on shapes alone, by node.
    """

    layouts: dict[fx.Node, Layout]
    roots: dict[fx.Node, fx.Node]
    working: set[fx.Node]
    overwritten: dict[fx.Node, list[fx.Node]]
    constants: dict[fx.Node, Any]


def result_nodes(output: fx.Node) -> tuple[fx.Node, ...]:
    """Nodes that the graph returns."""
    returned: Any = output.args[0]
    return tuple(returned) if isinstance(returned, (tuple, list)) else (returned,)


def _written(target: Any) -> str:
    """Name of what a node calls or reads."""
    if isinstance(target, str):
        # fx numbers a model's constants across all captures of it.
        return "constant" if target.startswith("_tensor_constant") else target
    return f"{target.__module__}.{getattr(target, '__name__', type(target).__name__)}"


def _settings(module: nn.Module) -> list[tuple[str, str]]:
    """A module's type and those of its attributes that are plain values."""
    values = [(name, str(value)) for name, value in vars(module).items() if _is_plain(value)]
    return [("type", type(module).__qualname__), *sorted(values)]


def _is_plain(value: object) -> bool:
    """Whether a value has the same text on every host."""
    if isinstance(value, (tuple, list)):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str, torch.dtype))


def _blocks(model: nn.Module, prefix: str = "") -> Iterator[str]:
    """Paths of the direct children; a sequential child is replaced by its own children."""
    for name, child in model.named_children():
        if type(child) in (nn.Sequential, nn.ModuleList, nn.ModuleDict):
            yield from _blocks(child, f"{prefix}{name}.")
        else:
            yield prefix + name


def _block_names(model: nn.Module, exits: Sequence[tuple[str, int]]) -> dict[int, str]:
    """Names of the blocks, by the number of working operations before their end.

    Where several blocks end at the same place, the first one names it.
    """
    blocks = set(_blocks(model))
    calls: Counter[str] = Counter()
    names: dict[int, str] = {}
    for path, worked in exits:
        if path in blocks:
            calls[path] += 1
            names.setdefault(worked, _numbered(path, calls[path]))
    return names


def find_places(
    model: nn.Module, nodes: Sequence[fx.Node], flow: Flow, exits: Sequence[tuple[str, int]]
) -> Iterator[Place]:
    """Find the places where exactly one tensor is alive: computed before, used after.

    The input itself does not count, unless an operation has overwritten it. Parameters and
    buffers do not count, since every stage has its own.

    Parameters
    ----------
    model, nodes, flow
        The model, its graph's nodes without constants, and what flows in it.
    exits
        For each call of a module, in order: the module's path, and the number of working
        operations up to its end.
    """
    blocks = _block_names(model, exits)
    death = {flow.roots[used]: i for i, n in enumerate(nodes) for used in n.all_input_nodes}
    last = max((i for i, n in enumerate(nodes) if n in flow.working), default=0)
    calls: Counter[str] = Counter()
    alive: list[fx.Node] = []
    unchanged = {nodes[0]}
    worked = 0
    for i, node in enumerate(nodes[:last]):
        if node.op != "get_attr" and flow.roots[node] is node:
            alive.append(node)
        alive = [value for value in alive if death.get(value, -1) > i]
        unchanged.difference_update(flow.overwritten[node])
        if node not in flow.working:
            continue
        worked += 1
        name = _operation(model, node)
        calls[name] += 1
        if len(alive) == 1 and alive[0] not in unchanged and _can_cross(alive[0], flow.layouts):
            block = blocks.get(worked)
            name = block or _numbered(name, calls[name])
            yield Place(name, block is not None, i + 1, tuple(alive))


def _can_cross(value: fx.Node, layouts: Mapping[fx.Node, Layout]) -> bool:
    """Whether the value is a tensor of a dtype that may cross a link."""
    return value in layouts and layouts[value].dtype in DTYPE_BYTES


def _operation(model: nn.Module, node: fx.Node) -> str:
    """Name of an operation.

    It is the path of the module that is called, or ``module:operation`` for an operation in a
    module's ``forward``; the model's own operations have no module's path.
    """
    if node.op == "call_module":
        return str(node.target)
    operation = node.target if isinstance(node.target, str) else node.target.__name__
    stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    if stack:
        return f"{stack[-1]}:{operation}"
    taken = operation in dict(model.named_children())
    return f":{operation}" if taken else operation


def _numbered(name: str, call: int) -> str:
    """Name of the n-th call of the same operation; the first has the plain name."""
    return name if call == 1 else f"{name}#{call}"
