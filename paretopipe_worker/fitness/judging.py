"""All that is wrong with a fleet, as far as its hosts' answers and the plan tell."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from paretopipe_worker.fitness import machine, needs, network
from paretopipe_worker.fitness.answers import Answer
from paretopipe_worker.fitness.findings import Finding
from paretopipe_worker.plan import memory
from paretopipe_worker.plan.fleet import Host
from paretopipe_worker.plan.plan import Plan


@dataclass(frozen=True)
class Sweep:
    """What the hosts are to be fit for.

    Parameters
    ----------
    plan
        The plan, or None where there is none.
    run
        Name of the run; empty without one.
    package_bytes, plan_bytes
        Size of the worker package, unpacked, and of the plan.
    cache
        Where the controller keeps programs.
    """

    plan: Plan | None
    run: str
    package_bytes: int
    plan_bytes: int
    cache: Path

    def sent_bytes(self, host: str, refused: Collection[str]) -> int | None:
        """Bytes that a host is sent for the plan, without the points that are refused."""
        if self.plan is None:
            return None
        return self.plan_bytes + needs.sent_bytes(self.plan, host, self.cache, refused)


def judge(hosts: Sequence[Host], answers: Mapping[str, Answer], sweep: Sweep) -> Iterator[Finding]:
    """Find problems, and what is worth a note.

    Parameters
    ----------
    hosts
        All hosts of the inventory's group ``stages``.
    answers
        What is known of those that were asked, by name.
    """
    fleet = {host.name: host for host in hosts if host.name in answers}
    free = {
        name: answer.user.free_memory_bytes if answer.user else None
        for name, answer in answers.items()
    }
    refused = memory.refused(sweep.plan, free) if sweep.plan else {}
    for name, answer in answers.items():
        yield from machine.access(name, answer)
        if answer.root is not None:
            yield from network.sweeps(name, answer.root.sweeps, sweep.run)
        if answer.user is None:
            continue
        told = answer.user
        yield from machine.machine(name, told)
        yield from machine.worker(name, told)
        yield from machine.state(name, told, answer.given.governor)
        yield from network.clock(name, told, answer.sent_unix_ns, answer.received_unix_ns)
        yield from network.ports(fleet[name], answer, sweep.run)
        yield from needs.disk(name, told, sweep.package_bytes, sweep.sent_bytes(name, refused))
        yield from needs.devices(fleet[name], told)
        yield from needs.links(name, answer)
    yield from network.paths(hosts, answers)
    yield from needs.too_large(refused, fleet)
