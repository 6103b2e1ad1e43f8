"""A program: a model as data, which travels to hosts in place of the code that made it.

A program is a list of operations in the order in which they compute. Each names an operator of
torch, its arguments and its result, and where in the model it comes from. All results are new
values. An operation that worked in place in the model *may* reuse the memory of its first argument
(`in_place`). The few operations that write through views name the values they change (`writes`).
The file is JSON. It is checked when it is read, and nothing in it is ever run as code.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from paretopipe_worker.cuts import DTYPE_BYTES, TensorSpec

SCHEMA = 1

GETITEM = "getitem"
"""Target of the operation that takes one tensor out of an operation's several results."""

_TARGET = re.compile(r"[A-Za-z_]\w*::[A-Za-z_]\w*\.\w+")
_BYTES = {**DTYPE_BYTES, "complex32": 4, "complex64": 8, "complex128": 16}
"""Bytes per element of the dtypes that a program may compute with."""

_NAME = re.compile(r"(?!.*__)[A-Za-z]\w*")
_PLAIN_WORDS = ("device", "layout", "memory_format", "dtype")
_CONFIG = ConfigDict(extra="forbid", strict=False)


class PartitionError(ValueError):
    """A model cannot be captured, or a program not be used or split as asked."""


@dataclass(frozen=True)
class Ref:
    """An argument that is a value of the program: an input, a tensor or a result, by name."""

    name: str


@dataclass(frozen=True)
class Word:
    """An argument that is one of torch's constants, such as dtype ``float32``."""

    kind: str
    name: str


Argument: TypeAlias = Any
"""None, a bool, a number, a text, a :class:`Ref`, a :class:`Word`, or a tuple of these."""


@checked(frozen=True, config=_CONFIG)
class Layout:
    """Shape, strides in elements, and dtype of a tensor."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        """Refuse what no tensor is."""
        if self.dtype not in _BYTES:
            raise ValueError(f"dtype {self.dtype!r}; allowed are {', '.join(_BYTES)}")
        if len(self.shape) != len(self.strides) or min((*self.shape, *self.strides, 0)) < 0:
            raise ValueError(f"shape {self.shape} and strides {self.strides} do not fit")

    @property
    def nbytes(self) -> int:
        """Size of the elements in bytes."""
        return math.prod(self.shape) * _BYTES[self.dtype]

    @property
    def crosses(self) -> bool:
        """Whether such tensors may cross a link."""
        return self.dtype in DTYPE_BYTES

    @property
    def spec(self) -> TensorSpec:
        """Tensor without its strides: what crosses a link is contiguous."""
        return TensorSpec(self.shape, self.dtype)

    @property
    def contiguous(self) -> bool:
        """Whether the elements lie in order without gaps; lengths of 1 may have any stride."""
        step = 1
        for length, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if length != 1 and stride != step:
                return False
            step *= length
        return True


@checked(frozen=True, config=_CONFIG)
class Held:
    """A tensor that the program holds: its layout and the SHA-256 of its bytes."""

    layout: Layout
    sha256: str


@checked(frozen=True, config=_CONFIG)
class Value:
    """A named tensor that goes into the program."""

    name: str
    layout: Layout


@checked(frozen=True, config=_CONFIG)
class Operation:
    """One operation.

    Attributes
    ----------
    name
        Of its result, by which later operations refer to it.
    target
        Operator with its overload, such as ``aten::conv2d.default``, or :data:`GETITEM`.
    args, kwargs
        As the operator takes them; see :data:`Argument`.
    results
        Layouts of its results: one for an operator that returns a tensor, several for one that
        returns a list, none for one that returns something else.
    modules
        Paths of the modules that it is written in, outermost first; after ``@`` the number of the
        module's call, where there was one before.
    leaf
        Whether the last of them is one of torch's own.
    where
        File and line in the model's code; empty where unknown.
    native
        Whether torch's function of the operator's name computes the same; it is called faster.
    storage
        Name of the first value whose memory the result shares: its own where it is new.
    free
        Whether it computes nothing: the result is another view of the same elements.
    in_place
        Whether it may write its result over its first argument.
    writes
        Names of the values that it changes, where it cannot be written without.
    """

    name: str
    target: str
    args: Any
    kwargs: Any
    results: tuple[Layout, ...]
    modules: tuple[str, ...]
    leaf: bool
    where: str
    storage: str
    native: bool = False
    free: bool = False
    in_place: bool = False
    writes: tuple[str, ...] = ()

    @property
    def refs(self) -> tuple[str, ...]:
        """Names of the values that it takes, each once."""
        found = dict.fromkeys(ref.name for ref in refs((self.args, tuple(self.kwargs.values()))))
        return tuple(found)


@checked(frozen=True, config=_CONFIG)
class Program:
    """A model for inputs of one shape.

    Attributes
    ----------
    inputs
        What goes in, flattened, in order.
    tensors
        What it holds, by name: parameters, buffers and constants.
    operations
        In the order in which they compute.
    outputs
        What comes out, flattened, in order: names of values.
    returned
        What the model calls each output, such as ``['logits']``; empty where it returns one tensor.
    blocks
        Modules after which granularity `block` cuts: paths. Where several end at once, the first
        names the place.
    """

    inputs: tuple[Value, ...]
    tensors: dict[str, Held]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]
    returned: tuple[str, ...]
    blocks: tuple[str, ...]
    schema: int = SCHEMA

    def layouts(self) -> dict[str, Layout]:
        """Layouts of all values that are one tensor, by name."""
        found = {value.name: value.layout for value in self.inputs}
        found |= {name: held.layout for name, held in self.tensors.items()}
        return found | {o.name: o.results[0] for o in self.operations if len(o.results) == 1}


def refs(arguments: Argument) -> Iterator[Ref]:
    """Yield every reference in an argument."""
    if isinstance(arguments, Ref):
        yield arguments
    elif isinstance(arguments, tuple):
        for each in arguments:
            yield from refs(each)


def mapped(arguments: Argument, change: Callable[[Any], Any]) -> Any:
    """Apply `change` to each reference and word of an argument, keeping its structure."""
    if isinstance(arguments, tuple):
        return tuple(mapped(each, change) for each in arguments)
    return change(arguments) if isinstance(arguments, Ref | Word) else arguments


def dump(program: Program) -> bytes:
    """Write a program as JSON, the same bytes for the same program."""
    return json.dumps(program, default=_plain, separators=(",", ":"), sort_keys=True).encode()


def sha256(program: Program) -> str:
    """SHA-256 of what a program computes: its tensors' checksums, but no lines of source code."""
    plain = replace(program, operations=tuple(replace(o, where="") for o in program.operations))
    return hashlib.sha256(dump(plain)).hexdigest()


def load(text: bytes, source: str) -> Program:
    """Read a program and check it.

    Parameters
    ----------
    text
        From :func:`dump`.
    source
        Where it is from, for errors.

    Raises
    ------
    PartitionError
        When it is not JSON, has another schema, an unknown field or operator name, or refers to a
        value that does not come before.
    """
    try:
        document = json.loads(text)
        if (schema := document.get("schema")) != SCHEMA:
            raise PartitionError(f"{source}: has schema {schema}, this version reads {SCHEMA}")
        for operation in document["operations"]:
            operation["args"] = _decoded(operation["args"])
            operation["kwargs"] = {n: _decoded(v) for n, v in operation["kwargs"].items()}
        program: Program = _ADAPTER.validate_python(document)
        _check(program)
    except PartitionError:
        raise
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(map(str, first["loc"]))
        raise PartitionError(f"{source}: is no program: {path}: {first['msg']}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise PartitionError(f"{source}: is no program: {error}") from error
    return program


def _check(program: Program) -> None:
    """Refuse a program whose parts do not fit each other."""
    known = {value.name for value in program.inputs} | program.tensors.keys()
    if len(known) != len(program.inputs) + len(program.tensors):
        raise ValueError("two of its inputs and tensors have one name")
    for number, operation in enumerate(program.operations):
        where = f"operations.{number} ({operation.name})"
        if operation.target != GETITEM and not _TARGET.fullmatch(operation.target):
            raise ValueError(f"{where}: target {operation.target!r}; allowed is ns::name.overload")
        if operation.name in known:
            raise ValueError(f"{where}: another value has that name")
        if not isinstance(operation.args, tuple):
            raise ValueError(f"{where}: args must be a list")
        # Stages have these names in their source.
        if wrong := [name for name in operation.kwargs if not _NAME.fullmatch(name)]:
            raise ValueError(f"{where}: kwargs: {wrong[0]!r} is no name of an argument")
        first = operation.args[0] if operation.args else None
        if (operation.free or operation.in_place) and not isinstance(first, Ref):
            raise ValueError(f"{where}: its first argument must be a value")
        if unknown := {*operation.refs, *operation.writes} - known:
            raise ValueError(f"{where}: takes {min(unknown)!r}, which does not come before it")
        known.add(operation.name)
        if operation.storage not in known:
            raise ValueError(f"{where}: shares the memory of {operation.storage!r}, which is not")
    if unknown := set(program.outputs) - known:
        raise ValueError(f"outputs: {min(unknown)!r} is no value of it")
    if len(program.returned) != len(program.outputs):
        raise ValueError("returned: there must be a name for each output")


def _plain(part: Any) -> dict[str, Any]:
    """A part of a program as JSON has it."""
    fields = dict(vars(part))
    if isinstance(part, Operation):
        fields["args"] = _encoded(part.args)
        fields["kwargs"] = {name: _encoded(value) for name, value in part.kwargs.items()}
    return {name: value for name, value in fields.items() if not name.startswith("__")}


def _encoded(argument: Argument) -> Any:
    """An argument as JSON."""
    if isinstance(argument, tuple | list):
        return [_encoded(each) for each in argument]
    if isinstance(argument, Ref):
        return {"value": argument.name}
    if isinstance(argument, Word):
        return {argument.kind: argument.name}
    if isinstance(argument, float) and not math.isfinite(argument):
        return {"float": repr(argument)}
    return argument


def _decoded(document: Any) -> Argument:
    """An argument from JSON."""
    if isinstance(document, list):
        return tuple(_decoded(each) for each in document)
    if not isinstance(document, dict):
        return document
    (kind, text) = next(iter(document.items()), ("", ""))
    if len(document) == 1 and isinstance(text, str):
        if kind == "value":
            return Ref(text)
        if kind == "float":
            return float(text)
        if kind in _PLAIN_WORDS and re.fullmatch(r"\w+", text):
            return Word(kind, text)
    raise ValueError(f"argument {document}; allowed are value, float, {', '.join(_PLAIN_WORDS)}")


_ADAPTER: TypeAdapter[Program] = TypeAdapter(Program)


def renamed(names: Mapping[str, str], argument: Argument) -> Argument:
    """Replace references by those to other values."""
    return mapped(
        argument,
        lambda each: Ref(names.get(each.name, each.name)) if isinstance(each, Ref) else each,
    )
