"""What executes the stages of points: what an experiment asks for, and which files that takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from paretopipe_worker.cuts import EAGER, CutTable
from paretopipe_worker.execution.runtimes import RUNTIMES
from paretopipe_worker.plan.experiment import INVENTORY, Experiment
from paretopipe_worker.plan.fleet import Host
from paretopipe_worker.plan.plan import Plan, PlanError, Point
from paretopipe_worker.usertext import listed, shown


def check(experiment: Experiment, fleet: Mapping[str, Host]) -> None:
    """Refuse an entry of `runtimes` that names a host which the inventory does not have.

    Raises
    ------
    PlanError
        Naming the entry and the hosts.
    """
    for number, entry in enumerate(experiment.runtimes):
        for host in entry if isinstance(entry, dict) else ():
            if host not in fleet:
                raise PlanError(
                    f"runtimes[{number}]: unknown host {shown(host)}; "
                    f"the inventory's group 'stages' has: {listed(tuple(fleet))}"
                )


def chosen(experiment: Experiment, stages: Sequence[Host]) -> tuple[tuple[str, ...], ...]:
    """The runtimes of a placement's hosts by rank, once for each choice that differs.

    Parameters
    ----------
    stages
        Hosts of the placement, by rank.

    Returns
    -------
    As a :class:`~paretopipe_worker.plan.plan.Point` has them: empty where all are `eager`.
    """
    found: dict[tuple[str, ...], None] = {}
    for entry in experiment.runtimes:
        own = entry if isinstance(entry, dict) else {}
        names = tuple(
            own.get(host.name, host.runtime) if own or entry == INVENTORY else str(entry)
            for host in stages
        )
        found[() if set(names) == {EAGER} else names] = None
    return tuple(found)


def asked_files(plan: Plan, table: CutTable) -> Iterator[tuple[str, str]]:
    """The stages of a table that points execute from files: the names of the cuts around each.

    Points that no runtime can execute as asked do not count.
    """
    found: dict[tuple[str, str], None] = {}
    for point in plan.points:
        if (point.model, point.batch, point.dtype) != (table.model, table.batch, table.dtype):
            continue
        if any(misfit(point, rank) for rank, *_ in stages(point, table)):
            continue
        found |= {(before, after): None for _, before, after in in_files(point, table)}
    yield from found


def misfit(point: Point, rank: int) -> str | None:
    """Why no host can compute a rank's stage with its runtime in the point's dtype, or None."""
    name = runtime(point, rank)
    if point.dtype in RUNTIMES[name].dtypes:
        return None
    able = [other for other, each in RUNTIMES.items() if point.dtype in each.dtypes]
    allowed = [f"runtime {' or '.join(able)} for every stage"] if able else []
    allowed += [f"dtype {' or '.join(RUNTIMES[name].dtypes)}"]
    return f"runtime {name} does not compute in it; allowed: {', '.join(allowed)}"


def runtime(point: Point, rank: int) -> str:
    """What executes the stage of a rank."""
    return point.runtimes[rank] if point.runtimes else EAGER


def stages(point: Point, table: CutTable) -> Iterator[tuple[int, str, str]]:
    """The stages of a point that have operations: the rank, and the names of the cuts around it.

    Parameters
    ----------
    table
        The point's.
    """
    for rank in range(len(point.ring)):
        if parts := table.parts(point.split, rank):
            yield rank, table.order[parts.start], table.order[parts.stop]


def in_files(point: Point, table: CutTable) -> Iterator[tuple[int, str, str]]:
    """Those of the stages that are executed from files which the controller exported."""
    for rank, before, after in stages(point, table):
        if runtime(point, rank) != EAGER:
            yield rank, before, after
