"""Stages as modules that stand for themselves: what runs them needs none of our code."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.onnx import ONNXProgram

from paretopipe_worker.model import flat, natives
from paretopipe_worker.model.flat import Stage
from paretopipe_worker.model.program import (
    GETITEM,
    Layout,
    PartitionError,
    Program,
    Ref,
    Word,
    mapped,
)
from paretopipe_worker.model.usercode import RAISED, aside, told

OPSET = 20
"""Version of ONNX's operators that stages are written with."""

_INSIDE_BYTES = 1 << 30
"""Tensors of up to so many bytes lie in an ONNX file itself, which can hold 2 GiB."""

_OPERATOR = re.compile(r"OpOverload\(op='(\w+)\.(\w+)', overload='(\w+)'\)")


class OnnxError(ValueError):
    """A stage cannot be written as ONNX."""


class StageModule(nn.Module):
    """A stage of a program: takes and returns contiguous tensors, as a stage process does.

    Parameters
    ----------
    program, tensors
        The program, and its tensors by name; they are bound, not copied, and keep their names.
    taken, given
        Names of the values that come in and go out, in order.
    """

    def __init__(
        self,
        program: Program,
        tensors: Mapping[str, torch.Tensor],
        taken: Sequence[str],
        given: Sequence[str],
    ) -> None:
        super().__init__()
        operations = flat.needed(program, taken, given)
        self._parts = (tuple(taken), tuple(given), operations, program.layouts())
        self._held = {name: _path(name) for name in flat.held_by(program, operations, given)}
        self.checksums = {name: program.tensors[name].sha256 for name in self._held}
        """Those of the tensors that it holds, by the program's names for them."""
        for name, path in self._held.items():
            _hold(self, path, tensors[name])

    @property
    def packages(self) -> set[str]:
        """Packages beside torch that its operators belong to."""
        targets = {each.target for each in self._parts[2]} - {GETITEM}
        return {each.partition("::")[0] for each in targets} - {"aten", "prim", "prims"}

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run operator by operator."""
        taken, given, operations, layouts = self._parts
        values: dict[str, Any] = {
            name: _with_strides(tensor, layouts[name])
            for name, tensor in zip(taken, inputs, strict=True)
        }
        values |= {name: self.get_buffer(path) for name, path in self._held.items()}

        def value(argument: Ref | Word) -> Any:
            return values[argument.name] if isinstance(argument, Ref) else natives.word(argument)

        for each in operations:
            if each.name not in values:
                args = mapped(each.args, value)
                kwargs = {name: mapped(given, value) for name, given in each.kwargs.items()}
                values[each.name] = natives.overload(each.target)(*args, **kwargs)
        return tuple(values[name].contiguous() for name in given)


def _path(name: str) -> str:
    """Where a tensor is held: constants, which the model has no name for, beside its modules."""
    return name.replace(".", "_") if name.startswith("constant.") else name


def _hold(module: nn.Module, path: str, tensor: torch.Tensor) -> None:
    """Register a tensor under its qualified name."""
    *parents, name = path.split(".")
    for parent in parents:
        if parent not in module._modules:
            module.add_module(parent, nn.Module())
        module = module.get_submodule(parent)
    module.register_buffer(name, tensor)


def _with_strides(tensor: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Give a contiguous tensor the order of dimensions in memory that it has in the model.

    Rounding differs by it. Gaps and overlaps are not made again.
    """
    order = sorted(range(tensor.dim()), key=lambda dim: -layout.strides[dim])
    if layout.contiguous or order == sorted(order):
        return tensor
    back = sorted(range(len(order)), key=order.__getitem__)
    return tensor.permute(order).contiguous().permute(back)


def exported(module: StageModule, inputs: Sequence[torch.Tensor]) -> ExportedProgram:
    """Capture a stage with :func:`torch.export.export`.

    Parameters
    ----------
    inputs
        What comes in; it runs for inputs of these shapes and dtypes alone.

    Raises
    ------
    PartitionError
        When torch cannot.
    """
    try:
        with aside(), torch.no_grad():
            made = torch.export.export(module, tuple(t.clone() for t in inputs), strict=False)
    except RAISED as error:
        raise PartitionError(f"torch.export cannot follow the stage: {told(error)}") from error
    for node in made.graph.nodes:
        node.meta.pop("stack_trace", None)  # lines of this file, which say nothing of the model
    return made


def save_pt2(made: ExportedProgram, file: Path) -> Stage:
    """Write a captured stage, and read it as others will; the function that runs it.

    Raises
    ------
    PartitionError
        When torch cannot, or the disk is full.
    """
    try:
        with aside():
            torch.export.save(made, file)
            loaded = torch.export.load(file).module()
    except RAISED as error:
        raise PartitionError(
            f"torch cannot save the stage as {file.name}: {told(error)}"
        ) from error

    def run(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(loaded(*tensors))

    return run


def save_onnx(made: ExportedProgram, file: Path) -> None:
    """Write a captured stage as ONNX; it names what comes in ``input_0`` and so on.

    Tensors of more than a gigabyte lie in a file of their own beside it, ``NAME.onnx.data``.

    Raises
    ------
    OnnxError
        When packages are missing, or ONNX has nothing for an operator, which the text names.
    """
    size = sum(tensor.nbytes for tensor in made.state_dict.values())
    outputs = len(made.graph_signature.user_outputs)
    written = to_onnx(made, [f"output_{number}" for number in range(outputs)])
    try:
        with aside():
            written.save(file, external_data=size > _INSIDE_BYTES)
    except RAISED as error:
        raise OnnxError(_refused(error)) from error


def to_onnx(made: ExportedProgram, outputs: Sequence[str]) -> ONNXProgram:
    """Translate what was captured to ONNX; it names what comes in ``input_0`` and so on.

    Parameters
    ----------
    outputs
        Names of what comes out.

    Raises
    ------
    OnnxError
        See :func:`save_onnx`.
    """
    inputs = [f"input_{number}" for number in range(len(made.graph_signature.user_inputs))]
    try:
        with aside():
            written = torch.onnx.export(
                made,
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=inputs,
                output_names=outputs,
            )
    except ImportError as error:
        raise OnnxError(f"{told(error)}; install onnx and onnxscript") from error
    except RAISED as error:
        raise OnnxError(_refused(error)) from error
    assert written is not None
    return written


def _refused(error: BaseException) -> str:
    """Why a stage cannot be written as ONNX: the operator, where that is why."""
    cause: BaseException | None = error
    while cause is not None:
        if found := _OPERATOR.search(str(cause)):
            return f"ONNX has nothing for the operator {'{}::{}.{}'.format(*found.groups())}"
        cause = cause.__cause__
    return f"torch.onnx failed with {told(error)}"


def onnx_stage(file: Path | bytes) -> Stage:
    """What runs an ONNX file, or its bytes, with onnxruntime, on one thread.

    Raises
    ------
    OnnxError
        When onnxruntime is missing or cannot load it; its function raises this when it cannot run
        it.
    """
    try:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])
    except Exception as error:
        raise OnnxError(f"onnxruntime cannot load it: {told(error)}") from error

    def run(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        try:
            given = {f"input_{number}": tensor.numpy() for number, tensor in enumerate(tensors)}
            return tuple(map(torch.from_numpy, session.run(None, given)))
        except Exception as error:
            raise OnnxError(f"onnxruntime cannot run it: {told(error)}") from error

    return run
