"""What a process holds and has used: memory, open files, threads, CPU time."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

_SIZE = re.compile(r"^(Rss|Pss|Private_Clean|Private_Dirty): +(\d+) kB$", re.MULTILINE)
_THREADS = re.compile(r"^Threads:\s+(\d+)$", re.MULTILINE)


class Usage(NamedTuple):
    """What a process holds at one moment, or several of them together.

    `rss_mb` is its resident memory, and `pss_mb` the same with each page that processes share
    divided by their number; `own_mb` is what it shares with nobody. All are in MB of 10^6 bytes.
    `cpu_s` is the CPU time of all its threads so
    far.
    """

    rss_mb: float
    pss_mb: float
    own_mb: float
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
    if threads is None or len(sizes) < 4:
        return None  # a zombie has no memory any more
    mb = {name: int(size) * 1024 / 1e6 for name, size in sizes.items()}
    own_mb = mb["Private_Clean"] + mb["Private_Dirty"]
    cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return Usage(mb["Rss"], mb["Pss"], own_mb, files, int(threads[1]), cpu_s)


class Took(NamedTuple):
    """What a command took, with all that it started.

    `most_mb` is the largest resident memory that was seen of all together, in MB of 10^6 bytes;
    pages that they share count for each. `highest_mb` is the largest of a single process, by the
    kernel, which counts what its parent held when it was started, too.
    """

    seconds: float
    cpu_s: float
    most_mb: float
    highest_mb: float


def took(words: Sequence[str], folder: Path, output: int | IO[str], every_s: float) -> Took:
    """Run a command to its end, and look at its memory at these intervals.

    Raises
    ------
    AssertionError
        When it ends with another status than 0.
    """
    begin_s, most_mb = time.monotonic(), 0.0
    process = subprocess.Popen(words, cwd=folder, stdout=output)
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        most_mb = max(most_mb, resident_mb(process.pid))
        time.sleep(every_s)
    seconds = time.monotonic() - begin_s
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"{words} ended with status {process.returncode}"
    cpu_s = used.ru_utime + used.ru_stime
    return Took(seconds, cpu_s, most_mb, used.ru_maxrss * 1024 / 1e6)


def resident_mb(pid: int) -> float:
    """Resident memory of a process and those that it started, added."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0  # It has just ended.
    own_mb = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return own_mb + sum(resident_mb(int(child)) for child in children)
