"""Capture a model's graph with :mod:`torch.fx`, and find what flows in it.

Sizes that the model takes from shapes become constants, so a captured graph is valid for one input
shape only, batch included.
"""

from __future__ import annotations

import contextlib
import itertools
import linecache
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from paretopipe_worker.model.graph import (
    CapturedModel,
    Flow,
    Layout,
    PartitionError,
    find_places,
)
from paretopipe_worker.model.usercode import RAISED, aside, place, shortened, told


def capture(model: nn.Module, example: torch.Tensor) -> CapturedModel:
    """Capture a model's graph and find where it can be cut.

    Parameters
    ----------
    model
        A model in eval mode. Its ``forward`` is given one tensor; other arguments keep their
        defaults.
    example
        An input, batch first. Only its shape and dtype matter, and nothing is computed, unless
        the model reads values of tensors; then it runs once.

    Raises
    ------
    PartitionError
        When the control flow depends on data (the text names module, file and line), when the
        model does not run on the example, or when it returns something other than tensors.
    """
    tracer = _Tracer()
    graph = tracer.follow(model)
    flow = _propagate(model, graph, example)
    order = tuple(graph.nodes)
    _check_output(model, order[-1], flow)
    done = dict(zip(order, itertools.accumulate(n in flow.working for n in order), strict=True))
    exits = [(path, done[node]) for path, node in tracer.exits]
    _fold(graph, flow.constants)
    nodes = tuple(graph.nodes)
    places = tuple(find_places(model, nodes, flow, exits))
    return CapturedModel(model, nodes, flow.roots, flow.layouts, places)


class _Tracer(fx.Tracer):
    """fx's tracer; it also records where each module's computation ends."""

    def __init__(self) -> None:
        super().__init__()
        self.exits: list[tuple[str, fx.Node]] = []
        self.inside: list[str] = []

    def follow(self, model: nn.Module) -> fx.Graph:
        """Trace the model; an error says where tracing failed."""
        try:
            with aside():
                return self.trace(model)
        except RAISED as error:
            raise PartitionError(self._reason(model, error)) from error

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Make the first argument the input and leave the others at their defaults."""
        return root_fn, [self.root, self.create_proxy("placeholder", "input", (), {})]

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Trace a module's call and record its last node."""
        path = self.path_of_module(m)
        self.inside.append(path)
        result = super().call_module(m, forward, args, kwargs)
        self.inside.pop()  # after an error it stays: `_reason` reads where the tracer was
        self.exits.append((path, next(iter(reversed(self.graph.nodes)))))
        return result

    def _reason(self, model: nn.Module, error: BaseException) -> str:
        """The error's text: module, file and line in the model's code, and torch's message."""
        path = self.inside[-1] if self.inside else ""
        module = model.get_submodule(path)
        where = f"module {path!r} ({type(module).__name__})" if path else "its forward"
        if found := place(traceback.extract_tb(error.__traceback__)):
            file, _, line = found.rpartition(":")
            where += f", {found}: `{shortened(linecache.getline(file, int(line)).strip())}`"
        first, *_ = str(error).strip().splitlines() or [type(error).__name__]
        return (
            f"{type(model).__name__} cannot be captured: in {where}: {shortened(first)}. The "
            f"computation must not depend on the values of tensors; it may depend on their shapes "
            f"where torch.fx allows it"
        )


class _Observer(fx.Interpreter):
    """Runs the graph node by node and records what flows, without keeping the values."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.flow = Flow({}, {}, set(), {}, {})

    def run_node(self, n: fx.Node) -> Any:
        """Run one node."""
        given = {node: self.env[node] for node in n.all_input_nodes}
        versions = {
            node: value._version for node, value in given.items() if isinstance(value, torch.Tensor)
        }
        result = super().run_node(n)
        if n.op != "output":
            same = next((node for node in versions if given[node] is result), None)
            changed = [node for node, old in versions.items() if given[node]._version != old]
            self._note(n, result, same, changed)
        return result

    def _note(
        self, node: fx.Node, result: Any, same: fx.Node | None, changed: list[fx.Node]
    ) -> None:
        """Record a node's result, the argument it is identical to, and the arguments it changed."""
        flow = self.flow
        flow.roots[node] = node if same is None else flow.roots[same]
        flow.overwritten[node] = [flow.roots[argument] for argument in changed]
        if isinstance(result, torch.Tensor):
            flow.layouts[node] = Layout.of(result)
        constant = _is_constant(result)
        if constant:
            flow.constants[node] = result
        if node.op.startswith("call") and not constant and (changed or same is None):
            flow.working.add(node)


def _is_constant(value: object) -> bool:
    """Whether a value that depends on shapes alone can be written into the graph."""
    if isinstance(value, tuple):
        return all(_is_constant(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str, torch.dtype))


def _propagate(model: nn.Module, graph: fx.Graph, example: torch.Tensor) -> Flow:
    """Find what flows by a run on fake tensors, or by one real run where values matter."""
    module = fx.GraphModule(model, graph)
    observer = _Observer(module)
    fakes = FakeTensorMode(allow_non_fake_inputs=True)
    with contextlib.suppress(*RAISED), aside(), fakes, torch.no_grad():
        observer.run(fakes.from_tensor(example))
        return observer.flow
    observer = _Observer(module)
    try:
        with aside(), torch.no_grad():
            observer.run(example.clone())
    except RAISED as error:
        raise PartitionError(
            f"{type(model).__name__} does not run on an input of shape {tuple(example.shape)} "
            f"and dtype {example.dtype}: {told(error)}"
        ) from error
    observer.flow.constants.clear()  # they may depend on this one input
    return observer.flow


def _check_output(model: nn.Module, output: fx.Node, flow: Flow) -> None:
    """Refuse a model that returns anything other than one or several tensors."""
    returned = output.args[0]
    items = returned if isinstance(returned, (tuple, list)) else (returned,)
    if not all(isinstance(item, fx.Node) and item in flow.layouts for item in items):
        raise PartitionError(
            f"{type(model).__name__} returns {returned} instead of tensors alone; "
            f"allowed are a tensor or a tuple of tensors"
        )


def _fold(graph: fx.Graph, constants: Mapping[fx.Node, Any]) -> None:
    """Write constants into their users' arguments and remove their nodes from the graph."""

    def folded(node: fx.Node) -> Any:
        return _plain(constants[node]) if node in constants else node

    for node in list(graph.nodes):
        node.args = fx.map_arg(node.args, folded)
        node.kwargs = fx.map_arg(node.kwargs, folded)
    for node in constants:
        graph.erase_node(node)


def _plain(value: Any) -> Any:
    """Turn ``torch.Size`` and the like into plain tuples, which fx can write as code."""
    return tuple(_plain(item) for item in value) if isinstance(value, tuple) else value
