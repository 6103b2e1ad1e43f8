"""Files of stages as the controller exports them, one by one."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from paretopipe_worker.cuts import FIRST, LAST
from paretopipe_worker.model import standalone
from paretopipe_worker.model.partition import Partitioned


def exported(model: Partitioned, before: str, after: str) -> bytes:
    """The stage between two cuts as an ONNX file."""
    values = {place.name: place.values for place in model.places}
    values |= {LAST: tuple(each.name for each in model.program.inputs)}
    values |= {FIRST: model.program.outputs}
    taken, given = values[before], values[after]
    module = standalone.StageModule(model.program, model.tensors, taken, given)
    inputs = [
        torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in model.specs(taken)
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "stage.onnx"
        standalone.save_onnx(standalone.exported(module, inputs), file)
        return file.read_bytes()
