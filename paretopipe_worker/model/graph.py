"""A model's graph as data: what each node yields, and where exactly one tensor crosses.

An operation that returns its argument unchanged (dropout in eval mode, ``contiguous`` on what is
contiguous) does no work: the places before and after it are one place, listed once.
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
    """A model cannot be traced, or not be split as asked."""


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
        """Tensor without its strides: what crosses a link is contiguous."""
        return TensorSpec(self.shape, self.dtype)

    @property
    def contiguous(self) -> bool:
        """Whether the strides are those of a freshly received tensor, also where length is 1."""
        expected = torch.empty(self.shape, device="meta").stride()
        return self.strides == tuple(expected)


@dataclass(frozen=True)
class Place:
    """A place where the graph can be cut.

    Attributes
    ----------
    name
        The block whose output crosses, or else the operation.
    block
        Whether a block ends here.
    end
        How many nodes of the graph lie before the place.
    values
        First node that yields each tensor that crosses.
    """

    name: str
    block: bool
    end: int
    values: tuple[fx.Node, ...]


@dataclass(frozen=True)
class TracedModel:
    """A model's graph for one input shape, in the order in which it computes.

    Attributes
    ----------
    model
        The model itself; stages share its modules.
    nodes
        The graph's nodes, input first, output last.
    roots
        For every node, the first node that yields the same tensor object: in-place operations
        and those that do no work return their argument.
    layouts
        Layout of every tensor, by node.
    places
        Where exactly one tensor crosses, in order.
    """

    model: nn.Module
    nodes: tuple[fx.Node, ...]
    roots: Mapping[fx.Node, fx.Node]
    layouts: Mapping[fx.Node, Layout]
    places: tuple[Place, ...]

    @property
    def input(self) -> TensorSpec:
        """What the model takes."""
        return self.layouts[self.nodes[0]].spec

    @property
    def results(self) -> tuple[fx.Node, ...]:
        """Nodes that the model returns."""
        return result_nodes(self.nodes[-1])

    @property
    def output(self) -> tuple[TensorSpec, ...]:
        """What the model returns."""
        return tuple(self.layouts[node].spec for node in self.results)

    def sha256(self) -> str:
        """Digest of what is computed, but for the values of tensors.

        Operations in order with their arguments, settings of torch's own modules, and layouts:
        equal on every host that builds the same model.
        """
        digest = hashlib.sha256()
        places = {node: f"%{number}" for number, node in enumerate(self.nodes)}
        for node in self.nodes:
            arguments = fx.map_arg((node.args, node.kwargs), places.__getitem__)
            # How a tensor of the model lies in memory is up to who put it there.
            layout = None if node.op == "get_attr" else self.layouts.get(node)
            digest.update(f"{node.op} {_written(node.target)} {arguments} {layout}\n".encode())
            if node.op == "call_module":
                leaf = self.model.get_submodule(str(node.target))
                digest.update(f"{[_settings(module) for module in leaf.modules()]}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Flow:
    """What running a graph's nodes one by one showed.

    Attributes
    ----------
    layouts
        Layout of every node that yields a tensor.
    roots
        For every node, the first node that yields the same tensor object.
    working
        Operations that compute or change something.
    overwritten
        Roots of the tensors that a node changes in place.
    constants
        Values that follow from shapes alone.
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
    """What a node calls or reads, by name."""
    if isinstance(target, str):
        # fx numbers the constants of a model over all its traces.
        return "constant" if target.startswith("_tensor_constant") else target
    return f"{target.__module__}.{getattr(target, '__name__', type(target).__name__)}"


def _settings(module: nn.Module) -> list[tuple[str, str]]:
    """A module's type and the plain values that it is set up with."""
    values = [(name, str(value)) for name, value in vars(module).items() if _is_plain(value)]
    return [("type", type(module).__qualname__), *sorted(values)]


def _is_plain(value: object) -> bool:
    """Whether a value is written alike on every host."""
    if isinstance(value, (tuple, list)):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str, torch.dtype))


def _blocks(model: nn.Module, prefix: str = "") -> Iterator[str]:
    """Paths of the direct children, in place of a sequential stage those of its own."""
    for name, child in model.named_children():
        if type(child) in (nn.Sequential, nn.ModuleList, nn.ModuleDict):
            yield from _blocks(child, f"{prefix}{name}.")
        else:
            yield prefix + name


def _block_names(model: nn.Module, exits: Sequence[tuple[str, int]]) -> dict[int, str]:
    """Name the places, counted in working operations, where a block ends; the first counts."""
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
    """Find where exactly one tensor lives on: computed before, used after.

    The input itself is not such a tensor, unless an operation has overwritten it; parameters and
    buffers are not, since every stage has its own.

    Parameters
    ----------
    model, nodes, flow
        The model, its graph's nodes without constants, and what flows in it.
    exits
        For each call of a module in order: its path, and how many operations had worked when it
        ended.
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
    """Whether the value is one tensor of a dtype that a message can hold."""
    return value in layouts and layouts[value].dtype in DTYPE_BYTES


def _operation(model: nn.Module, node: fx.Node) -> str:
    """Name of an operation: the module's path, or the path of the one it is written in, and it."""
    if node.op == "call_module":
        return str(node.target)
    operation = node.target if isinstance(node.target, str) else node.target.__name__
    stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    if stack:
        return f"{stack[-1]}:{operation}"
    taken = operation in dict(model.named_children())
    return f":{operation}" if taken else operation


def _numbered(name: str, call: int) -> str:
    """Name of the n-th call: the first has the plain name."""
    return name if call == 1 else f"{name}#{call}"
