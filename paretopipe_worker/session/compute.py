"""Run one stage on one batch and time it."""

from __future__ import annotations

import time
from typing import NamedTuple

import torch

from paretopipe_worker.host.timers import wait_until
from paretopipe_worker.model.flat import Stage
from paretopipe_worker.model.program import PartitionError
from paretopipe_worker.model.usercode import told


class Computed(NamedTuple):
    """The outputs of one stage for one batch, and when and how long it computed.

    `compute_ns` is the wall time without stretching, `cpu_ns` the CPU time of the computing thread;
    with one thread per stage, their difference is how long it waited for a core. `overslept_ns`
    says how late stretching ended; None where nothing was stretched.
    """

    tensors: tuple[torch.Tensor, ...]
    start_ns: int
    computed_ns: int
    compute_ns: int
    cpu_ns: int
    overslept_ns: int | None = None

    @property
    def asked_ns(self) -> int:
        """How long the computation should have taken, stretching included."""
        return self.computed_ns - self.start_ns - (self.overslept_ns or 0)


def compute(stage: Stage | None, inputs: tuple[torch.Tensor, ...], stretch: float) -> Computed:
    """Run `stage` on `inputs`, then wait until its time has been stretched by the factor.

    A slower device takes longer to compute, but not longer to wait while others have the core. So
    with one thread its CPU time is stretched; with several, only one of which reports its CPU time,
    the wall time is. A rank without a stage has no part in the split and passes the inputs on.
    """
    cpu_ns = time.thread_time_ns()
    start_ns = time.perf_counter_ns()
    tensors: tuple[torch.Tensor, ...] = stage(*inputs) if stage else inputs
    computed_ns = time.perf_counter_ns()
    cpu_ns = time.thread_time_ns() - cpu_ns
    compute_ns, overslept_ns = computed_ns - start_ns, None
    if stage and stretch > 1:
        # Reading the clocks takes CPU time too, which is not the stage's.
        own_ns = min(cpu_ns, compute_ns) if torch.get_num_threads() == 1 else compute_ns
        due_ns = computed_ns + round((stretch - 1) * own_ns)
        # Waiting leaves the core to the other stages, which run on devices of their own.
        computed_ns = wait_until(due_ns)
        overslept_ns = computed_ns - due_ns
    return Computed(tensors, start_ns, computed_ns, compute_ns, cpu_ns, overslept_ns)


def failure(error: Exception) -> str:
    """Say in one line why the model could not be split or run, and what its own code raised."""
    return str(error) if isinstance(error, PartitionError) else told(error)
