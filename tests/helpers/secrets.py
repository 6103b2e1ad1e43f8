"""Where a secret could show: what processes were started with, and files that were written."""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.helpers.waiting import repeatedly

_PAUSE_S = 0.05
_MOST_BYTES = 64 << 20
"""Larger files are those of models and of wheels."""


class Processes:
    """What all processes of this computer had on their command lines and in their environments."""

    def __init__(self) -> None:
        self.told: set[bytes] = set()
        self.looks = 0

    def holding(self, secrets: Iterable[str]) -> list[bytes]:
        """What held one of the secrets."""
        raw = [secret.encode() for secret in secrets]
        return [each for each in self.told if any(secret in each for secret in raw)]

    def look(self) -> None:
        """Look at all processes that there are."""
        self.looks += 1
        for process in Path("/proc").glob("[0-9]*"):
            for name in ("cmdline", "environ"):
                try:
                    self.told.add((process / name).read_bytes())
                except OSError:  # it has ended
                    break


@contextlib.contextmanager
def processes() -> Iterator[Processes]:
    """Look at all processes again and again while the block runs."""
    seen = Processes()
    with repeatedly(seen.look, _PAUSE_S):
        yield seen


def holding(secrets: Iterable[str], places: Iterable[Path], since_s: float) -> list[Path]:
    """Files that hold one of the secrets, of those that were written since a time.

    Parameters
    ----------
    since_s
        As ``time.time`` tells it.
    """
    raw = [secret.encode() for secret in secrets]
    found = []
    for path in itertools.chain.from_iterable(map(_files, places)):
        try:
            told = path.lstat()
            regular = stat.S_ISREG(told.st_mode) and told.st_size <= _MOST_BYTES
            content = path.read_bytes() if regular and told.st_mtime >= since_s else b""
        except OSError:  # it is there no more
            continue
        if any(secret in content for secret in raw):
            found.append(path)
    return found


def _files(place: Path) -> Iterator[Path]:
    """A file, or what is in a folder and in those below."""
    if not place.is_dir():
        yield place
    for parent, _, names in os.walk(place):
        yield from (Path(parent, name) for name in names)


def scratch(since_s: float) -> list[Path]:
    """What programs of this computer keep where nothing is meant to last, changed since a time.

    A folder there counts if something was added to it or taken from it.
    """
    folders = [tempfile.gettempdir(), "/var/tmp", "/dev/shm", Path.home() / ".ansible"]
    there = [path for folder in map(Path, folders) if folder.is_dir() for path in folder.iterdir()]
    return [path for path in there if _changed_s(path) >= since_s]


def _changed_s(path: Path) -> float:
    """When a file or folder was changed; 0 of a link, and of what is there no more."""
    with contextlib.suppress(OSError):
        told = path.lstat()
        return 0 if stat.S_ISLNK(told.st_mode) else told.st_mtime
    return 0


def now_s() -> float:
    """The time from which files count, a little earlier, since clocks of disks are coarse."""
    return time.time() - 1
