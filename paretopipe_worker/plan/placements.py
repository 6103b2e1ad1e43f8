"""The placements that an experiment asks for: which hosts make up a pipeline, by rank."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from paretopipe_worker.plan.experiment import Experiment
from paretopipe_worker.plan.fleet import Host, apart
from paretopipe_worker.plan.labels import placement_label, readable
from paretopipe_worker.plan.plan import PlanError
from paretopipe_worker.usertext import listed

_MOST_PLACEMENTS = 2_000
"""Most placements that `all` may stand for: those of six hosts."""


def placements_of(experiment: Experiment, fleet: Mapping[str, Host]) -> tuple[tuple[str, ...], ...]:
    """The placements to measure; all their hosts are known and can reach one another.

    Parameters
    ----------
    fleet
        The hosts of the inventory's group ``stages`` by name, in order.

    Raises
    ------
    PlanError
        When a host is unknown or cannot reach the others, `all` stands for too many placements, or
        `pairs` leaves a host without another.
    """
    asked = experiment.placements
    if asked is None or asked == "all":
        if reason := apart(list(fleet.values())):
            raise PlanError(f"inventory: {reason}")
        return _every_placement(tuple(fleet)) if asked else (tuple(fleet),)
    placements = _pairs(tuple(fleet)) if asked == "pairs" else asked
    for number, placement in enumerate(placements):
        for rank, name in enumerate(placement):
            if name not in fleet:
                raise PlanError(
                    f"placements[{number}][{rank}]: unknown host '{name}'; "
                    f"the inventory's group 'stages' has: {listed(tuple(fleet))}"
                )
        if reason := apart([fleet[name] for name in placement]):
            raise PlanError(f"placements[{number}]: {reason}")
    return placements


def _pairs(hosts: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The first and the second host, the third and the fourth, and so on."""
    if len(hosts) % 2:
        raise PlanError(
            f"placements: 'pairs' of {len(hosts)} hosts leave {hosts[-1]} without another; "
            "allowed: an even number of hosts in group 'stages', or a list of placements"
        )
    return tuple(zip(hosts[::2], hosts[1::2], strict=True))


def _every_placement(hosts: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """All sequences of at least two different hosts."""
    sizes = range(2, len(hosts) + 1)
    if (number := sum(math.perm(len(hosts), size) for size in sizes)) > _MOST_PLACEMENTS:
        raise PlanError(
            f"placements: 'all' of {len(hosts)} hosts are {number:,} placements; allowed: at most "
            f"{_MOST_PLACEMENTS:,}, or a list of placements"
        )
    return tuple(itertools.chain(*(itertools.permutations(hosts, size) for size in sizes)))


def check_links(experiment: Experiment, placements: Sequence[tuple[str, ...]]) -> None:
    """Refuse profiles that do not fit the pipelines they are for.

    Raises
    ------
    PlanError
        Naming the profile and the placement.
    """
    for number, link in enumerate(experiment.links):
        for placement in {len(placement): placement for placement in placements}.values():
            if reason := link.misfit(len(placement)):
                raise PlanError(
                    f"links[{number}].{reason} (placement {readable(placement_label(placement))})"
                )


def check_busy(experiment: Experiment, hosts: Sequence[Host]) -> None:
    """Refuse to measure busy hosts where no host has a load."""
    if any(experiment.busy) and not any(host.busy for host in hosts):
        raise PlanError(
            "busy: no host of the inventory's group 'stages' has the variable 'busy'; allowed: "
            "false, or busy: {cores: N, memory_mb: N} at a host of the inventory"
        )
