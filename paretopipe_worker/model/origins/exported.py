"""Models that ``torch.export.save`` wrote: ``.pt2`` files.

Torch can load such a file without the code of the model. What it holds beside tensors may be
unpickled, so a file from somebody else can run code here, as a factory can.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from paretopipe_worker.cuts import DTYPE_BYTES, InputSpec
from paretopipe_worker.model.origins.api import ModelError, Source, Transform, no_weights
from paretopipe_worker.model.usercode import RAISED, aside, told

_CHAIN = f"{nn.Sequential.__module__}.{nn.Sequential.__qualname__}"


class Exported:
    """Models in ``.pt2`` files."""

    drawn = False
    on_meta = False

    def factory(self, source: Source) -> Callable[[], object]:
        """Make the file's modules again, with its weights."""
        if source.weights:
            raise no_weights(source)
        return lambda: _module(source, _read(source))

    def inputs(self, source: Source, model: nn.Module | None) -> tuple[InputSpec, ...]:
        """What the file was exported with; whole numbers are drawn from the range of its own."""
        return tuple(_spec(source, number, given) for number, given in enumerate(_given(source)))

    def ignored(self, source: Source) -> tuple[str, ...]:
        """None."""
        return ()

    def transform(self, source: Source, shape: tuple[int, ...]) -> Transform | None:
        """None: the file does not say."""
        return None


def _read(source: Source) -> ExportedProgram:
    """Load the file, and check first that it is whole."""
    path = source.path or Path()
    if source.arguments:
        raise ModelError(f"model {source.name!r}: arguments: {path} takes none")
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not compare checksums
            if broken := archive.testzip():
                raise ModelError(
                    f"model {source.name!r}: {path} is damaged: the checksum of {broken} in it is "
                    "another one; allowed is what torch.export.save wrote"
                )
        with aside():
            return torch.export.load(path)
    except OSError as error:
        raise ModelError(
            f"model {source.name!r}: {path} cannot be read: {error.strerror or error}"
        ) from error
    except ModelError:
        raise
    except RAISED as error:
        raise ModelError(
            f"model {source.name!r}: {path} is damaged, or not what torch.export.save of this "
            f"version of torch ({torch.__version__}) wrote: {told(error)}"
        ) from error


def _given(source: Source) -> list[Any]:
    """The example that the file was exported with, flattened."""
    exported = _read(source)
    if exported.example_inputs is None:
        raise ModelError(
            f"model {source.name!r}: {source.path} has no example of its inputs: give `inputs`"
        )
    return pytree.tree_leaves(exported.example_inputs)


def _spec(source: Source, number: int, given: Any) -> InputSpec:
    """Shape without the batch, and dtype, of one tensor of the example."""
    allowed = f"allowed are tensors of {', '.join(DTYPE_BYTES)} whose first dimension is the batch"
    if not isinstance(given, torch.Tensor) or given.dim() == 0:
        raise ModelError(
            f"model {source.name!r}: input {number} of {source.path} is {type(given).__name__} "
            f"without a batch; {allowed}"
        )
    dtype = str(given.dtype).removeprefix("torch.")
    if dtype not in DTYPE_BYTES:
        raise ModelError(f"model {source.name!r}: input {number} is of {dtype}; {allowed}")
    if given.dtype.is_floating_point or not given.numel():
        return InputSpec(tuple(given.shape[1:]), dtype)
    return InputSpec(tuple(given.shape[1:]), dtype, int(given.min()), int(given.max()) + 1)


def _module(source: Source, exported: ExportedProgram) -> nn.Module:
    """Make modules of the paths and types that the file's operations come from."""
    try:
        with aside():
            root = torch.export.unflatten(exported)
    except RAISED as error:
        raise ModelError(
            f"model {source.name!r}: the modules of {source.path} cannot be told apart: "
            f"{told(error)}; allowed is the model as a factory"
        ) from error
    types = dict(_types(exported))
    kinds: dict[tuple[str, tuple[type, ...]], type] = {}
    for path, module in root.named_modules():
        if path and path not in types:
            # Nothing calls it, so it only holds others.
            _become(module, nn.ModuleList if _numbered(module) else nn.ModuleDict)
        elif path:
            chain = types[path] == _CHAIN or _numbered(module)
            bases = (type(module), nn.Sequential) if chain else (type(module),)
            key = types[path], bases
            _become(module, kinds.setdefault(key, _named(*key)))
    _become(root, _flat(type(root), exported.call_spec.in_spec))
    return root


def _types(exported: ExportedProgram) -> Iterator[tuple[str, str]]:
    """Path and type of each module that the file's operations come from."""
    for node in exported.graph.nodes:
        for path, kind in (node.meta.get("nn_module_stack") or {}).values():
            # With strict=True, torch writes paths as Python would.
            yield re.sub(r"^L\['self'\]\.?", "", path), kind


def _numbered(module: nn.Module) -> bool:
    """Whether a module's children differ in a number alone, as those of chains and lists do."""
    names = [name for name, _ in module.named_children()]
    return len({name.rstrip("0123456789") for name in names}) == 1 and names[0][-1].isdecimal()


def _named(kind: str, bases: tuple[type, ...]) -> type:
    """A type that is called like the model's own, which need not exist here."""
    module, _, name = kind.rpartition(".")
    return type(name, bases, {"__module__": module})


def _flat(root: type, spec: pytree.TreeSpec) -> type:
    """A type whose ``forward`` takes tensors by position, whatever the model's own takes."""

    def forward(self: nn.Module, *tensors: torch.Tensor) -> Any:
        if len(tensors) != spec.num_leaves:
            raise TypeError(f"it takes {spec.num_leaves} tensors and not {len(tensors)}")
        args, kwargs = pytree.tree_unflatten(list(tensors), spec)
        return root.forward(self, *args, **kwargs)  # type: ignore[attr-defined]

    return type(root.__name__, (root,), {"forward": forward})


def _become(module: nn.Module, kind: type) -> None:
    """Change the type of a module."""
    module.__class__ = kind
