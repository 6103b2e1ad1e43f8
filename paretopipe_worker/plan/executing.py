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
        if any(misfit(point, rank) for rank in stages(point)):
            continue
        found |= {point.ends(rank): None for rank in in_files(point)}
    yield from found


def misfit(point: Point, rank: int) -> str | None:
    """Why no host can compute a rank's stage with its runtime in the point's dtype, or None."""
    name = point.runtime(rank)
    if point.dtype in RUNTIMES[name].dtypes:
        return None
    able = [other for other, each in RUNTIMES.items() if point.dtype in each.dtypes]
    allowed = [f"runtime {' or '.join(able)} for every stage"] if able else []
    allowed += [f"dtype {' or '.join(RUNTIMES[name].dtypes)}"]
    return f"runtime {name} does not compute in it; allowed: {', '.join(allowed)}"


def stages(point: Point) -> Iterator[int]:
    """The ranks of a point's session whose stages have operations."""
    yield from (rank for rank in range(len(point.ring)) if len(set(point.ends(rank))) > 1)


def in_files(point: Point) -> Iterator[int]:
    """Those of them whose stages are executed from files which the controller exported."""
    yield from (rank for rank in stages(point) if RUNTIMES[point.runtime(rank)].exported)
