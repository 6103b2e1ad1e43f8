"""A fleet for tests whose hosts are reached by SSH, made from ``inventory/lab``.

The controller, in a network namespace too, is on the same network as the hosts; nothing else is.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from paretopipe_worker.host.daemons import Process
from tests import ROOT
from tests.helpers.machines import HOME, USER, Host, Kind, run
from tests.helpers.namespaces import Namespace, reason_without_namespaces

SWITCH = "switch"
"""The bridge in the controller's namespace that joins all hosts."""

WORKER_HOME = f"{HOME}/Ada's sweeps"
"""Folder of the worker. (In the home itself Ansible's own temporary folder allows no quote.)"""

PAIR = MappingProxyType({"pi": Kind(), "server": Kind()})
"""The hosts of ``inventory/lab``."""


@dataclass(frozen=True)
class Fleet:
    """Hosts, the controller's network namespace, and what Ansible needs to reach them."""

    controller: Namespace
    hosts: tuple[Host, ...]
    inventory: str
    environment: dict[str, str]


def reason_without_sshd() -> str:
    """Why no host with sshd can be made here; empty where one can."""
    if os.geteuid() != 0:
        return "hosts with a root and an sshd of their own need root"
    needed = {"/usr/sbin/sshd": "openssh-server", "sudo": "sudo", "ssh": "openssh-client"}
    missing = [package for command, package in needed.items() if shutil.which(command) is None]
    if missing:
        return f"packages are not installed: {', '.join(missing)}"
    return reason_without_namespaces()


@contextmanager
def fleet(
    prefix: Path = Path(sys.prefix), kinds: Mapping[str, Kind] = PAIR, **variables: Any
) -> Iterator[Fleet]:
    """Bring up hosts, and take them down whatever happens.

    Parameters
    ----------
    prefix
        The environment whose Python the worker uses.
    kinds
        The hosts by name, in the order of the inventory.
    **variables
        Added to those of the inventory's group ``stages``.
    """
    inventory = yaml.safe_load((ROOT / "inventory/lab/hosts.yml").read_text())
    stages = inventory["all"]["children"]["stages"]
    with ExitStack() as stack:
        # Short, since the sockets of SSH lie here: their names may have 107 bytes.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pptest-")))
        controller = stack.enter_context(_network(f"{folder.name}-controller", 254))
        stack.callback(_end_all_in, controller)
        inside = ("ip", "-n", controller.name)
        run(*inside, "link", "add", "name", SWITCH, "type", "bridge")
        run(*inside, "address", "add", f"{controller.address}/24", "dev", SWITCH)
        run(*inside, "link", "set", SWITCH, "up")
        _make_keys(folder, list(kinds))
        hosts = []
        for number, (name, kind) in enumerate(kinds.items(), start=1):
            network = stack.enter_context(_network(f"{folder.name}-{name}", number))
            host = Host(network, controller, SWITCH, folder, number, prefix, kind)
            stack.callback(host.remove)
            host.start()
            hosts.append(host)
        known = stages["hosts"]
        stages["hosts"] = {
            host.name: {
                **known.get(host.name, {}),
                **{"ansible_host": host.address, "data_address": host.address},
                **host.kind.variables,
            }
            for host in hosts
        }
        stages["vars"] |= {
            "ansible_user": USER,
            "ansible_ssh_private_key_file": str(folder / "user"),
            "ansible_ssh_common_args": f"-F none -o UserKnownHostsFile={folder}/known_hosts",
            "worker_home": WORKER_HOME,
            "worker_python": str(prefix / "bin" / "python"),
            "worker_governor": "",  # the processors are those of the machine that tests
            **variables,
        }
        # Connections are kept by address, and another test's hosts have the same.
        environment = {"ANSIBLE_SSH_CONTROL_PATH_DIR": str(folder / "connections")}
        yield Fleet(
            controller, tuple(hosts), yaml.safe_dump(inventory, sort_keys=False), environment
        )


@contextmanager
def _network(name: str, number: int) -> Iterator[Namespace]:
    """Make a network namespace whose address, once it has one, ends in `number`."""
    run("ip", "netns", "add", name)
    try:
        run("ip", "-n", name, "link", "set", "lo", "up")
        yield Namespace(name, f"10.78.0.{number}", f"fd78::{number}")
    finally:
        run("ip", "netns", "delete", name)


def _make_keys(folder: Path, names: list[str]) -> None:
    """Make the user's key and every host's, and the list by which the hosts are known."""
    for name in ("user", *names):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name))
    keys = [(folder / f"{name}.pub").read_text() for name in names]
    known = [f"10.78.0.{number} {key}" for number, key in enumerate(keys, start=1)]
    (folder / "known_hosts").write_text("".join(known))


def _end_all_in(namespace: Namespace) -> None:
    """End what Ansible leaves in the controller's namespace: connections kept for its next run."""
    pids = [int(pid) for pid in run("ip", "netns", "pids", namespace.name).split()]
    for process in filter(None, map(Process.running, pids)):
        process.end(signal.SIGKILL, 5)
