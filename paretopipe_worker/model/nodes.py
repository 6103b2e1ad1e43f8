"""What the nodes of an exported graph are, and where in a model they come from."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import fx

from paretopipe_worker.model.program import GETITEM, Layout, PartitionError

_FRAME = re.compile(r'File "([^"]+)", line (\d+), in ')
_TORCH = str(Path(torch.__file__).parent)


def tensors(values: Any) -> Iterator[torch.Tensor]:
    """Tensors among what a node yields."""
    for value in values if isinstance(values, list | tuple) else [values]:
        if isinstance(value, torch.Tensor):
            yield value


def memory(node: fx.Node) -> list[int]:
    """Which pieces of memory a node's results lie in."""
    try:
        return [value.untyped_storage()._cdata for value in tensors(node.meta.get("val"))]
    except NotImplementedError as error:
        raise PartitionError(
            f"{plain(node)} makes a tensor that is sparse, or batched by torch.vmap, in {at(node)};"
            " allowed are dense tensors"
        ) from error


def result(tensor: torch.Tensor, node: fx.Node) -> Layout:
    """Layout of what a call makes."""
    if not all(isinstance(length, int) for length in (*tensor.shape, *tensor.stride())):
        raise PartitionError(
            f"{plain(node)} makes a tensor whose shape depends on the values of tensors in "
            f"{at(node)}; allowed are shapes that follow from shapes"
        )
    return layout(tensor)


def layout(tensor: torch.Tensor) -> Layout:
    """Layout of a real or fake tensor."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    return Layout(tuple(tensor.shape), tuple(tensor.stride()), dtype)


def same_elements(node: fx.Node) -> bool:
    """Whether a call's result has as many bytes as the first tensor that it is given."""
    given, made = (
        list(tensors(each.meta.get("val"))) for each in (*node.all_input_nodes[:1], node)
    )
    return len(given) == len(made) == 1 and layout(given[0]).nbytes == layout(made[0]).nbytes


def name(node: fx.Node) -> str:
    """The operator of a call, empty where it calls something else."""
    if isinstance(node.target, torch._ops.OpOverload):
        return f"{node.target.namespace}::{node.target._opname}.{node.target._overloadname}"
    return ""


def target(node: fx.Node) -> str:
    """The operator of a call."""
    if found := name(node):
        return found
    if getattr(node.target, "__name__", "") == "getitem":
        return GETITEM
    if "autocast" in plain(node):
        raise PartitionError(
            f"it computes {at(node)} under torch.autocast; allowed are casts of its own, with `.to`"
        )
    raise PartitionError(
        f"it calls {plain(node)}, which is no operator, in {at(node)}; allowed are torch's "
        "operators and no functions around them, such as torch.cond and torch.vmap"
    )


def draws(node: fx.Node) -> bool:
    """Whether an operator's result is drawn at random, with the arguments that it is given."""
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    schema = node.target._schema  # type: ignore[union-attr]
    given = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    given |= {a.name: value for a, value in zip(schema.arguments, node.args, strict=False)}
    given |= node.kwargs
    off = given.get("train", given.get("training")) is False
    asked = [a.name for a in schema.arguments if a.name in ("dropout_p", "dropout")]
    return not off and not (asked and not any(given.get(name, 0.0) for name in asked))


def stack(node: fx.Node) -> list[tuple[str, str, str]]:
    """Key, path and type of the modules that a call is in, outermost first."""
    return [(key, path, kind) for key, (path, kind) in node.meta.get("nn_module_stack", {}).items()]


def modules(node: fx.Node) -> Iterator[str]:
    """Paths of the modules that a call is in, with the number of each call after the first."""
    for key, path, _ in stack(node):
        if path:
            _, _, call = key.partition("@")
            yield f"{path}@{call}" if call else path


def leaf(node: fx.Node) -> bool:
    """Whether the innermost module is one of torch's own."""
    found = stack(node)
    return bool(found) and found[-1][2].startswith("torch.nn.modules.")


def where(node: fx.Node) -> str:
    """File and line in the model's code that a call comes from."""
    frames = [
        match
        for match in _FRAME.finditer(node.meta.get("stack_trace") or "")
        if not match[1].startswith((_TORCH, "<"))
    ]
    return f"{short(frames[-1][1])}:{frames[-1][2]}" if frames else ""


def short(file: str) -> str:
    """A file's path from the entry of Python's path that it was found by."""
    roots = [root for root in sys.path if root and file.startswith(f"{root}/")]
    return file.removeprefix(max(roots, key=len)).lstrip("/") if roots else file


def at(node: fx.Node) -> str:
    """Where a call is, for errors."""
    inside = [node, *_inner(node)]
    paths = [path for each in inside for path in list(modules(each))[-1:]]
    lines = [line for each in inside if (line := where(each))]
    module = f"module {paths[0]!r}" if paths else "its forward"
    return f"{module} ({lines[0]})" if lines else module


def _inner(node: fx.Node) -> Iterator[fx.Node]:
    """Calls inside a function that a call is given, such as what a context is around."""
    for argument in node.all_input_nodes:
        if argument.op == "get_attr" and argument.graph.owning_module is not None:
            inner = getattr(argument.graph.owning_module, str(argument.target), None)
            if isinstance(inner, fx.GraphModule):
                yield from (each for each in inner.graph.nodes if each.op == "call_function")


def plain(node: fx.Node) -> str:
    """Name of what is called, for errors."""
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target._opname
    return getattr(node.target, "__name__", str(node.target))
