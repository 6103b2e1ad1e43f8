"""A fleet that is reached by SSH, and the checkout from which it is used by the public commands."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.helpers.machines import Host, Kind, Task
from tests.helpers.sshd import PAIR, Fleet, fleet
from tests.helpers.sweeps import Checkout, Done, Running, checkout

LAB = "inventory/lab"
ANSIBLE = ".venv/bin/ansible-playbook"


@dataclass(frozen=True)
class Lab:
    """A fleet, and the checkout from which it is used."""

    fleet: Fleet
    checkout: Checkout

    @property
    def hosts(self) -> tuple[Host, ...]:
        """The hosts in the order of the inventory."""
        return self.fleet.hosts

    def start(self, *command: str | Path) -> Running:
        """Start a command of the README from the controller's place in the network."""
        with self.fleet.controller.entered():
            return self.checkout.start(*command, "-i", LAB)

    def start_sweep(self, experiment: str, *arguments: str, run: str = "run") -> Running:
        """Start a sweep of an experiment of this text."""
        path = self.checkout.write("experiments/of-the-test.yml", experiment)
        what = ("-e", f"experiment={path}", "-e", f"run={run}", *arguments)
        return self.start(ANSIBLE, "sweep.yml", *what)

    def run(self, playbook: str, *arguments: str) -> Done:
        """Run a playbook to its end."""
        return self.start(ANSIBLE, playbook, *arguments).wait()

    def play(self, playbook: str, *arguments: str) -> Done:
        """Run a playbook to its end, which must be a good one."""
        return self.run(playbook, *arguments).succeeded()

    def changed(self, done: Done) -> dict[str, int]:
        """How many changes a playbook made on each host, by its recap."""
        found = re.findall(r"^(\S+) +: ok=\d+ +changed=(\d+)", done.output, flags=re.MULTILINE)
        return {name: int(count) for name, count in found if name != "localhost"}

    def everywhere(self, count: int) -> dict[str, int]:
        """`count` for each host, as `changed` says it."""
        return {host.name: count for host in self.hosts}


@contextmanager
def made(folder: Path, kinds: Mapping[str, Kind] = PAIR, **variables: Any) -> Iterator[Lab]:
    """Bring up a fleet, and make a checkout with its inventory."""
    copy = checkout(folder / "the user's checkout")
    with fleet(kinds=kinds, threads=1, netem_emulate=True, **variables) as up:
        copy.write(f"{LAB}/hosts.yml", up.inventory)
        copy.environment.update(up.environment)
        yield Lab(up, copy)


def stages(host: Host) -> list[Task]:
    """Stage processes of a host."""
    return [task for task in host.tasks if "-m paretopipe_worker stage " in task.command]
