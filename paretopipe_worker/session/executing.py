"""Build what executes this rank's stage of a point, and stretch it where that was asked for."""

from __future__ import annotations

from paretopipe_worker.cuts import TensorSpec
from paretopipe_worker.execution import api as execution
from paretopipe_worker.execution.api import (
    Assignment,
    Computed,
    ExecutionError,
    Executor,
    Tensors,
)
from paretopipe_worker.model.program import PartitionError
from paretopipe_worker.model.usercode import told
from paretopipe_worker.plan import plan as plans
from paretopipe_worker.plan.plan import Point
from paretopipe_worker.session.context import Context
from paretopipe_worker.session.stretching import stretch
from paretopipe_worker.wire.api import WireError


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
    """Has a stage take longer by a factor, see :mod:`paretopipe_worker.session.stretching`."""

    def __init__(self, executor: Executor, factor: float) -> None:
        self._executor, self._factor = executor, factor
        self.begin, self.close = executor.begin, executor.close

    def run(self, inputs: Tensors) -> Computed:
        """Run the stage, then wait until its time has been stretched."""
        found = self._executor.run(inputs)
        times = found.computed_ns, self._factor, found.compute_ns, found.cpu_ns
        computed_ns, overslept_ns = stretch(*times)
        return found._replace(computed_ns=computed_ns, overslept_ns=overslept_ns)


def failure(error: Exception) -> str:
    """Say in one line why a stage could not be built or run, and what its own code raised."""
    expected = isinstance(error, PartitionError | ExecutionError | WireError)
    return str(error) if expected else told(error)
