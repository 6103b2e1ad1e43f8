"""Capture a model as a program, with :mod:`torch.export`."""

from __future__ import annotations

import contextlib
import io
import linecache
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import proxy

from paretopipe_worker.model.lowering import Lowering, WritesToGivenError
from paretopipe_worker.model.nodes import short
from paretopipe_worker.model.program import PartitionError, Program
from paretopipe_worker.model.usercode import RAISED, aside, innermost, shortened, told


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
    exported, copied = _exported(model, inputs), frozenset[str]()
    try:
        while True:
            try:
                return Captured(*Lowering(model, exported, copied).lowered())
            except WritesToGivenError as found:
                copied |= {*found.args}
    except PartitionError:
        raise
    except RAISED as error:
        raise PartitionError(
            f"what was recorded of {type(model).__name__} is no program: {told(error)}"
        ) from error


def _exported(model: nn.Module, inputs: Sequence[Any]) -> ExportedProgram:
    """Export the model, or say in a line where that failed."""
    try:
        # Where it fails, torch prints what it has recorded. What the model prints was printed
        # before, when it was run.
        with (
            aside(),
            torch.no_grad(),
            _all_frames(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            return torch.export.export(model, tuple(inputs), strict=False)
    except RAISED as error:
        raise PartitionError(_reason(model, error)) from error


@contextlib.contextmanager
def _all_frames() -> Iterator[None]:
    """Have torch note where functions that `forward` calls are written, not `forward` alone."""

    def kept(_: Any, frames: traceback.StackSummary) -> traceback.StackSummary:
        names = [frame.name for frame in frames]
        first = names.index("forward") if "forward" in names else len(names)
        return traceback.StackSummary.from_list(frames[first:])

    name = "_filter_traceback_frames"
    before = getattr(proxy.TracerBase, name)
    setattr(proxy.TracerBase, name, kept)
    try:
        yield
    finally:
        setattr(proxy.TracerBase, name, before)


def _reason(model: nn.Module, error: BaseException) -> str:
    """Why a model cannot be exported, with module, file and line where these are known."""
    if "data-dependent" not in str(error):
        return (
            f"{type(model).__name__} cannot be captured: {told(error)}{_inside(model, error)}; "
            "allowed are models that torch.export records"
        )
    frame = innermost(traceback.extract_tb(error.__traceback__))
    where = ""
    if frame:
        line = shortened(linecache.getline(frame.filename, frame.lineno or 0).strip())
        where = f", {short(frame.filename)}:{frame.lineno}: `{line}`"
    return (
        f"its control flow, or a shape, depends on the values of tensors"
        f"{_inside(model, error)}{where}; allowed is control flow that depends on shapes"
    )


def _inside(model: nn.Module, error: BaseException) -> str:
    """In which module an error was raised: the innermost that is not one of torch's own."""
    paths = {id(module): path for path, module in model.named_modules()}
    found = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = frame.f_locals.get("self")
        path = paths.get(id(module))
        if path and not type(module).__module__.startswith("torch."):
            found = f" in module {path!r} ({type(module).__name__})"
    return found
