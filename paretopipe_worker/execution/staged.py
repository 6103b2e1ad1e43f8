"""Stages on a device that works by itself, beside the CPU, on memory of its own.

What is asked of such a device is done later, in the order of each of its streams. This module says
in which order that is, and when it may be relied on, over the small interface :class:`Device`.
:mod:`paretopipe_worker.execution.cuda` has the one of a GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, Self, TypeVar

import torch

from paretopipe_worker.cuts import TensorSpec
from paretopipe_worker.execution.api import Assignment, Computed, Tensors, zeros

EventT = TypeVar("EventT", bound="Event")
_EventGiven = TypeVar("_EventGiven", bound="Event", contravariant=True)
_EventMade = TypeVar("_EventMade", bound="Event", covariant=True)
StreamT = TypeVar("StreamT", bound="Stream[Any]")


class Event(Protocol):
    """A moment in a stream: that at which all that was asked of it before has been done."""

    def wait(self) -> None:
        """Return once it has come."""

    def since_ns(self, earlier: Self) -> int:
        """Nanoseconds from another event, both of which have come, on the device's clock."""


class Stream(Protocol[_EventGiven]):
    """Work that a device does in order; every call returns before it is done."""

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Copy a tensor between the host's and the device's memory."""

    def record(self, event: _EventGiven) -> None:
        """Have the event come when all work so far is done."""

    def wait(self, event: _EventGiven) -> None:
        """Do nothing more until another stream's event has come."""


class Device(Protocol[StreamT, _EventMade]):
    """Something that computes by itself."""

    def stream(self) -> StreamT:
        """Make a stream."""

    def event(self) -> _EventMade:
        """Make an event, which may be recorded time after time."""

    def host_memory(self, spec: TensorSpec) -> torch.Tensor:
        """Take memory of the host that copies can read and write while the host goes on."""

    def memory(self, spec: TensorSpec) -> torch.Tensor:
        """Take memory of the device."""

    def program(self, assignment: Assignment, inputs: Tensors) -> Callable[[StreamT], Tensors]:
        """Prepare to run a stage on these tensors in the device's memory, time after time.

        Returns
        -------
        A function that starts it in a stream; what it returns is valid once the stream has done it.
        It must be kept until then.
        """


class Staged(Generic[StreamT, EventT]):
    """Runs a stage on a device: copies in, computes and copies out, told apart by its own clock.

    Copies have a stream of their own. The host waits once for each batch, when its output must
    leave. Once a leg has begun no memory is taken, but what a program takes for itself.

    Parameters
    ----------
    device
        Where to run it.
    assignment
        The stage.
    """

    def __init__(self, device: Device[StreamT, EventT], assignment: Assignment) -> None:
        self._device, self._outputs = device, assignment.outputs
        self._copies, self._computing = device.stream(), device.stream()
        self._events = [device.event() for _ in range(6)]
        self._staging = tuple(map(device.host_memory, assignment.inputs))
        self._taken = tuple(map(device.memory, assignment.inputs))
        self._program: Callable[[StreamT], Tensors] = device.program(assignment, self._taken)
        self._sets: list[Tensors] = []
        self._next = 0

    def begin(self, window: int) -> None:
        """Take memory for the outputs of a window, and one more that may still be read."""
        while len(self._sets) < window + 1:
            self._sets.append(tuple(map(self._device.host_memory, self._outputs)))
        del self._sets[window + 1 :]
        self._next = 0

    def run(self, inputs: Tensors) -> Computed:
        """Run the stage, see :class:`paretopipe_worker.execution.api.Executor`."""
        arriving, arrived, begun, done, leaving, left = self._events
        copies, computing = self._copies, self._computing
        outputs = self._sets[self._next]
        self._next = (self._next + 1) % len(self._sets)
        start_ns = time.perf_counter_ns()
        _copy(self._staging, inputs)
        staged_ns = time.perf_counter_ns()
        copies.record(arriving)
        for target, source in zip(self._taken, self._staging, strict=True):
            copies.copy(target, source)
        copies.record(arrived)
        computing.wait(arrived)
        computing.record(begun)
        results = self._program(computing)
        computing.record(done)
        copies.wait(done)
        copies.record(leaving)
        for target, source in zip(outputs, results, strict=True):
            copies.copy(target, source)
        copies.record(left)
        left.wait()
        return Computed(
            outputs,
            start_ns,
            computed_ns=time.perf_counter_ns(),
            compute_ns=done.since_ns(begun),
            cpu_ns=None,
            copy_in_ns=staged_ns - start_ns + arrived.since_ns(arriving),
            copy_out_ns=left.since_ns(leaving),
        )

    def close(self) -> None:
        """Give back all memory, and the program."""
        self._sets, self._staging, self._taken = [], (), ()
        self._program = lambda stream: ()


def tried(made: Staged[StreamT, EventT], assignment: Assignment) -> Staged[StreamT, EventT]:
    """Run a stage once, so that what is wrong with it shows before anything crosses."""
    made.begin(1)
    made.run(zeros(assignment.inputs))
    return made


def _copy(targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
    """Copy tensors of the host."""
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)
