"""Run one stage on one batch and time it."""

from __future__ import annotations

import time
from typing import NamedTuple

import torch

from paretopipe_worker.partition import PartitionError, Stage


class Computed(NamedTuple):
    """The outputs of one stage for one batch, and when and how long it computed.

    `compute_ns` is wall time without stretching; `cpu_ns` the CPU time of the computing thread, so
    a gap between the two is a thread that had to wait for a core (with one thread per stage).
    """

    tensors: tuple[torch.Tensor, ...]
    start_ns: int
    computed_ns: int
    compute_ns: int
    cpu_ns: int


def compute(stage: Stage | None, inputs: tuple[torch.Tensor, ...], stretch: float) -> Computed:
    """Run `stage` on `inputs`, then wait until its time has been stretched by the factor.

    Without a stage the inputs are passed on: the rank has no part in this split.
    """
    cpu_ns = time.thread_time_ns()
    start_ns = time.perf_counter_ns()
    tensors: tuple[torch.Tensor, ...] = stage(*inputs) if stage else inputs
    computed_ns = time.perf_counter_ns()
    cpu_ns = time.thread_time_ns() - cpu_ns
    compute_ns = computed_ns - start_ns
    if stage and stretch > 1:
        # A slower device is busy for longer; waiting leaves the core to the other stages, which
        # run on devices of their own.
        wait_ns = start_ns + round(compute_ns * stretch) - computed_ns
        time.sleep(wait_ns / 1e9)
        computed_ns = time.perf_counter_ns()
    return Computed(tensors, start_ns, computed_ns, compute_ns, cpu_ns)


def failure(error: Exception) -> str:
    """Why the model could not be split or run, in one line: what code of its own raised.

    That there is not enough memory is among it, in torch's words of several lines.
    """
    first = str(error).strip().partition("\n")[0]
    if isinstance(error, PartitionError):
        return str(error)
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
