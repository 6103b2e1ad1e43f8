"""The network interfaces of this host, read and changed with ``ip`` and ``tc``."""

from __future__ import annotations

import ipaddress
import json
import os
import platform
import shlex
import subprocess
from dataclasses import dataclass
from typing import Any

from paretopipe_worker.shaping import ShapingError, tc, tc_state

_GSO_MAX_SEGS = 65535
_TIMEOUT_S = 20
_TRIALS = {"netem": "netem delay 1ms", "htb": "htb"}


@dataclass(frozen=True)
class Interface:
    """One interface as it is now.

    Parameters
    ----------
    mtu
        In bytes.
    gso_max_segs
        How many frames one packet handed to the interface may hold.
    gso_default
        What the driver itself sets that to.
    """

    name: str
    mtu: int
    loopback: bool
    gso_max_segs: int
    gso_default: int

    @property
    def root(self) -> str:
        """Its root qdisc: the kind, and the handle unless the kernel itself put it there."""
        return tc_state.root_qdisc(_qdiscs(self.name))

    @property
    def state(self) -> list[str]:
        """What shapes it, one fact a line (see `tc_state`)."""
        classes = run(["tc", "class", "show", "dev", self.name])
        # It is an error to ask for the filters of a qdisc that does not exist.
        ours = self.root == tc.ROOT
        filters = run(["tc", "filter", "show", "dev", self.name, *tc.FILTERS]) if ours else ""
        qdiscs = _qdiscs(self.name)
        return tc_state.read_state(self.name, self.gso_max_segs, qdiscs, classes, filters)


def find(name: str) -> Interface | None:
    """Find an interface by its name; None if there is none."""
    done = _execute(["ip", "-d", "-j", "link", "show", "dev", name])
    if done.returncode != 0:
        return None
    link = next(link for link in json.loads(done.stdout) if link)
    return Interface(
        name=name,
        mtu=int(link["mtu"]),
        loopback="LOOPBACK" in link["flags"],
        gso_max_segs=int(link.get("gso_max_segs", _GSO_MAX_SEGS)),
        gso_default=int(link.get("tso_max_segs", _GSO_MAX_SEGS)),
    )


def owning(address: str) -> Interface:
    """Find the interface that owns a data address.

    Raises
    ------
    ShapingError
        When no interface does; the text lists the addresses of this host.
    """
    try:
        sought = ipaddress.ip_address(address)
    except ValueError as error:
        raise ShapingError(f"{address!r} is not an IP address") from error
    owners = {
        ipaddress.ip_address(entry["local"]): str(link["ifname"])
        for link in json.loads(run(["ip", "-j", "address", "show"]))
        for entry in link.get("addr_info", [])
        if "local" in entry
    }
    if sought in owners and (interface := find(owners[sought])) is not None:
        return interface
    known = ", ".join(f"{local} ({name})" for local, name in owners.items()) or "none"
    raise ShapingError(f"no interface has the data address {address}; addresses here: {known}")


def shaped() -> list[Interface]:
    """Find the interfaces that carry our root qdisc, whoever put it there."""
    names = {str(each["dev"]) for each in _qdiscs() if tc_state.root_qdisc([each]) == tc.ROOT}
    return [interface for name in sorted(names) if (interface := find(name)) is not None]


def probe_kernel() -> dict[str, Any]:
    """Try netem and htb in throwaway namespaces, which brings in their kernel modules.

    Returns
    -------
    dict
        ``netem`` and ``htb`` (whether each works), ``reason`` (what the first trial that failed
        said), ``kernel`` (``uname -r``).
    """
    said = {name: _trial(*qdisc.split()) for name, qdisc in _TRIALS.items()}
    works: dict[str, Any] = {name: text is None for name, text in said.items()}
    failed = [text for text in said.values() if text is not None]
    reason = failed[0] if failed else "both work"
    return {**works, "reason": reason, "kernel": platform.release()}


def _trial(*qdisc: str) -> str | None:
    """Try a qdisc in a throwaway namespace: None if it works, else what the kernel said."""
    for namespace in (["--net"], ["--user", "--map-root-user", "--net"]):
        trial = ["tc", "qdisc", "add", "dev", "lo", "root", *qdisc]
        done = _execute(["unshare", *namespace, *trial])
        if done.returncode == 0:
            return None
        # The exit status is 2 both for a missing module and for missing rights.
        if "kind is unknown" in done.stderr:
            break
    return " ".join(done.stderr.split())


def run(command: list[str]) -> str:
    """Run a command and return its output.

    Raises
    ------
    ShapingError
        When it fails: the command and what it said.
    """
    done = _execute(command)
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())
        raise refusal(f"`{shlex.join(command)}` failed ({done.returncode})", said)
    return done.stdout


def refusal(what: str, said: str) -> ShapingError:
    """Make an error of what the kernel said; if rights are missing, it says what is needed."""
    denied = ("not permitted", "Permission denied")
    rights = " (shaping needs root)" if any(text in said for text in denied) else ""
    return ShapingError(f"{what}: {said}{rights}")


def _qdiscs(name: str | None = None) -> list[Any]:
    """The qdiscs of one interface, or of all."""
    of = [] if name is None else ["dev", name]
    found: list[Any] = json.loads(run(["tc", "-j", "qdisc", "show", *of]) or "[]")
    return found


def _execute(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command in a language and with a search path that do not depend on the login."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    environment = {**os.environ, "PATH": path, "LC_ALL": "C"}
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=environment,
            stdin=subprocess.DEVNULL,
            timeout=_TIMEOUT_S,
        )
    except FileNotFoundError as error:
        package = "util-linux" if command[0] == "unshare" else "iproute2"
        raise ShapingError(f"{command[0]} is not installed (package {package})") from error
    except subprocess.TimeoutExpired as error:
        raise ShapingError(f"`{shlex.join(command)}` did not end within {_TIMEOUT_S} s") from error
