"""Build what executes this rank's stage of a point, and stretch it where that was asked for."""

from __future__ import annotations

import torch

from paretopipe_worker.cuts import TensorSpec
from paretopipe_worker.execution import api as execution
from paretopipe_worker.execution.api import (
    Assignment,
    Computed,
    ExecutionError,
    Executor,
    Tensors,
)
from paretopipe_worker.host.timers import wait_until
from paretopipe_worker.model.program import PartitionError
from paretopipe_worker.model.usercode import told
from paretopipe_worker.plan import plan as plans
from paretopipe_worker.plan.plan import Point
from paretopipe_worker.session.context import Context


def built(context: Context, point: Point) -> Executor:
    """Build what executes this rank's stage of a point.

    Raises
    ------
    ExecutionError, PartitionError
        See :func:`paretopipe_worker.execution.api.build`.
    """
    before, after = point.ends(context.rank)
    table = context.plan.table(point.model, point.batch, point.dtype)
    leaves: tuple[TensorSpec, ...] = table.crossing(after) or table.output
    made = execution.build(
        Assignment(
            model=context.model(point),
            before=before,
            after=after,
            inputs=table.crossing(before),
            outputs=leaves,
            file=context.programs / plans.stage_name(table, before, after),
            runtime=point.runtime(context.rank),
            device=context.host.device,
            cuda_graphs=context.host.cuda_graphs,
        )
    )
    factor = context.host.device_emulated
    return Stretched(made, factor) if factor > 1 and before != after else made


class Stretched:
    """Has a stage take longer by a factor, so that one machine can act as a slower one.

    A slower device takes longer to compute, but not longer to wait while others have the core. So
    with one thread its CPU time is stretched; with several, only one of which reports its CPU time,
    or with a device that computes by itself, the time of the computation is.
    """

    def __init__(self, executor: Executor, factor: float) -> None:
        self._executor, self._factor = executor, factor
        self.begin, self.close = executor.begin, executor.close

    def run(self, inputs: Tensors) -> Computed:
        """Run the stage, then wait until its time has been stretched."""
        found = self._executor.run(inputs)
        own_ns = found.compute_ns
        if found.cpu_ns is not None and torch.get_num_threads() == 1:
            # Reading the clocks takes CPU time too, which is not the stage's.
            own_ns = min(found.cpu_ns, own_ns)
        due_ns = found.computed_ns + round((self._factor - 1) * own_ns)
        # Waiting leaves the core to the other stages, which run on devices of their own.
        computed_ns = wait_until(due_ns)
        return found._replace(computed_ns=computed_ns, overslept_ns=computed_ns - due_ns)


def failure(error: Exception) -> str:
    """Say in one line why the model could not be split or run, and what its own code raised."""
    return str(error) if isinstance(error, PartitionError | ExecutionError) else told(error)
