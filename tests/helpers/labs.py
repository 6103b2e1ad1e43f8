"""The local lab as tests watch it: what a sweep does to its links, and what it leaves there."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from paretopipe_worker.host.daemons import Process, read_json
from tests.helpers.sweeps import Checkout, Running, checkout
from tests.helpers.waiting import until

HOSTS = ("edge", "server")

SMALLEST = """\
models: [paretopipe_worker.model.tiny:network]
links: [{name: rate20, rate_mbit: 20}]
splits: {granularity: block, cuts: ["5"]}
phases: {min_items: 20, min_s: 0.1, max_s: 30, retries: 0}
"""
"""An experiment of one session, three points."""


@dataclass
class Lab:
    """The local lab of a checkout, its network held open so that it outlives the lab."""

    checkout: Checkout
    held: dict[str, int] = field(default_factory=dict)

    @property
    def is_up(self) -> bool:
        """Whether somebody brought it up and nobody took it down."""
        state = read_json(self.checkout.root / ".lab/state.json")
        return state is not None and Process(**state["holder"]).alive

    def hold(self, running: Running) -> None:
        """Wait until a command has brought the lab up, and hold its namespaces."""
        until(lambda: self.is_up or running.process.poll() is not None, "a lab that is up")
        assert self.is_up, running.output
        folder = self.checkout.root / ".lab"
        pids = {"holder": json.loads((folder / "state.json").read_text())["holder"]["pid"]}
        for host in HOSTS:
            [pid] = re.findall(r"--target (\d+)", (folder / host / "python").read_text())
            pids[host] = pid
        self.held = {
            host: os.open(f"/proc/{pid}/ns/net", os.O_RDONLY) for host, pid in pids.items()
        }

    def links(self) -> dict[str, str]:
        """What there is to restore of each host's link: queueing and segmentation offload.

        While a lab is being taken down what looks at it from inside is ended too: wait for
        `nothing_left` first.
        """
        found = {}
        for host in HOSTS:
            queueing = self._inside(host, "tc", "qdisc", "show", "dev", "eth0")
            card = self._inside(host, "ip", "-d", "link", "show", "dev", "eth0")
            found[host] = queueing + " ".join(re.findall(r"gso_\w+ \d+", card))
        return found

    def release(self) -> None:
        """Let go of the namespaces."""
        for descriptor in self.held.values():
            os.close(descriptor)
        self.held = {}

    def _inside(self, host: str, *command: str) -> str:
        descriptor = self.held[host]
        enter = ("nsenter", f"--net=/proc/self/fd/{descriptor}", "--", *command)
        return subprocess.run(
            enter, pass_fds=[descriptor], capture_output=True, text=True, check=True
        ).stdout


@contextlib.contextmanager
def watched(copy: Checkout, running: Running) -> Iterator[Lab]:
    """Watch the lab that a command of this checkout brings up."""
    lab = Lab(copy)
    try:
        lab.hold(running)
        yield lab
    finally:
        lab.release()


@contextlib.contextmanager
def throwaway(folder: Path) -> Iterator[Checkout]:
    """Make a checkout in `folder`; what still runs in it at the end is killed."""
    made = checkout(folder)
    try:
        yield made
    finally:
        for pid in made.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def shaped(links: dict[str, str]) -> bool:
    """Whether every host's link is shaped."""
    return all("qdisc htb" in link for link in links.values())


def nothing_left(copy: Checkout, deadline_s: float = 15) -> None:
    """Hold that no process is left, and so no namespace, since none has a name to keep it."""
    until(lambda: not copy.processes(), f"no process left of {copy.root}", deadline_s)
