"""Slow, obvious twins of the cut finder: they run models instead of reasoning about graphs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn


def op_cuts(model: nn.Module, example: torch.Tensor) -> list[tuple[str, tuple[int, ...]]]:
    """Find operations after which their result alone suffices, by forgetting everything else.

    Returns
    -------
    list
        Target of each operation, as fx names it, and the shape of its result. An operation that
        hands its argument on untouched is left out, and so is the one that makes the output.
    """
    graph = fx.symbolic_trace(model)
    nodes = list(graph.graph.nodes)
    expected = model(example.clone())
    found = []
    for i, (node, value, worked) in enumerate(_steps(graph, example)):
        if not worked or not isinstance(value, torch.Tensor):
            continue
        output = _rest(graph, nodes[i + 1 :], {node: value.clone()})
        is_output = all(later.op == "output" for later in nodes[i + 1 :])
        if output is not None and torch.equal(output, expected) and not is_output:
            found.append((_label(node), tuple(value.shape)))
    return found


def _steps(graph: fx.GraphModule, example: torch.Tensor) -> Iterator[tuple[fx.Node, Any, bool]]:
    """Run node by node: each with its result, and whether it did anything."""
    interpreter = fx.Interpreter(graph, garbage_collect_values=False)
    interpreter.args_iter = iter([example.clone()])
    for node in graph.graph.nodes:
        given = [interpreter.env[a] for a in node.all_input_nodes]
        before = [value.clone() if isinstance(value, torch.Tensor) else value for value in given]
        result = interpreter.run_node(node)
        interpreter.env[node] = result
        untouched = any(
            result is value and torch.equal(value, copy)
            for value, copy in zip(given, before, strict=True)
            if isinstance(value, torch.Tensor)
        )
        yield node, result, node.op.startswith("call") and not untouched


def _rest(
    graph: fx.GraphModule, nodes: list[fx.Node], env: dict[fx.Node, Any]
) -> torch.Tensor | None:
    """Run the remaining nodes from what is left, None where something is missing."""
    interpreter = fx.Interpreter(graph, garbage_collect_values=False)
    interpreter.env = env
    for node in nodes:
        if any(a not in interpreter.env for a in node.all_input_nodes):
            return None
        interpreter.env[node] = interpreter.run_node(node)
    result: torch.Tensor = interpreter.env[nodes[-1]]
    return result


def _label(node: fx.Node) -> str:
    """Module path, or name of the function or method."""
    return node.target if isinstance(node.target, str) else node.target.__name__


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
        tensor on untouched, the first.
    """
    clean: list[tuple[str, torch.Tensor, torch.Tensor]] = []

    def record(path: str, output: torch.Tensor) -> None:
        clean.append((path, output, output.clone()))

    expected = _hooked(model, example, blocks, record)
    poison = torch.full_like(example, torch.nan)
    found: list[tuple[str, torch.Tensor]] = []
    previous = (example, example)
    for path, output, value in clean[:-1]:
        untouched = output is previous[0] and torch.equal(value, previous[1])
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
