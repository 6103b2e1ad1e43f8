"""What a process holds and has used: memory, open files, threads, CPU time."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

_SIZE = re.compile(r"^(Rss|Pss): +(\d+) kB$", re.MULTILINE)
_THREADS = re.compile(r"^Threads:\s+(\d+)$", re.MULTILINE)


class Usage(NamedTuple):
    """What a process holds at one moment, or several of them together.

    `rss_mb` is its resident memory, and `pss_mb` the same with each page that processes share
    divided by their number; both in MB of 10^6 bytes. `cpu_s` is the CPU time of all its threads so
    far.
    """

    rss_mb: float
    pss_mb: float
    files: int
    threads: int
    cpu_s: float


def usage(pid: int) -> Usage | None:
    """Look at a process; None where it has ended."""
    process = Path(f"/proc/{pid}")
    try:
        sizes = dict(_SIZE.findall((process / "smaps_rollup").read_text()))
        threads = _THREADS.search((process / "status").read_text())
        files = sum(1 for _ in (process / "fd").iterdir())
        fields = (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    if threads is None or len(sizes) < 2:
        return None  # a zombie has no memory any more
    rss_mb, pss_mb = (int(sizes[name]) * 1024 / 1e6 for name in ("Rss", "Pss"))
    cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return Usage(rss_mb, pss_mb, files, int(threads[1]), cpu_s)
