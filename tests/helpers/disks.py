"""Small disks in memory, to be filled."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

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
    """Leave no space on a disk during the block."""
    ballast = disk / "ballast"
    file = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    try:
        with contextlib.suppress(OSError):
            while os.write(file, bytes(64 << 10)):
                pass
        assert not os.statvfs(disk).f_bavail, f"{disk} still has space"
        yield
    finally:
        os.close(file)
        ballast.unlink()


def mount(*words: str) -> None:
    """Mount something."""
    done = subprocess.run(["mount", *words], capture_output=True, text=True)
    assert done.returncode == 0, f"mount {' '.join(words)}: {done.stderr.strip()}"
