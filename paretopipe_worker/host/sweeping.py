"""Sweeps that are in progress on a host, whoever runs them, and who has a port there.

What a sweep leaves running says in its command line which lease it watches: stages and their
supervisors, and keepers of links. Root sees those of all users.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paretopipe_worker.host.daemons import Process
from paretopipe_worker.host.sensors import content

RENEWED_S = 5.0
"""Seconds after which a lease would have been renewed if a sweep were in progress.

The controller renews it every 2 s (``session_poll_s``)."""

_LOOK_S = 0.2
_VERBS = ("launch", "apply")
_LISTENING = "0A"
_SHOWN = 100


@dataclass(frozen=True)
class Task:
    """A process that watches a lease: a supervisor of a stage, or the keeper of a link."""

    pid: int
    user: str
    started_unix_s: float
    lease: Path
    lease_s: float

    @property
    def run(self) -> str:
        """Name of its run: the lease lies in the run's folder."""
        return self.lease.parent.name

    @property
    def told(self) -> str:
        """Which run it belongs to, whose that is, and since when it is there."""
        since = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.started_unix_s))
        return f"run {self.run} of {self.user}, there since {since}"

    def renewed_s(self) -> float | None:
        """Seconds since its lease was renewed; None where the lease is gone or cannot be seen."""
        try:
            return max(0.0, time.time() - self.lease.stat().st_mtime)
        except OSError:
            return None


def sweeps() -> list[dict[str, Any]]:
    """Runs of which something runs here, and whether somebody renews their leases.

    Returns
    -------
    One dictionary for each run: `run`, `user`, `started_unix_s`, `lease_s`, `renewed_s` (seconds
    since its lease was renewed, or None) and `renewing` (whether that goes on). To find out, this
    may wait for :data:`RENEWED_S`.
    """
    found = {task.lease: task for task in tasks()}
    return [
        {
            "run": task.run,
            "user": task.user,
            "started_unix_s": task.started_unix_s,
            "lease_s": task.lease_s,
            "renewing": renewing,
            "renewed_s": task.renewed_s(),
        }
        for task, renewing in zip(found.values(), _renewing(list(found.values())), strict=True)
    ]


def tasks() -> Iterator[Task]:
    """Processes that watch a lease, in this network namespace."""
    for pid in _pids():
        words = _words(pid)
        if not any("paretopipe" in word for word in words) or not set(_VERBS) & set(words):
            continue
        if (process := Process.running(pid)) is None:
            continue  # ended meanwhile
        options = _options(words)
        with contextlib.suppress(OSError, KeyError, ValueError):
            yield Task(
                pid=pid,
                user=_user(_owner(Path(options["--lease"]), pid)),
                started_unix_s=process.began_unix_s,
                lease=Path(options["--lease"]),
                lease_s=float(options["--lease-s"]),
            )


def held_by(lease: Path) -> str | None:
    """Say which other run has this host, and since when; None where none has it.

    A run has a host for as long as something there watches the run's lease, and that still holds.

    Parameters
    ----------
    lease
        The lease of the run that asks.
    """
    for task in tasks():
        age_s = task.renewed_s()
        if task.lease != lease and age_s is not None and age_s <= task.lease_s:
            return f"{task.told}, whose lease was renewed {age_s:.0f} s ago"
    return None


def holders(ports: Collection[int]) -> dict[int, dict[str, str | None]]:
    """Who listens at these ports, as far as that can be seen.

    Returns
    -------
    By port: `who` says pid, user and command, and `run` names the run if it is a stage.
    """
    inodes = _listening(ports)
    found = {}
    for pid in _pids() if inodes else ():
        with contextlib.suppress(OSError):
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                port = inodes.get(str(entry.readlink()))
                if port is not None:
                    found[port] = _holder(pid)
    return found


def _holder(pid: int) -> dict[str, str | None]:
    """Describe a process that has a port."""
    words = _words(pid)
    plan = _options(words).get("--plan") if "stage" in words else None
    user = _user(Path(f"/proc/{pid}").stat().st_uid)
    return {
        "who": f"pid {pid} of {user} ({shlex.join(words)[:_SHOWN]})",
        "run": Path(plan).parent.name if plan else None,
    }


def _renewing(found: Sequence[Task]) -> list[bool]:
    """Whether somebody renews the lease of each task, watched all at once."""
    before = {task.lease: task.renewed_s() for task in found}
    renewing = dict.fromkeys(before, False)
    until_s = time.monotonic() + RENEWED_S
    while time.monotonic() < until_s:
        # A lease that is older than this is not waited for: it would have been renewed.
        open_ones = [
            lease
            for lease, age_s in before.items()
            if not renewing[lease] and age_s is not None and age_s < RENEWED_S
        ]
        if not open_ones:
            break
        time.sleep(_LOOK_S)
        for task in found:
            age_s, last_s = task.renewed_s(), before[task.lease]
            if age_s is not None and last_s is not None and age_s < last_s:
                renewing[task.lease] = True
            before[task.lease] = age_s
    return [renewing[task.lease] for task in found]


def _listening(ports: Collection[int]) -> dict[str, int]:
    """Ports that somebody in this network namespace listens at, by the name of the socket."""
    found = {}
    for table in ("tcp", "tcp6"):
        for line in (content(Path("/proc/net", table)) or "").splitlines()[1:]:
            fields = line.split()
            port = int(fields[1].rpartition(":")[2], 16)
            if fields[3] == _LISTENING and port in ports:
                found[f"socket:[{fields[9]}]"] = port
    return found


def _pids() -> Iterator[int]:
    """All processes of this network namespace: on one computer it may stand for a host."""
    own = Path("/proc/self/ns/net").readlink()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if int(entry.name) != os.getpid() and (entry / "ns/net").readlink() == own:
                yield int(entry.name)


def _words(pid: int) -> list[str]:
    """Command line of a process; empty once it has ended."""
    line = content(Path(f"/proc/{pid}/cmdline")) or ""
    return line.rstrip("\0").split("\0")


def _options(words: Sequence[str]) -> dict[str, str]:
    """Options of a command line, whether written as ``--name value`` or ``--name=value``."""
    found: dict[str, str] = {}
    for word, following in zip(words, (*words[1:], ""), strict=True):
        name, separator, value = word.partition("=")
        if name.startswith("--"):
            found.setdefault(name, value if separator else following)
    return found


def _owner(lease: Path, pid: int) -> int:
    """Who runs a sweep: a lease is a file of the user's, while a keeper runs as root."""
    with contextlib.suppress(OSError):
        return lease.stat().st_uid
    return Path(f"/proc/{pid}").stat().st_uid


def _user(number: int) -> str:
    """Name of a user."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"
