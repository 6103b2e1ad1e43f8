"""Every executor there is, for one model that has what is hard for some of them."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from paretopipe_worker.cuts import EAGER, FIRST, LAST
from paretopipe_worker.execution import api
from paretopipe_worker.execution.api import Assignment, Executor, Tensors
from paretopipe_worker.execution.staged import Staged
from paretopipe_worker.model import loading
from paretopipe_worker.model.capture import capture
from paretopipe_worker.model.partition import Partitioned
from tests.helpers import stage_files
from tests.helpers.fake_device import FakeDevice

KINDS = (
    EAGER,
    "onnxruntime",
    "fake, copies first",
    "fake, computing first",
    pytest.param("eager on cuda:0", marks=pytest.mark.gpu),
    pytest.param("graphs on cuda:0", marks=pytest.mark.gpu),
    pytest.param("onnxruntime on cuda:0", marks=pytest.mark.gpu),
)
"""What :func:`executor` builds."""

EXACT = (EAGER, "fake, copies first", "fake, computing first")
"""Those that return the bits of the eager stage."""

DEVICES = KINDS[2:]
"""Those that do not compute on the CPU."""

MIDDLE = "c1"
"""A cut at which three tensors cross, of two dtypes; a stage behind it hands one of them on."""


class Branching(nn.Module):
    """Takes a picture and numbers; writes over what it made, and keeps to channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Shapes (2, 3, 9, 9) and (2,)."""
        y = self.c1(x.contiguous(memory_format=torch.channels_last))
        mask = y > 0
        z = self.c2(torch.relu_(y + torch.arange(7) * 0.1)) * mask
        return {"z": z, "mask": mask, "x": x, "ids": ids * 2 + 1}


@functools.cache
def model() -> Partitioned:
    """The model as a program."""
    torch.manual_seed(5)
    found = capture(Branching().eval().requires_grad_(False), batch(0))
    return Partitioned(found.program, found.tensors)


def batch(number: int) -> Tensors:
    """An input of the model."""
    drawn = torch.Generator().manual_seed(number)
    return torch.randn((2, 3, 9, 9), generator=drawn), torch.tensor([number, -number])


@functools.cache
def _exported(before: str, after: str) -> bytes:
    """A stage of the model as ONNX."""
    return stage_files.exported(model(), before, after)


@dataclass(frozen=True)
class Stage:
    """One stage of the model, and where its file lies."""

    before: str
    after: str
    folder: Path

    @property
    def assignment(self) -> Assignment:
        """The stage, executed by torch on the CPU."""
        found = model()
        values = {place.name: place.values for place in found.places}
        values |= {LAST: tuple(each.name for each in found.program.inputs)}
        values |= {FIRST: found.program.outputs}
        return Assignment(
            model=found,
            before=self.before,
            after=self.after,
            inputs=found.specs(values[self.before]),
            outputs=found.specs(values[self.after]),
            file=self.folder / "exported.stage",
        )

    def executor(self, kind: str) -> Executor:
        """What executes it."""
        if kind.startswith("fake"):
            return Staged(FakeDevice(last_first=kind.endswith("computing first")), self.assignment)
        runtime, _, device = kind.partition(" on ")
        if runtime == "onnxruntime":
            loading.save_checked(_exported(self.before, self.after), self.assignment.file)
        with torch.inference_mode():
            return api.build(
                replace(
                    self.assignment,
                    runtime=EAGER if runtime == "graphs" else runtime,
                    device=device or "cpu",
                    cuda_graphs=runtime == "graphs",
                )
            )

    def inputs(self, number: int) -> Tensors:
        """What goes into it for a batch."""
        if self.before == LAST:
            return batch(number)
        first = api.build(replace(self.assignment, before=LAST, after=self.before))
        with torch.inference_mode():
            return first.run(batch(number)).tensors

    def wanted(self, number: int) -> Tensors:
        """What the eager stage returns for a batch, in memory of its own."""
        with torch.inference_mode():
            found = api.build(self.assignment).run(self.inputs(number)).tensors
        return tuple(each.clone() for each in found)
