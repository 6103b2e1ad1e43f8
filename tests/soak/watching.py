"""What the processes of a sweep hold while it runs, and what is left when it has ended."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.helpers.processes import usage
from tests.helpers.sweeps import Checkout

KINDS = {
    "stages": "paretopipe_worker stage ",
    "supervisors": "paretopipe_worker launch ",
    "links": " link apply ",
    "planning": "paretopipe_worker ",
    "analysis": "-m analysis",
    "lab": "lab.py hold ",
    "Ansible": "ansible-playbook ",
    "others": "",
}
"""Kinds of processes, each with what its command lines hold; the first that fits counts."""

_ENDS_S = 30.0
"""Longest wait for the last processes after the end of a sweep."""


@dataclass(frozen=True)
class Sample:
    """What all processes of one kind hold together at one moment, in seconds of the soak."""

    at_s: float
    sweep: int
    kind: str
    processes: int
    own_mb: float
    files: int
    threads: int


@dataclass(frozen=True)
class Left:
    """What there is after a sweep, beside its results.

    `temporary_files` are those in the folder of temporary files and in the user's home, and
    `beside_mb` is what these and the checkout take on the disk, without results, and `runs_mb` what
    its hosts keep of all runs so far.
    """

    processes: int
    namespaces: int
    temporary_files: int
    beside_mb: float
    runs_mb: float


@dataclass
class Place:
    """A checkout with a home and a folder of temporary files of its own, and what happens there."""

    folder: Path
    checkout: Checkout
    began_s: float = field(default_factory=time.monotonic)
    samples: list[Sample] = field(default_factory=list)
    namespaces: int = 0

    def __post_init__(self) -> None:
        for name, variable in (("home", "HOME"), ("tmp", "TMPDIR")):
            (self.folder / name).mkdir()
            self.checkout.environment[variable] = str(self.folder / name)

    @property
    def now_s(self) -> float:
        """Seconds since the soak began."""
        return time.monotonic() - self.began_s

    def look(self, sweep: int) -> None:
        """Take a sample of the processes of each kind that there are now."""
        at_s, running = self.now_s, self.checkout.processes()
        self.namespaces = max(self.namespaces, len(_namespaces(running)))
        held: dict[str, list[tuple[float, int, int]]] = {}
        for pid, words in running.items():
            if found := usage(pid):
                kind = next(kind for kind, part in KINDS.items() if part in words)
                held.setdefault(kind, []).append((found.own_mb, found.files, found.threads))
        for kind, each in held.items():
            sums = map(sum, zip(*each, strict=True))
            self.samples.append(Sample(at_s, sweep, kind, len(each), *sums))

    def left(self) -> Left:
        """What is left, once the last processes have had time to end."""
        until_s = time.monotonic() + _ENDS_S
        while (running := self.checkout.processes()) and time.monotonic() < until_s:
            time.sleep(0.1)
        temporary = [*_files(self.folder / "home"), *_files(self.folder / "tmp")]
        own = [file for file in _files(self.checkout.root) if not file.match("command-*.log")]
        runs = {file for file in own if "home/runs/" in str(file)}
        sizes = (sum(map(_size, files)) / 1e6 for files in ({*temporary, *own} - runs, runs))
        return Left(len(running), len(_namespaces(running)), len(temporary), *sizes)


def _namespaces(pids: Iterator[int] | dict[int, str]) -> set[Path]:
    """Network namespaces that processes have beside this one's."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            found.add(Path(f"/proc/{pid}/ns/net").readlink())
    return found - {Path("/proc/self/ns/net").readlink()}


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder but results, and what links lead to."""
    for inside, folders, names in os.walk(folder):
        if "results" in folders and Path(inside) == folder:
            folders.remove("results")
        yield from (Path(inside, name) for name in names)


def _size(file: Path) -> int:
    """Bytes of a file; 0 where it has gone meanwhile."""
    with contextlib.suppress(OSError):
        return file.lstat().st_size
    return 0
