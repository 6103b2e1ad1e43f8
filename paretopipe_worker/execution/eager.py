"""Stages that torch executes on the CPU, operator by operator, with the threads it was given."""

from __future__ import annotations

import time

import torch

from paretopipe_worker.execution.api import Assignment, Computed, Tensors
from paretopipe_worker.model.flat import Stage
from paretopipe_worker.model.partition import Partitioned, split


class Eager:
    """Runs a stage's function. Torch allocates every output anew."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def begin(self, window: int) -> None:
        """Nothing to do: no output uses the memory of another that is alive."""

    def run(self, inputs: Tensors) -> Computed:
        """Run the stage, see :class:`paretopipe_worker.execution.api.Executor`."""
        cpu_ns = time.thread_time_ns()
        start_ns = time.perf_counter_ns()
        tensors = self._stage(*inputs)
        computed_ns = time.perf_counter_ns()
        cpu_ns = time.thread_time_ns() - cpu_ns
        return Computed(tensors, start_ns, computed_ns, computed_ns - start_ns, cpu_ns)

    def close(self) -> None:
        """Nothing to do."""


def stage_of(model: Partitioned, before: str, after: str) -> Stage:
    """Build the function of a stage that has operations.

    Raises
    ------
    PartitionError
        When the names are no cuts of the model in this order, or its tensors are not all here.
    """
    stage = split(model, (before, after), only=1)[1]
    assert stage is not None
    return stage


def here() -> tuple[str, list[str]]:
    """Version of torch, and the kinds of device that it can use here."""
    return torch.__version__, ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def build(assignment: Assignment) -> Eager:
    """Build a stage, see :class:`paretopipe_worker.execution.api.Build`."""
    return Eager(stage_of(assignment.model, assignment.before, assignment.after))
