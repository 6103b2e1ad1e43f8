"""What each host is asked before a sweep, beside what it is: which ports, ways and links it needs.

With a plan these are those of its sessions. Without one, each host's way to the next of the
inventory stands for them.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from typing import Any, TypeAlias

from paretopipe_worker.plan import lanes
from paretopipe_worker.plan.fleet import Host, apart
from paretopipe_worker.plan.plan import Plan
from paretopipe_worker.plan.resume import link_of

Way: TypeAlias = tuple[Host, Host, int]
"""A host that connects to another one, and the port to which it does."""

_WAIT_S = 10.0
_STAGGER_S = 0.1
"""Seconds that hosts wait for one another, and for each host of the fleet in addition: Ansible
asks them one after the other."""


def questions(
    hosts: Sequence[Host], plan: Plan | None, asked: Collection[str], token: str
) -> dict[str, dict[str, Any]]:
    """What each host is asked, by host, as :mod:`paretopipe_worker.survey` takes it.

    Parameters
    ----------
    hosts
        The hosts of the inventory's group ``stages``, in order.
    asked
        Names of those that are asked; ways to others are left out.
    token
        What hosts must know to be answered by others.
    """
    groups = plan.groups if plan else ()
    ways = {
        way
        for group in groups
        for way in _of_group([lanes.hosts_of(plan, each) for each in group])  # type: ignore[arg-type]
    }
    if plan is None:
        ways = set(_around(hosts))
    ways = {way for way in ways if way[0].name in asked and way[1].name in asked}
    wait_s = _WAIT_S + _STAGGER_S * len(asked)
    return {
        host.name: {
            "ports": (ports := _ports(host, plan)),
            "links": _links(plan, host.name),
            "ways": _ways(host, ports, ways, token, wait_s),
        }
        for host in hosts
        if host.name in asked
    }


def _of_group(group: Sequence[Sequence[Host]]) -> Iterator[Way]:
    """The ways of sessions that are launched together, each with its hosts by rank."""
    for ring in group:
        source = ring[0]
        for near, far in itertools.pairwise([*ring, source]):
            # Some backends connect the other way round.
            for one, other in ((near, far), (far, near)):
                if one.name != other.name:
                    yield one, other, other.data_port
        for host in ring[1:]:
            yield host, source, source.control_port
    if len(group) > 1:
        first, *_ = group
        for ring in group:  # where sources meet
            if ring[0].name != first[-1].name:
                yield ring[0], first[-1], first[-1].control_port


def _around(hosts: Sequence[Host]) -> Iterator[Way]:
    """The ways of a ring through all hosts, as far as their addresses can reach one another."""
    for near, far in zip(hosts, [*hosts[1:], *hosts[:1]], strict=True):
        if not apart((near, far)):
            yield near, far, far.data_port
            yield far, near, near.control_port


def _ports(host: Host, plan: Plan | None) -> list[int]:
    """The ports that a host's stages take: two for each lane."""
    taking = [
        lanes.in_lane(host, session.lane)
        for session in (plan.sessions if plan else ())
        if host.name in session.placement
    ]
    if plan is None:
        taking = [host]
    return sorted({port for each in taking for port in (each.data_port, each.control_port)})


def _ways(
    host: Host, ports: Sequence[int], ways: Collection[Way], token: str, wait_s: float
) -> dict[str, Any] | None:
    """What the host finds out about its ways (see :mod:`paretopipe_worker.host.ways`)."""
    calls = {
        (far.name, far.data_address, port) for near, far, port in ways if near.name == host.name
    }
    callers = {f"{near.name} {port}" for near, far, port in ways if far.name == host.name}
    if not ports:
        return None
    return {
        "host": host.name,
        "address": host.data_address,
        "ports": list(ports),
        "calls": [
            {"peer": peer, "address": address, "port": port}
            for peer, address, port in sorted(calls)
        ],
        "callers": sorted(callers),
        "token": token,
        "wait_s": wait_s,
    }


def _links(plan: Plan | None, host: str) -> list[dict[str, Any]]:
    """The profiles of the links that a host must shape, with its own ways."""
    found: dict[str, dict[str, Any]] = {}
    for group in plan.groups if plan else ():
        if any(host in session.placement for session in group):
            assert plan is not None
            profile = link_of(plan, group)
            own = {**profile, "ways": profile["ways"][host]}
            if own["ways"]:
                found[repr(own)] = own
    return list(found.values())
