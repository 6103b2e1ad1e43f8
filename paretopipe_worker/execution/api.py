"""How a stage is executed: the interface that every runtime implements on every device.

A runtime is a module with a function ``build``, which follows :class:`Build` and returns an
:class:`Executor`. An entry in `paretopipe_worker.execution.runtimes` gives it the name that specs
use. A session uses an executor in this order::

    executor = build(assignment)
    for each leg:
        executor.begin(window)
        executor.run(inputs)        for each batch
    executor.close()
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import torch

from paretopipe_worker.cuts import EAGER, TensorSpec
from paretopipe_worker.execution.runtimes import CPU, RUNTIMES, kind
from paretopipe_worker.model.partition import Partitioned

Tensors = tuple[torch.Tensor, ...]


class ExecutionError(RuntimeError):
    """A stage cannot be built or run; the text says what is missing and what is allowed."""


@dataclass(frozen=True)
class Assignment:
    """A stage of a model, and what is to execute it.

    Attributes
    ----------
    model
        The program, with at least the tensors that the runtime needs of it.
    before, after
        Names of the cuts, or endpoints, between which the stage lies; it is empty where they are
        the same.
    inputs, outputs
        Shapes and dtypes of the tensors that go in and come out, in order.
    file
        Where the stage lies as the controller exported it, for a runtime that needs that.
    runtime, device
        A name in `paretopipe_worker.execution.runtimes`, and ``cpu`` or ``cuda:N``.
    cuda_graphs
        Whether torch starts a stage on a GPU as one CUDA graph.
    """

    model: Partitioned
    before: str
    after: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    file: Path
    runtime: str = EAGER
    device: str = CPU
    cuda_graphs: bool = False


class Computed(NamedTuple):
    """The outputs of one stage for one batch, and when and how long it computed.

    `start_ns` and `computed_ns` bound all of it. `compute_ns` is the time of the computation alone,
    without stretching and without the copies to and from a device, whose times are `copy_in_ns` and
    `copy_out_ns`; these are None where nothing is copied or the runtime does not tell.
    `cpu_ns` is the CPU time of the computing thread; with one thread per stage, what it is shorter
    than `compute_ns` is how long the thread waited for a core. It is None where a device computes.
    `overslept_ns` says how late stretching ended; None where nothing was stretched.
    """

    tensors: Tensors
    start_ns: int
    computed_ns: int
    compute_ns: int
    cpu_ns: int | None
    overslept_ns: int | None = None
    copy_in_ns: int | None = None
    copy_out_ns: int | None = None

    @property
    def asked_ns(self) -> int:
        """How long the computation should have taken, stretching included."""
        return self.computed_ns - self.start_ns - (self.overslept_ns or 0)


class Executor(Protocol):
    """Executes one stage. One thread at a time uses it."""

    def begin(self, window: int) -> None:
        """Get ready for a leg, in which at most `window` batches are in flight in the whole ring.

        No output of an earlier leg is read any more.
        """

    def run(self, inputs: Tensors) -> Computed:
        """Run the stage.

        Parameters
        ----------
        inputs
            As the assignment describes them, contiguous and on the CPU. They are only read, and
            not after this call, since what a transport receives next may overwrite them. Outputs
            may share their memory, as those of an operation that returns what it is given do.

        Returns
        -------
        Computed
            Its tensors are on the CPU and hold their values. They stay valid while the outputs of
            the next `window` calls are made; the call after those may overwrite them.

        Raises
        ------
        Exception
            Whatever the model or the runtime raises.
        """

    def close(self) -> None:
        """Give back memory and devices; further calls do nothing."""


class Build(Protocol):
    """The function ``build`` of a runtime's module."""

    def __call__(self, assignment: Assignment) -> Executor:
        """Build the executor of a stage that has operations.

        A stage that was not tried out before, as those of torch are on the source, is run once
        here: what is wrong with it then shows before anything crosses.

        Raises
        ------
        ExecutionError, PartitionError
            When the device, the runtime or a file is missing, or the stage cannot be executed.
        """


def build(assignment: Assignment) -> Executor:
    """Build what executes a stage; a stage without operations passes on what it is given.

    Raises
    ------
    ExecutionError, PartitionError
        As :class:`Build`; also when there is no such runtime, or it does not know the device.
    """
    if assignment.before == assignment.after:
        return Passing()
    runtime, device = assignment.runtime, assignment.device
    if runtime not in RUNTIMES:
        raise ExecutionError(f"runtime '{runtime}' is unknown; allowed are: {', '.join(RUNTIMES)}")
    modules = RUNTIMES[runtime].modules
    if kind(device) not in modules:
        raise ExecutionError(
            f"runtime '{runtime}' knows no device '{device}'; allowed are: {', '.join(modules)}"
        )
    made: Build = importlib.import_module(modules[kind(device)]).build
    return made(assignment)


class Passing:
    """A stage without operations: it passes on what it is given."""

    def begin(self, window: int) -> None:
        """Nothing to do."""

    def run(self, inputs: Tensors) -> Computed:
        """Return what was given."""
        start_ns = time.perf_counter_ns()
        computed_ns = time.perf_counter_ns()
        return Computed(inputs, start_ns, computed_ns, computed_ns - start_ns, 0)

    def close(self) -> None:
        """Nothing to do."""


def zeros(specs: Sequence[TensorSpec]) -> Tensors:
    """Inputs with which a stage can be tried out."""
    return tuple(torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in specs)
