"""Several sources that share the host of one sink: a lane for each, and what lanes have in common.

Lane 0 is a placement of the experiment. The source of every further lane is the next host of the
inventory that the placement leaves out; its sink is on the same host. Each lane is a session. The
sessions of all lanes are a group: they are launched together, walk alike points in the same order,
and a point counts only where all lanes measured it in the same attempt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias, TypeVar

from paretopipe_worker.plan.experiment import Experiment
from paretopipe_worker.plan.fleet import MOST_PORT, Host, apart
from paretopipe_worker.plan.labels import placement_label, readable
from paretopipe_worker.plan.plan import Plan, PlanError, Session
from paretopipe_worker.usertext import listed

Lanes: TypeAlias = tuple[tuple[str, ...], ...]
"""The placements of a group's lanes."""

_PORTS = 2
"""Ports of each lane on a host: for data, and for control."""

Refused = TypeVar("Refused")


def planned(
    experiment: Experiment, fleet: Mapping[str, Host], placements: Sequence[tuple[str, ...]]
) -> dict[tuple[tuple[str, ...], int], Lanes]:
    """The lanes of each placement, by the placement and the number of sources.

    Parameters
    ----------
    fleet
        The hosts of the inventory's group ``stages`` by name, in order.

    Raises
    ------
    PlanError
        When there are too few hosts or ports, or the experiment asks for what several sources
        cannot have.
    """
    if (most := max(experiment.sources)) > 1:
        _check(experiment, most)
    found = {}
    for sources in experiment.sources:
        taken: dict[tuple[str, ...], tuple[str, ...]] = {}
        for placement in placements:
            lanes = _of(placement, sources, fleet) if sources > 1 else (placement,)
            for lane in lanes:
                if (other := taken.setdefault(lane, placement)) != placement:
                    raise PlanError(
                        f"sources: with {sources}, {_said(lane)} is a lane both of placement "
                        f"{_said(other)} and of {_said(placement)}; allowed: placements that share "
                        "no lane, as one for each sink"
                    )
            found[placement, sources] = lanes
    return found


def in_lane(host: Host, lane: int) -> Host:
    """The host as a lane sees it, whose ports come after those of the lanes before."""
    return replace(host, data_port=host.data_port + _PORTS * lane)


def hosts_of(plan: Plan, session: Session) -> list[Host]:
    """The hosts of a session by rank, with the ports that they have in its lane."""
    return [in_lane(plan.host(name), session.lane) for name in session.placement]


def together(plan: Plan, refusals: Mapping[str, Refused]) -> dict[str, Refused]:
    """Points that are not measured, by id, with those that are measured only together with them.

    All lanes must walk the same points: what is refused in one is refused in all.
    """
    found = dict(refusals)
    for group in plan.groups:
        for points in zip(*(lane.points for lane in group), strict=True):
            refused = next((refusals[point] for point in points if point in refusals), None)
            if refused is not None:
                found |= {point: found.get(point, refused) for point in points}
    return found


def _check(experiment: Experiment, most: int) -> None:
    """Refuse what lanes cannot do in step."""
    if experiment.phases.load:
        raise PlanError(
            f"phases.load: with {most} sources no loads are offered, since each source has a "
            "knee of its own; allowed: sources: [1], or no load"
        )
    for number, link in enumerate(experiment.links):
        if link.timetable:
            raise PlanError(
                f"links[{number}]: {link.name} follows a trace, which {most} sources cannot begin "
                "anew together; allowed: sources: [1], or links without a trace"
            )


def _of(placement: tuple[str, ...], sources: int, fleet: Mapping[str, Host]) -> Lanes:
    """The lanes of a placement."""
    if len(placement) > 2:
        raise PlanError(
            f"sources: {sources} sources share a sink in placements of two hosts only; placement "
            f"{_said(placement)} has {len(placement)}"
        )
    _, sink = placement
    others = [name for name in fleet if name not in placement][: sources - 1]
    if len(others) < sources - 1:
        raise PlanError(
            f"sources: {sources} sources need {sources - 1} hosts beside those of placement "
            f"{_said(placement)}; the inventory's group 'stages' has: {listed(tuple(fleet))}"
        )
    lanes = (placement, *((source, sink) for source in others))
    hosts = [fleet[name] for name in (*placement, *others)]
    if reason := apart(hosts):
        raise PlanError(f"sources: {reason}")
    _check_ports(hosts, sources)
    return lanes


def _check_ports(hosts: Sequence[Host], sources: int) -> None:
    """Refuse ports that lanes would share, or that are out of bounds."""
    holders: dict[tuple[str, int], str] = {}
    for host in hosts:
        ports = range(host.data_port, host.data_port + _PORTS * sources)
        if ports[-_PORTS] > MOST_PORT:
            raise PlanError(
                f"inventory: {host.name}: data_port {host.data_port}: {sources} sources take "
                f"{len(ports)} ports from there; allowed: up to {MOST_PORT + _PORTS - len(ports)}"
            )
        for port in ports:
            other = holders.setdefault((host.data_address, port), host.name)
            if other != host.name:
                raise PlanError(
                    f"inventory: {host.name}: data_port {host.data_port}: {sources} sources take "
                    f"{len(ports)} ports from there, of which {other} at the same data_address has "
                    f"{port}; allowed: data_ports that are further apart"
                )


def _said(placement: Sequence[str]) -> str:
    """A placement for people."""
    return readable(placement_label(placement))
