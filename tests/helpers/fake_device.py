"""A device that works by itself, at the latest time that is allowed and in the worst order.

It does nothing until somebody waits for an event. Of several streams that could then go on, the one
that a test prefers does. What it is to write holds garbage until it is written, and what it is to
read is read no earlier: a host that reads or overwrites too early shows in the values. Each copy
and each run takes a fixed time of the device's own clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

import torch

from paretopipe_worker.cuts import TensorSpec
from paretopipe_worker.execution.api import Assignment, Tensors
from paretopipe_worker.execution.eager import stage_of

COPY_NS, RUN_NS = 3_000, 70_000
"""How long a copy of one tensor and a run of a stage take."""


@dataclass
class FakeEvent:
    """A moment in a stream."""

    device: FakeDevice
    at_ns: int | None = None
    """When it came; None while it has not."""

    def wait(self) -> None:
        """Have the device work until it comes."""
        while self.at_ns is None:
            self.device.step()

    def since_ns(self, earlier: Self) -> int:
        """Time from another event."""
        assert self.at_ns is not None and earlier.at_ns is not None, "read before it came"
        return self.at_ns - earlier.at_ns


@dataclass
class FakeStream:
    """What is still to be done, in order: each with the event that it waits for, if any."""

    todo: deque[tuple[Callable[[], None], FakeEvent | None]] = field(default_factory=deque)
    now_ns: int = 0

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Copy later."""
        spoil([target])

        def copied() -> None:
            target.copy_(source)
            self.now_ns += COPY_NS

        self.todo.append((copied, None))

    def record(self, event: FakeEvent) -> None:
        """Have the event come later."""
        event.at_ns = None

        def came() -> None:
            event.at_ns = self.now_ns

        self.todo.append((came, None))

    def wait(self, event: FakeEvent) -> None:
        """Wait, when it is this stream's turn."""

        def waited() -> None:
            assert event.at_ns is not None
            self.now_ns = max(self.now_ns, event.at_ns)

        self.todo.append((waited, event))


@dataclass
class FakeDevice:
    """See the top of this file; `last_first` prefers the stream that was made last."""

    last_first: bool
    streams: list[FakeStream] = field(default_factory=list)
    taken: int = 0
    """How often memory was taken."""

    def step(self) -> None:
        """Do one piece of work."""
        for stream in self.streams[:: -1 if self.last_first else 1]:
            if stream.todo and (stream.todo[0][1] is None or stream.todo[0][1].at_ns is not None):
                stream.todo.popleft()[0]()
                return
        raise AssertionError("the host waits for what was never asked of the device")

    def stream(self) -> FakeStream:
        """Make a stream."""
        self.streams.append(FakeStream())
        return self.streams[-1]

    def event(self) -> FakeEvent:
        """Make an event."""
        return FakeEvent(self)

    def host_memory(self, spec: TensorSpec) -> torch.Tensor:
        """Take memory of the host."""
        return self.memory(spec)

    def memory(self, spec: TensorSpec) -> torch.Tensor:
        """Take memory of the device."""
        self.taken += 1
        tensor = torch.empty(spec.shape, dtype=getattr(torch, spec.dtype))
        spoil([tensor])
        return tensor

    def program(self, assignment: Assignment, inputs: Tensors) -> Callable[[FakeStream], Tensors]:
        """Prepare to run a stage."""
        stage = stage_of(assignment.model, assignment.before, assignment.after)
        outputs = tuple(map(self.memory, assignment.outputs))

        def launch(stream: FakeStream) -> Tensors:
            spoil(outputs)

            def ran() -> None:
                for output, tensor in zip(outputs, stage(*inputs), strict=True):
                    output.copy_(tensor)
                stream.now_ns += RUN_NS

            stream.todo.append((ran, None))
            return outputs

        return launch


def spoil(tensors: Sequence[torch.Tensor]) -> None:
    """Fill tensors with garbage."""
    for tensor in tensors:
        tensor.fill_(float("nan") if tensor.is_floating_point() else 113)
