"""Processes that outlive the command that started them, and how later commands find them.

A pid may have been reused by the time it is read back, so a process is known by its pid and its
start time. Locks are ``flock`` locks, which the kernel releases however their holder dies.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

_FULL_BYTES = 1 << 20


@dataclass(frozen=True)
class Process:
    """One process, now or later: its pid and its start in clock ticks since boot."""

    pid: int
    start_ticks: int

    @classmethod
    def running(cls, pid: int) -> Process | None:
        """Find the process that has this pid now; a zombie has ended."""
        fields = _stat(pid)
        return None if fields is None or fields[0] in "ZX" else cls(pid, int(fields[19]))

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return Process.running(self.pid) == self

    @property
    def began_unix_s(self) -> float:
        """When it started, by the wall clock as it is now."""
        boot_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        return boot_s + self.start_ticks / os.sysconf("SC_CLK_TCK")

    def end(self, number: signal.Signals, timeout_s: float) -> bool:
        """Signal it, and return whether it ended within `timeout_s`."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            # While the descriptor is open the pid is not reused: now compare the start time.
            if not self.alive:
                return True
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
            return bool(select.select([descriptor], [], [], timeout_s)[0])
        finally:
            os.close(descriptor)


def group_members(leader: Process) -> list[Process]:
    """Living processes of the group that `leader` made, whether or not it is alive itself."""
    now = Process.running(leader.pid)
    if now is not None and now != leader:
        return []  # another process has the pid by now, and with it the number of the group
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    group = [pid for pid in pids if (fields := _stat(pid)) and int(fields[2]) == leader.pid]
    members = [member for pid in group if (member := Process.running(pid))]
    return [member for member in members if member.start_ticks >= leader.start_ticks]


def detach(work: Callable[[Callable[[str], None]], None], log: Path, keep: int = -1) -> str:
    """Run `work` in a daemon: a session of its own, no terminal, output appended to `log`.

    The daemon keeps none of the caller's open files except the descriptor `keep`: who waits for the
    end of the caller's output, as Ansible does, must not wait for the daemon.

    Parameters
    ----------
    work
        Called in the daemon with a function that reports one line to the caller.

    Returns
    -------
    str
        The line that `work` reported; empty where it ended without a report.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _become_daemon(work, log, keep, writer)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader, encoding="utf-8") as report:
        return report.readline().strip()


def _become_daemon(
    work: Callable[[Callable[[str], None]], None], log: Path, keep: int, writer: int
) -> NoReturn:
    """Turn the forked child into the daemon and run `work`; never return to the caller's code."""
    code = 1
    try:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)  # the daemon is no session leader: it cannot get a terminal again
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for source, target in ((os.open(os.devnull, os.O_RDONLY), 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        for descriptor in [int(name) for name in os.listdir("/proc/self/fd")]:  # noqa: PTH208
            if descriptor > 2 and descriptor not in (writer, keep):
                with contextlib.suppress(OSError):
                    os.close(descriptor)

        def report(line: str) -> None:
            with contextlib.suppress(BrokenPipeError):  # nobody waits for the report any more
                os.write(writer, f"{line}\n".encode())
            os.close(writer)

        work(report)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


@contextlib.contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[int]:
    """Hold the lock at `path` during the block; yield its descriptor.

    Raises
    ------
    BlockingIOError
        When `wait` is false and another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield descriptor
    finally:
        os.close(descriptor)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a file so that a reader sees the old content or the new, never a part of it."""
    partial, text = path.with_name(f".{path.name}.{os.getpid()}"), json.dumps(value) + "\n"
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        if error.errno != errno.ENOSPC or not path.exists():
            raise
        # A full disk still takes what fits into the space that the file has already.
        with path.open("r+", encoding="utf-8") as file:
            file.write(text)
            file.truncate()


def no_space(folder: Path) -> str:
    """Say so where the disk of a folder is as good as full; empty where it is not."""
    disk = os.statvfs(folder)
    # Who finds no space may give back some of it at its end.
    left = disk.f_bavail * disk.f_frsize
    return f"{os.strerror(errno.ENOSPC)}: {left} bytes at {folder}" if left < _FULL_BYTES else ""


def read_json(path: Path) -> dict[str, Any] | None:
    """Read what `write_json` wrote; None where there is no such file."""
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return value


def _stat(pid: int) -> list[str] | None:
    """Fields of ``/proc/PID/stat`` from the third on (proc(5)); None where there is no process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()  # the command, in parentheses, may hold anything
