"""What hosts can do, as they tell it themselves, and the points for which that is too little."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import field
from typing import Any

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from paretopipe_worker.execution.runtimes import RUNTIMES, kind
from paretopipe_worker.plan import executing
from paretopipe_worker.plan import plan as plans
from paretopipe_worker.plan.fleet import Host
from paretopipe_worker.plan.plan import Plan, Point
from paretopipe_worker.plan.refusals import Refusal

_TOLERANT = ConfigDict(extra="ignore")


@dataclass(frozen=True, config=_TOLERANT)
class Installed:
    """A runtime on a host: its version and kinds of devices, or why it is not there."""

    version: str | None = None
    missing: str | None = None
    devices: tuple[str, ...] | None = None


@dataclass(frozen=True, config=_TOLERANT)
class Device:
    """A device of a host: the dtypes in which torch computes on it."""

    dtypes: tuple[str, ...]


@dataclass(frozen=True, config=_TOLERANT)
class Abilities:
    """What a host can do, as far as it was asked.

    `lacking` says by operators and by requirements of models why the host does not have them.
    """

    runtimes: Mapping[str, Installed] | None = None
    devices: Mapping[str, Device] | None = None
    lacking: Mapping[str, str] = field(default_factory=dict)


def refused(plan: Plan, found: Mapping[str, Abilities]) -> dict[str, Refusal]:
    """Points that cannot be measured as asked, by id, each with the first reason.

    Parameters
    ----------
    found
        What hosts can do, by name; what a host was not asked for it is taken to have.
    """
    reasons = ((point, next(_reasons(plan, point, found), None)) for point in plan.points)
    return {point.id: reason for point, reason in reasons if reason}


def needs(plan: Plan) -> dict[str, dict[str, Any]]:
    """What each host of a plan must have beside the worker's own packages, for the playbook.

    `operators` and `requirements` are those of its models, `packages` those of its runtimes;
    `asked` says whether it must be asked for its runtimes and devices.
    """
    wanted: dict[str, dict[str, dict[Any, None]]] = {}
    for point in plan.points:
        table = plan.table(point.model, point.batch, point.dtype)
        for name in _taking_part(point):
            own = wanted.setdefault(name, {key: {} for key in ("operators", "models", "runtimes")})
            own["operators"] |= dict.fromkeys(table.operators)
            own["models"][point.model] = None
        for rank in executing.stages(point):
            own = wanted[point.placement[rank]]
            own["runtimes"][point.runtime(rank), point.dtype] = None
    return {name: _needed(plan, plan.host(name), own) for name, own in wanted.items()}


def _taking_part(point: Point) -> list[str]:
    """The hosts that something of a point is computed on, or sent to."""
    return [point.placement[rank] for rank in point.active_ranks]


def _needed(plan: Plan, host: Host, own: Mapping[str, Collection[Any]]) -> dict[str, Any]:
    """What a host must have, by its operators, its models, and its runtimes with dtypes."""
    requirements = [plan.model(model).requirements for model in own["models"]]
    exporting = {name for name, _ in own["runtimes"] if RUNTIMES[name].exported}
    plain = all(
        not RUNTIMES[name].exported and dtype == "float32" for name, dtype in own["runtimes"]
    )
    return {
        "operators": sorted(own["operators"]),
        "requirements": sorted({each for some in requirements for each in some}),
        "packages": sorted(RUNTIMES[name].package for name in exporting),
        "asked": not plain or host.device != "cpu",
    }


def _reasons(plan: Plan, point: Point, found: Mapping[str, Abilities]) -> Iterator[Refusal]:
    """Everything that stands against a point."""
    table = plan.table(point.model, point.batch, point.dtype)
    for rank in executing.stages(point):
        if reason := executing.misfit(point, rank):
            yield Refusal(f"dtype {point.dtype}", reason)
    for rank in executing.in_files(point):
        name = plans.stage_name(table, *point.ends(rank))
        if reason := plan.unexported.get(name):
            yield Refusal(f"model {point.model}, {point.dtype}", reason)
    for name in _taking_part(point):
        lacking = found.get(name, Abilities()).lacking
        for each in (*plan.model(point.model).requirements, *table.operators):
            if each in lacking:
                yield Refusal(name, lacking[each])
    for rank in executing.stages(point):
        host = plan.host(point.placement[rank])
        yield from _of_stage(point, rank, host, found.get(host.name, Abilities()))


def _of_stage(point: Point, rank: int, host: Host, can: Abilities) -> Iterator[Refusal]:
    """What a host lacks for the stage of a rank."""
    runtime = point.runtime(rank)
    if can.devices is not None and host.device not in can.devices:
        yield Refusal(
            host.name, f"it has no device {host.device}; allowed: {', '.join(can.devices)}"
        )
    if can.runtimes is not None:
        there = [name for name, each in can.runtimes.items() if not each.missing]
        if runtime not in there:
            unknown = f"runtime {runtime} is not known there; allowed: {', '.join(there)}"
            why = can.runtimes.get(runtime, Installed()).missing
            yield Refusal(host.name, why or unknown)
        elif (kinds := can.runtimes[runtime].devices) and kind(host.device) not in kinds:
            yield Refusal(
                host.name,
                f"runtime {runtime} cannot use {host.device} there; allowed: {', '.join(kinds)}",
            )
    if can.devices is not None and not RUNTIMES[runtime].exported and host.device in can.devices:
        dtypes = can.devices[host.device].dtypes
        if point.dtype not in dtypes:
            yield Refusal(
                host.name,
                f"its {host.device} does not compute in {point.dtype}; allowed: "
                f"{', '.join(dtypes)}",
            )
