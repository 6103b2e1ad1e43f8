"""Stages that torch executes on an NVIDIA GPU. Not yet run on hardware."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Self

import torch

from paretopipe_worker.cuts import TensorSpec
from paretopipe_worker.execution.api import Assignment, ExecutionError, Tensors
from paretopipe_worker.execution.eager import stage_of
from paretopipe_worker.execution.staged import Staged, tried
from paretopipe_worker.model.flat import Stage
from paretopipe_worker.model.partition import Partitioned
from paretopipe_worker.model.program import Program, Ref, Word, mapped

_CAPTURE_WARMUP = 3
"""Runs before a graph is captured, in which libraries choose kernels and take their memory."""


class CudaEvent:
    """An event of CUDA's, see :class:`paretopipe_worker.execution.staged.Event`."""

    def __init__(self) -> None:
        self.own = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        """Return once it has come; other threads of the process run meanwhile."""
        self.own.synchronize()

    def since_ns(self, earlier: Self) -> int:
        """Nanoseconds from another event."""
        milliseconds: float = earlier.own.elapsed_time(self.own)
        return round(milliseconds * 1e6)


class CudaStream:
    """A stream of CUDA's, see :class:`paretopipe_worker.execution.staged.Stream`."""

    def __init__(self, device: torch.device) -> None:
        self.own = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Copy a tensor."""
        with torch.cuda.stream(self.own):
            target.copy_(source, non_blocking=True)

    def record(self, event: CudaEvent) -> None:
        """Have the event come when all work so far is done."""
        event.own.record(self.own)

    def wait(self, event: CudaEvent) -> None:
        """Do nothing more until another stream's event has come."""
        self.own.wait_event(event.own)


class Cuda:
    """A GPU, see :class:`paretopipe_worker.execution.staged.Device`.

    Parameters
    ----------
    name
        ``cuda:N``.
    graphs
        Whether to capture a stage as one CUDA graph: shapes are fixed, and starting a graph takes
        less of the CPU than starting its kernels.

    Raises
    ------
    ExecutionError
        When it is not here.
    """

    def __init__(self, name: str, *, graphs: bool = False) -> None:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        here = ["cpu", *(f"cuda:{number}" for number in range(count))]
        if name not in here:
            raise ExecutionError(
                f"device '{name}' is not here: torch {torch.__version__} finds {count} GPUs; "
                f"allowed: {', '.join(here)}"
            )
        self._device, self._graphs = torch.device(name), graphs

    def stream(self) -> CudaStream:
        """Make a stream."""
        return CudaStream(self._device)

    def event(self) -> CudaEvent:
        """Make an event."""
        return CudaEvent()

    def host_memory(self, spec: TensorSpec) -> torch.Tensor:
        """Take pinned memory."""
        return torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype)).pin_memory()

    def memory(self, spec: TensorSpec) -> torch.Tensor:
        """Take memory of the GPU."""
        dtype: torch.dtype = getattr(torch, spec.dtype)
        return torch.zeros(spec.shape, dtype=dtype, device=self._device)

    def program(self, assignment: Assignment, inputs: Tensors) -> Callable[[CudaStream], Tensors]:
        """Bring a stage's tensors to the GPU and prepare to run it."""
        before, after = assignment.before, assignment.after
        held = assignment.model.held_between(before, after)
        model = moved(assignment.model, held, self._device)
        stage = stage_of(model, before, after)
        # What was brought and computed so far was in this thread's stream, which others pass by.
        torch.cuda.synchronize(self._device)
        return self._captured(stage, inputs) if self._graphs else _launching(stage, inputs)

    def _captured(self, stage: Stage, inputs: Tensors) -> Callable[[CudaStream], Tensors]:
        """Capture a stage as a graph."""
        aside = self.stream()
        launch = _launching(stage, inputs)
        for _ in range(_CAPTURE_WARMUP):
            launch(aside)
        torch.cuda.synchronize(self._device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=aside.own):
            outputs = stage(*inputs)
        torch.cuda.synchronize(self._device)

        def replay(stream: CudaStream) -> Tensors:
            with torch.cuda.stream(stream.own):
                graph.replay()
            return outputs

        return replay


def _launching(stage: Stage, inputs: Tensors) -> Callable[[CudaStream], Tensors]:
    """Start a stage kernel by kernel."""

    def launch(stream: CudaStream) -> Tensors:
        with torch.cuda.stream(stream.own):
            return stage(*inputs)

    return launch


def moved(model: Partitioned, held: tuple[str, ...], device: torch.device) -> Partitioned:
    """Bring tensors of a program to a device, and have the program make its own ones there.

    Parameters
    ----------
    held
        Names of the tensors to bring; the others are left out.
    """

    def there(argument: Ref | Word) -> Ref | Word:
        on_cpu = isinstance(argument, Word) and argument == Word("device", "cpu")
        return Word("device", str(device)) if on_cpu else argument

    program: Program = replace(
        model.program,
        operations=tuple(
            replace(each, args=mapped(each.args, there), kwargs=_mapped(each.kwargs, there))
            for each in model.program.operations
        ),
    )
    return Partitioned(program, {name: model.tensors[name].to(device) for name in held})


def _mapped(arguments: Mapping[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """Apply a change to the references and words of named arguments."""
    return {name: mapped(value, change) for name, value in arguments.items()}


def build(assignment: Assignment) -> Staged[CudaStream, CudaEvent]:
    """Build a stage, see :class:`paretopipe_worker.execution.api.Build`."""
    device = Cuda(assignment.device, graphs=assignment.cuda_graphs)
    with torch.inference_mode():
        return tried(Staged(device, assignment), assignment)
