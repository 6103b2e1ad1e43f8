"""Small disks in memory, to be filled."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.waiting import until

NEEDS_ROOT = "disks are mounted by root"


@contextlib.contextmanager
def small_disk(place: Path, kib: int) -> Iterator[Path]:
    """Mount a disk of so many KiB at a new folder for the length of the block."""
    place.mkdir(parents=True)
    mount("-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(place))
    try:
        yield place
    finally:
        # Even where a process still has a file of it open.
        subprocess.run(["umount", "--lazy", place], check=True)


@contextlib.contextmanager
def full(disk: Path) -> Iterator[None]:
    """Leave no space on a small disk during the block: it gets no larger than what lies there."""
    before, ballast = os.statvfs(disk), disk / "ballast"
    ballast.write_bytes(b"a disk of size 0 would have no bound")

    def shrink() -> bool:
        now = os.statvfs(disk)
        used = (now.f_blocks - now.f_bfree) * now.f_frsize
        # Refused where more has come meanwhile.
        with contextlib.suppress(AssertionError):
            mount("-o", f"remount,size={used}", str(disk))
        return not os.statvfs(disk).f_bavail

    until(shrink, f"{disk} without space", 10)
    try:
        yield
    finally:
        mount("-o", f"remount,size={before.f_blocks * before.f_frsize}", str(disk))
        ballast.unlink()


def mount(*words: str) -> None:
    """Mount something."""
    done = subprocess.run(["mount", *words], capture_output=True, text=True)
    assert done.returncode == 0, f"mount {' '.join(words)}: {done.stderr.strip()}"
