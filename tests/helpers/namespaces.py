"""Hosts for tests: network namespaces joined to each other, taken away whatever happens."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CLONE_NEWNET = 0x40000000
INTERFACE = "link0"
"""Name of the data interface in every namespace made here."""


@dataclass(frozen=True)
class Namespace:
    """One host: a named network namespace with one data interface."""

    name: str
    address: str
    address6: str

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Let this thread open sockets and start processes inside, then bring it back."""
        with (
            Path("/proc/thread-self/ns/net").open("rb") as home,
            Path("/run/netns", self.name).open("rb") as inside,
        ):
            set_namespace(inside.fileno())
            try:
                yield
            finally:
                set_namespace(home.fileno())

    def run(
        self, *command: str | Path, check: bool = True, input: str = "", **options: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside, which reads `input`; its output is captured.

        What is in `options` is added to its environment.
        """
        with self.entered():
            return subprocess.run(
                [str(part) for part in command],
                capture_output=True,
                text=True,
                check=check,
                timeout=60,
                env={**os.environ, **options},
                input=input,
            )


@contextmanager
def joined_pair() -> Iterator[tuple[Namespace, Namespace]]:
    """Make two hosts, 10.77.0.1 and 10.77.0.2, that reach each other over one veth pair."""
    with ExitStack() as stack:
        first, second = hosts = _added(stack, 2)
        # Made inside: in the machine's own namespace the names could be taken.
        _ip("-n", first.name, "link", "add", INTERFACE, "type", "veth",
            "peer", "name", INTERFACE, "netns", second.name)  # fmt: skip
        _bring_up(hosts)
        yield first, second


@contextmanager
def joined(count: int) -> Iterator[tuple[Namespace, ...]]:
    """Make so many hosts, 10.77.0.1 and so on, that reach each other over a bridge."""
    with ExitStack() as stack:
        *hosts, switch = _added(stack, count + 1)
        _ip("-n", switch.name, "link", "add", "bridge0", "type", "bridge")
        _ip("-n", switch.name, "link", "set", "bridge0", "up")
        for number, host in enumerate(hosts):
            port = f"port{number}"
            _ip("-n", host.name, "link", "add", INTERFACE, "type", "veth",
                "peer", "name", port, "netns", switch.name)  # fmt: skip
            _ip("-n", switch.name, "link", "set", port, "master", "bridge0", "up")
        _bring_up(hosts)
        yield tuple(hosts)


def _added(stack: ExitStack, count: int) -> list[Namespace]:
    """So many new namespaces, which `stack` takes away."""
    run_id, hosts = uuid.uuid4().hex[:8], []
    for rank in range(1, count + 1):
        name = f"pptest-{run_id}-{rank}"
        _ip("netns", "add", name)
        stack.callback(_remove, name)
        hosts.append(Namespace(name, f"10.77.0.{rank}", f"fd77::{rank}"))
    return hosts


def _bring_up(hosts: Sequence[Namespace]) -> None:
    """Give hosts their addresses."""
    for host in hosts:
        _ip("-n", host.name, "link", "set", "lo", "up")
        _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", INTERFACE)
        _ip("-n", host.name, "address", "add", f"{host.address6}/64", "dev", INTERFACE, "nodad")
        _ip("-n", host.name, "link", "set", INTERFACE, "up")


@cache
def reason_without_namespaces() -> str:
    """Why no network namespace can be made here, found by making one; empty where it can."""
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return "ip and tc (package iproute2) are not installed"
    name = f"pptest-{uuid.uuid4().hex[:8]}-probe"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode != 0:
        return f"network namespaces cannot be made here: {made.stderr.strip()}"
    _remove(name)
    return ""


def set_namespace(descriptor: int) -> None:
    """Move the calling thread into a network namespace (``os.setns`` came with Python 3.12)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _ip(*arguments: str) -> None:
    """Run ``ip``, showing what it says when it fails."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _remove(name: str) -> None:
    """Take a namespace away; its interfaces go with it once no process is inside."""
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=True)
