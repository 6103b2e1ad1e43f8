"""The hosts of a sweep into which faults are injected, and what can be seen of it there."""

from __future__ import annotations

import contextlib
import json
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paretopipe_worker.host.daemons import read_json
from tests.chaos.clocks import stepped
from tests.helpers import labs, real_labs
from tests.helpers.disks import small_disk
from tests.helpers.machines import Host
from tests.helpers.sshd import WORKER_HOME
from tests.helpers.sweeps import Checkout, Running
from tests.helpers.waiting import until

LEASE_S = 6
"""Seconds of a lease: what outlives a controller is waited for that long."""

SOON = ("-e", "session_poll_s=0.3", "-e", f"lease_s={LEASE_S}")

EXPERIMENT = """\
models: [paretopipe_worker.model.tiny:network]
links: {links}
backends: {backends}
replicates: {replicates}
splits: {{granularity: block, cuts: ["3"]}}
phases: {{min_items: 20, min_s: 0.1, max_s: 10, retries: 0}}
seed: 5
"""
"""Sessions of three points. To measure a path that is shaped takes twice as long as all of them."""

SESSIONS, MOST_REPLICATES = 2, 6
"""Sessions of each replicate, and replicates that a run has at most; it has at least 2."""

OPEN = {"links": ["none"], "backends": ["tcp", "gloo"]}
"""Links that nobody shapes."""

SHAPED = {
    "links": [{"name": "rate50", "rate_mbit": 50}, {"name": "far", "delay_ms": 1, "rate_mbit": 50}],
    "backends": ["tcp"],
}
"""Links that the kernel or the relay shapes."""

DISK_KIB = 2 << 20
"""Size, of which memory is taken for what lies there alone, of the disks that may run full."""

ROLES = {
    "stage": " paretopipe_worker stage ",
    "supervisor": " paretopipe_worker launch ",
    "keeper": " link apply ",
}
"""Processes of a sweep on a host, and what their command lines have and no others."""


@dataclass
class Ground(ABC):
    """Hosts, and the checkout from which they are used.

    Parameters
    ----------
    hosts
        Their names, in the order of the inventory.
    asked
        What its experiments ask for.
    faults
        How many faults there are for the next run: its experiment has sessions for no more.
    arguments
        Further arguments of every sweep.
    before
        How the networks were before the last sweep shaped any link.
    """

    checkout: Checkout
    hosts: tuple[str, ...]
    asked: Mapping[str, Any] = field(default_factory=lambda: OPEN)
    faults: int = SESSIONS * MOST_REPLICATES
    arguments: tuple[str, ...] = ()
    before: dict[str, str] = field(default_factory=dict)

    @property
    def results(self) -> Path:
        """The folder of all results."""
        return self.checkout.root / "results"

    def start(self, run: str, *arguments: str) -> Running:
        """Start a sweep of a run, or resume it, and note how the links are before it shapes any."""
        replicates = min(MOST_REPLICATES, max(2, self.faults // SESSIONS))
        asked = {key: json.dumps(value) for key, value in self.asked.items()}
        text = EXPERIMENT.format(replicates=replicates, **asked)
        experiment = self.checkout.write("experiments/chaos.yml", text)
        running = self._started(str(experiment), run, *SOON, *self.arguments, *arguments)
        self.before = self.networks()
        return running

    def networks(self) -> dict[str, str]:
        """Each host's devices, and what shapes its link."""
        told = {host: self.inside(host, "ip", "-brief", "link") for host in self.hosts}
        devices = {
            host: sorted(line.split()[0].split("@")[0] for line in lines.splitlines())
            for host, lines in told.items()
        }
        return {host: f"{devices[host]} {link}" for host, link in self.links().items()}

    def pids(self, role: str, host: str) -> list[int]:
        """Processes of a role on a host."""
        return [pid for pid, command in self.tasks(host).items() if ROLES[role] in f"{command} "]

    def records(self, run: str) -> list[Path]:
        """Files of a run's records on the hosts."""
        folders = [self.folder(host, run) for host in self.hosts]
        return sorted(path for folder in folders for path in folder.glob("records/*.jsonl"))

    @abstractmethod
    def _started(self, experiment: str, run: str, *arguments: str) -> Running:
        """Start a sweep."""

    @abstractmethod
    def folder(self, host: str, run: str) -> Path:
        """A host's folder of a run."""

    @abstractmethod
    def tasks(self, host: str) -> dict[int, str]:
        """What runs on a host: command lines by pid."""

    @abstractmethod
    def links(self) -> dict[str, str]:
        """What shapes each host's link."""

    @abstractmethod
    def inside(self, host: str, *command: str) -> str:
        """Run a command in a host's network."""

    @abstractmethod
    def outside(self, *command: str) -> str:
        """Run a command in the network that joins the hosts."""


@dataclass
class LocalLab(Ground):
    """The local lab; each host's folder and that of the results lie on small disks."""

    lab: labs.Lab = field(init=False)

    def __post_init__(self) -> None:
        self.lab = labs.Lab(self.checkout)

    @property
    def holder(self) -> int:
        """The process that holds the lab."""
        return int((read_json(self.checkout.root / ".lab/state.json") or {})["holder"]["pid"])

    def _started(self, experiment: str, run: str, *arguments: str) -> Running:
        running = self.checkout.start_sweep(experiment, run, *arguments)
        state = self.checkout.root / ".lab/state.json"

        def up() -> bool:
            owner = (read_json(state) or {"owner": {"pid": 0}})["owner"]["pid"]
            return bool(owner == running.process.pid) or running.process.poll() is not None

        # An earlier sweep's lab may still be there.
        until(up, f"the lab of run {run}", 120)
        self.lab.release()
        self.lab.hold(running)
        return running

    def folder(self, host: str, run: str) -> Path:
        """A host's folder of a run."""
        return self.checkout.root / f".lab/{host}/home/runs/{run}"

    def tasks(self, host: str) -> dict[int, str]:
        """What runs on a host, by its folder."""
        found = self.checkout.processes()
        return {pid: command for pid, command in found.items() if f"/.lab/{host}/" in command}

    def links(self) -> dict[str, str]:
        """What shapes each host's link."""
        return self.lab.links()

    def inside(self, host: str, *command: str) -> str:
        """Run a command in a host's network."""
        return self._entering(host, *command)

    def outside(self, *command: str) -> str:
        """Run a command where the bridge is."""
        return self._entering("holder", *command)

    def _entering(self, where: str, *command: str) -> str:
        descriptor = self.lab.held[where]
        enter = ("nsenter", f"--net=/proc/self/fd/{descriptor}", "--", *command)
        done = subprocess.run(enter, pass_fds=[descriptor], capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
        return done.stdout


@dataclass
class Remote(Ground):
    """Hosts that are reached by SSH."""

    lab: real_labs.Lab = field(kw_only=True)

    def _started(self, experiment: str, run: str, *arguments: str) -> Running:
        what = ("-e", f"experiment={experiment}", "-e", f"run={run}", *arguments)
        return self.lab.start(real_labs.ANSIBLE, "sweep.yml", *what)

    def folder(self, host: str, run: str) -> Path:
        """A host's folder of a run."""
        return self.machine(host).file(f"{WORKER_HOME}/runs/{run}")

    def tasks(self, host: str) -> dict[int, str]:
        """What runs on a host."""
        return {task.pid: task.command for task in self.machine(host).tasks}

    def links(self) -> dict[str, str]:
        """What shapes each host's link."""
        return {host.name: host.link for host in self.lab.hosts}

    def inside(self, host: str, *command: str) -> str:
        """Run a command in a host's network."""
        return self.machine(host).network.run(*command).stdout

    def outside(self, *command: str) -> str:
        """Run a command where the switch is."""
        return self.lab.fleet.controller.run(*command).stdout

    def machine(self, host: str) -> Host:
        """A host by its name."""
        return {each.name: each for each in self.lab.hosts}[host]


@contextmanager
def local(folder: Path) -> Iterator[LocalLab]:
    """The local lab of a checkout made in `folder`."""
    with labs.throwaway(folder / "checkout") as checkout, contextlib.ExitStack() as stack:
        for place in (".lab/edge", ".lab/server", "results"):
            stack.enter_context(small_disk(checkout.root / place, DISK_KIB))
        ground = LocalLab(checkout, labs.HOSTS)
        stack.callback(ground.lab.release)
        yield ground


@contextmanager
def shaped(folder: Path) -> Iterator[LocalLab]:
    """The local lab, whose links are shaped."""
    with local(folder) as ground:
        ground.asked = SHAPED
        yield ground


@contextmanager
def local_with_clocks(folder: Path) -> Iterator[LocalLab]:
    """The local lab, whose hosts have clocks of their own."""
    with local(folder) as ground:
        python = stepped(ground.checkout.root, ground.hosts)
        ground.arguments = ("-e", f"worker_python={python}")
        yield ground


@contextmanager
def remote(folder: Path) -> Iterator[Remote]:
    """Two hosts that are reached by SSH."""
    with real_labs.made(folder) as lab:
        yield Remote(lab.checkout, tuple(host.name for host in lab.hosts), lab=lab)


GROUNDS: Mapping[str, Any] = {
    "local": local,
    "shaped": shaped,
    "clocks": local_with_clocks,
    "ssh": remote,
}
