"""Operators of torch by the names that a program has for them, as functions that can be called."""

from __future__ import annotations

import contextlib
import importlib
import operator
import types
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch

from paretopipe_worker.model.program import GETITEM, PartitionError, Program, Word

_BUILTIN = (types.BuiltinFunctionType, types.MethodDescriptorType)
_TORCHS = ("aten", "prim", "prims")
"""Namespaces of operators that every torch has."""

_PLACES = (torch, torch._C._nn, torch.Tensor)


@cache
def overload(target: str) -> Callable[..., Any]:
    """Look an operator's overload up.

    Operators that are not torch's own are registered by the package whose name is their namespace,
    as ``torchvision::roi_align`` is by torchvision. That package is imported where it was not.

    Raises
    ------
    PartitionError
        When this host has no such operator.
    """
    if target == GETITEM:
        return operator.getitem
    name, _, kind = target.rpartition(".")
    namespace, _, plain = name.partition("::")
    found = _registered(namespace, plain, kind)
    if found is None and namespace not in _TORCHS:
        with contextlib.suppress(ImportError):
            importlib.import_module(namespace)
        found = _registered(namespace, plain, kind)
    if found is None:
        package = "torch" if namespace == "aten" else f"package {namespace!r}"
        raise PartitionError(
            f"operator {target} is unknown on this host; it belongs to {package}, which must be "
            "installed here as on the controller"
        )
    return found


def foreign(program: Program) -> tuple[str, ...]:
    """Operators of a program that need not come with torch, sorted."""
    targets = {operation.target for operation in program.operations} - {GETITEM}
    return tuple(sorted(each for each in targets if each.partition("::")[0] not in _TORCHS))


def missing(targets: Iterable[str]) -> dict[str, list[str]]:
    """Operators that this host lacks, by the package that registers them."""
    found: dict[str, list[str]] = {}
    for target in targets:
        try:
            overload(target)
        except PartitionError:
            found.setdefault(target.partition("::")[0], []).append(target)
    return found


def _registered(namespace: str, name: str, kind: str) -> Callable[..., Any] | None:
    """An operator's overload, where it is registered."""
    packet = getattr(getattr(torch.ops, namespace), name, None)
    return getattr(packet, kind, None)


@cache
def native(target: str) -> Callable[..., Any] | None:
    """Find torch's own function of an operator's name: it takes the same and is called faster.

    None where there is none that is written in C. Whether one returns the same is for who captures
    a program to find out (:attr:`~paretopipe_worker.model.program.Operation.native`).
    """
    name, _, _ = target.rpartition(".")
    namespace, _, plain = name.partition("::")
    if namespace != "aten":
        return None
    for place in _PLACES:
        found = getattr(place, plain, None)
        if isinstance(found, _BUILTIN):
            return found
    return None


@cache
def in_place(target: str) -> str | None:
    """Name the operator that does the same over its first argument; None where there is none."""
    name, _, kind = target.rpartition(".")
    other = f"{name}_.{kind}"
    try:
        schema, twin = overload(target)._schema, overload(other)._schema  # type: ignore[attr-defined]
    except (PartitionError, AttributeError):
        return None
    same = [a.name for a in schema.arguments] == [a.name for a in twin.arguments]
    writes = [a.alias_info is not None and a.alias_info.is_write for a in twin.arguments]
    return other if same and writes[0] and not any(writes[1:]) else None


@cache
def out_of_place(target: str) -> str | None:
    """Name the operator that returns what this one writes; None where there is none."""
    name, _, kind = target.rpartition(".")
    if not name.endswith("_"):
        return None
    other = f"{name[:-1]}.{kind}"
    try:
        overload(other)
    except PartitionError:
        return None
    return other if in_place(other) == target else None


def word(constant: Word) -> Any:
    """Look one of torch's constants up.

    Raises
    ------
    PartitionError
        When there is none of that name.
    """
    if constant.kind == "device":
        return torch.device(constant.name)
    found = getattr(torch, constant.name, None)
    kinds = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}
    if not isinstance(found, kinds[constant.kind]):
        raise PartitionError(f"torch has no {constant.kind} {constant.name!r}")
    return found
