"""Models that compute in fewer bits than float32: cast, and told apart from the original."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from paretopipe_worker.cuts import FLOAT32, InputSpec
from paretopipe_worker.model.capture import Captured
from paretopipe_worker.model.program import PartitionError, renamed
from paretopipe_worker.model.usercode import RAISED, told


def cast(model: nn.Module, dtype: str) -> nn.Module:
    """The same model with its floating-point parameters and buffers in this dtype; a copy.

    Raises
    ------
    PartitionError
        When the model cannot be copied or cast.
    """
    try:
        return copy.deepcopy(model).to(getattr(torch, dtype))
    except RAISED as error:
        raise PartitionError(f"it cannot be cast to {dtype}: {told(error)}") from error


def inputs_as(specs: Sequence[InputSpec], dtype: str) -> list[InputSpec]:
    """The inputs of a model that was cast: those of float32 are of the dtype then."""
    return [replace(each, dtype=dtype) if each.dtype == FLOAT32 else each for each in specs]


def named(captured: Captured, dtype: str) -> Captured:
    """The same program with the dtype in its tensors' names.

    So one file has the tensors of a model in several dtypes.
    """
    names = {name: f"{name}.{dtype}" for name in captured.tensors}
    program = captured.program
    operations = tuple(
        replace(
            each,
            args=renamed(names, each.args),
            kwargs={key: renamed(names, value) for key, value in each.kwargs.items()},
            writes=tuple(names.get(name, name) for name in each.writes),
            storage=names.get(each.storage, each.storage),
        )
        for each in program.operations
    )
    changed = replace(
        program,
        tensors={names[name]: held for name, held in program.tensors.items()},
        operations=operations,
        outputs=tuple(names.get(name, name) for name in program.outputs),
    )
    return Captured(changed, {names[name]: each for name, each in captured.tensors.items()})
