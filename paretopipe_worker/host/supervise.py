"""Run a stage detached, under the host's lease and a deadline.

``launch`` leaves a small supervisor behind, which starts the stage, watches lease and deadline,
and writes ``<name>.status.json``. Where the host is to be busy, it runs the background load beside
the stage, and ends it with the stage. The supervisor holds ``<name>.lock`` for as long as it lives,
so that one name never runs twice, and deletes ``<name>.secret`` at the end, whether or not the
controller comes back. Neither stage nor load outlives its supervisor: the kernel kills them.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from paretopipe_worker.host import load as loads
from paretopipe_worker.host.daemons import (
    Process,
    detach,
    group_members,
    locked,
    no_space,
    read_json,
    write_json,
)
from paretopipe_worker.host.lease import Lease

GRACE_S = 5.0
"""Seconds between asking a stage to end and killing it."""

STAGE_ENVIRONMENT = {
    # By default glibc returns large blocks to the kernel after each use and gets them back page by
    # page: MobileNetV2 at batch 8 then took 263 ms, with these settings 152 to 167 ms.
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    "MALLOC_TOP_PAD_": str(64 << 20),
}

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]*")
_WATCHED = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_PR_SET_PDEATHSIG = 1


class LaunchError(RuntimeError):
    """A launch was refused, or its supervisor could not be started."""


@dataclass(frozen=True)
class Job:
    """One process to run under supervision.

    Parameters
    ----------
    name
        Names the job and its files in `run_dir`; of one name only one job runs at a time.
    command
        Program and arguments.
    lease
        File that must stay younger than `lease_s` seconds.
    deadline_s
        Seconds after the launch at which the process is ended.
    threads
        Threads of numerical libraries; None leaves their default.
    load
        Program and arguments of a background load; none where it is empty.
    """

    name: str
    command: tuple[str, ...]
    run_dir: Path
    lease: Path
    lease_s: float
    deadline_s: float
    threads: int | None = None
    load: tuple[str, ...] = ()

    def file(self, kind: str) -> Path:
        """Path of this job's lock, log, secret or status."""
        return self.run_dir / f"{self.name}.{kind}"

    @property
    def environment(self) -> dict[str, str]:
        """Environment of the process."""
        threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        chosen = {} if self.threads is None else dict.fromkeys(threads, str(self.threads))
        told = {loads.TOLD: shlex.join(self.load)} if self.load else {}
        return {**os.environ, **STAGE_ENVIRONMENT, **chosen, **told}


@dataclass(frozen=True)
class Status:
    """What ``<name>.status.json`` says: `exit_code` is null where a `signal` ended the process."""

    name: str
    state: str
    pid: int
    start_ticks: int
    child_pid: int | None = None
    child_start_ticks: int | None = None
    load_pid: int | None = None
    load_start_ticks: int | None = None
    exit_code: int | None = None
    signal: str | None = None
    reason: str = ""

    @property
    def supervisor(self) -> Process:
        """The process that wrote it."""
        return Process(self.pid, self.start_ticks)

    @property
    def children(self) -> list[Process]:
        """The supervised process, and its background load."""
        pairs = (
            (self.child_pid, self.child_start_ticks),
            (self.load_pid, self.load_start_ticks),
        )
        return [
            Process(pid, ticks) for pid, ticks in pairs if pid is not None and ticks is not None
        ]


def launch(job: Job) -> dict[str, Any]:
    """Start `job` detached unless it is running; return its status, with ``changed``.

    Raises
    ------
    LaunchError
        When the name is not allowed, the lease does not hold, or no supervisor could be started.
    """
    if not _NAME.fullmatch(job.name):
        raise LaunchError(
            f"--name {job.name!r}: allowed are letters, digits and _ . @ + -, the first a letter "
            "or digit"
        )
    if lapse := Lease(job.lease, job.lease_s).lapse():
        raise LaunchError(f"{job.name}: {lapse}: touch it before launching")
    try:
        with locked(job.file("lock"), wait=False) as lock:
            if (left := _read_status(job.file("status.json"))) is not None:
                _end_orphans(left)
            # The supervisor inherits the lock, and releases it when it ends.
            report = detach(lambda ready: _supervise(job, ready), job.file("log"), keep=lock)
    except BlockingIOError:
        status = read_json(job.file("status.json")) or {"name": job.name}
        return {"changed": False, **status, "state": "running"}
    if not report:
        job.file("secret").unlink(missing_ok=True)
        why = no_space(job.run_dir) or f"see {job.file('log')}"
        raise LaunchError(f"{job.name}: its supervisor did not start: {why}")
    return {"changed": True, **json.loads(report)}


def stop(run_dir: Path, grace_s: float = GRACE_S) -> list[str]:
    """End every supervised process of `run_dir` with all its descendants; return their names.

    When it returns, none of them is left.
    """
    found = [_read_status(path) for path in sorted(run_dir.glob("*.status.json"))]
    running = [status for status in found if status is not None and status.state == "running"]
    for status in running:  # all at once, so that the grace passes once
        if status.supervisor.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(status.pid, signal.SIGTERM)
    until = time.monotonic() + grace_s + 2
    for status in running:
        if not status.supervisor.end(signal.SIGTERM, max(0.0, until - time.monotonic())):
            status.supervisor.end(signal.SIGKILL, 5)
        _end_orphans(status)
        path = run_dir / f"{status.name}.status.json"
        if (last := _read_status(path)) is not None and last.state == "running":
            # Its supervisor was killed, by us or before, and could not say so.
            (run_dir / f"{status.name}.secret").unlink(missing_ok=True)
            reason = "stopped; its supervisor had been killed"
            write_json(path, asdict(replace(last, state="ended", reason=reason)))
    return [status.name for status in running]


def _supervise(job: Job, ready: Callable[[str], None]) -> None:
    """Supervise `job` from its start to its end."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    own = Process.running(os.getpid())
    assert own is not None
    status = Status(job.name, "running", own.pid, own.start_ticks)
    status_file = job.file("status.json")
    load = None
    try:
        if job.load:
            load = _start(job.load, job.environment, own.pid)
        child = _start(job.command, job.environment, own.pid)
    except OSError as error:
        if load:
            _end_group(load)
        job.file("secret").unlink(missing_ok=True)
        tool = (job.command if load or not job.load else job.load)[0]
        status = replace(status, state="ended", reason=f"{tool}: {error.strerror}")
        write_json(status_file, asdict(status))
        ready(json.dumps(asdict(status)))
        return
    status = replace(status, child_pid=child.pid, child_start_ticks=_ticks(child, own))
    if load:
        status = replace(status, load_pid=load.pid, load_start_ticks=_ticks(load, own))
    write_json(status_file, asdict(status))
    ready(json.dumps(asdict(status)))
    reason = _watch(child, load, Lease(job.lease, job.lease_s), job.deadline_s)
    for each in filter(None, (child, load)):
        _end_group(each)
    job.file("secret").unlink(missing_ok=True)
    code = child.returncode
    ended = signal.Signals(-code).name if code < 0 else None
    how = reason or (f"killed by {ended}" if ended else f"exited with {code}")
    reason = "; ".join(filter(None, (how, no_space(job.run_dir) if code else "")))
    status = replace(
        status, state="ended", exit_code=None if ended else code, signal=ended, reason=reason
    )
    write_json(status_file, asdict(status))


def _ticks(child: subprocess.Popen[bytes], own: Process) -> int:
    """When a child started."""
    started = Process.running(child.pid)  # None where it has ended already
    return started.start_ticks if started else own.start_ticks


def _start(
    command: tuple[str, ...], environment: dict[str, str], supervisor: int
) -> subprocess.Popen[bytes]:
    """Start a process in a group of its own, tied to its supervisor's life."""
    libc = ctypes.CDLL(None)

    def tie() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != supervisor:
            os._exit(1)  # the supervisor died before the line above took effect
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)

    # A preexec_fn is safe, since the supervisor has one thread, and it is the only way to set the
    # death signal.
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
        preexec_fn=tie,
    )


def _watch(
    child: subprocess.Popen[bytes],
    load: subprocess.Popen[bytes] | None,
    lease: Lease,
    deadline_s: float,
) -> str | None:
    """Wait until the process has ended (None) or is to be ended; return the reason for that."""
    until = time.clock_gettime(time.CLOCK_BOOTTIME) + deadline_s
    while True:
        left_s = max(0.0, until - time.clock_gettime(time.CLOCK_BOOTTIME))
        received = signal.sigtimedwait(_WATCHED, min(lease.poll_s, left_s))
        if child.poll() is not None:
            return None
        if load and load.poll() is not None:
            # What is measured from then on would not be measured on a busy host.
            return f"the background load ended by itself, with {load.returncode}"
        if received is not None and received.si_signo != signal.SIGCHLD:
            return f"stopped by {signal.Signals(received.si_signo).name}"
        if lapse := lease.lapse():
            return lapse
        if time.clock_gettime(time.CLOCK_BOOTTIME) >= until:
            return f"deadline of {deadline_s:g} s passed"


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """End the process, first by SIGTERM, then by SIGKILL with all that is left of its group."""
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGTERM)
            child.wait(GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _end_orphans(status: Status) -> None:
    """Kill what is left of the groups of processes whose supervisor was killed."""
    for child in status.children if status.state == "running" else ():
        for member in group_members(child):
            member.end(signal.SIGKILL, 5)


def _read_status(path: Path) -> Status | None:
    """Read a status file."""
    return Status(**value) if (value := read_json(path)) is not None else None


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``launch`` and ``stop`` to the worker's command line."""
    parser = commands.add_parser("launch", help="run a worker command detached, under a lease")
    parser.add_argument("--run-dir", type=Path, required=True, metavar="DIR")
    parser.add_argument("--lease", type=Path, required=True, metavar="FILE")
    parser.add_argument("--lease-s", type=float, required=True, metavar="S")
    parser.add_argument("--deadline-s", type=float, required=True, metavar="S")
    parser.add_argument("--name", required=True, metavar="SESSION.ATTEMPT")
    parser.add_argument("--threads", type=int, metavar="N")
    parser.add_argument("--load-cores", type=int, metavar="N", help="cores of a background load")
    parser.add_argument("--load-memory-mb", type=float, metavar="MB", help="memory of that load")
    parser.add_argument("arguments", nargs="+", metavar="ARGS", help="after --: worker command")
    parser.set_defaults(run=_run_launch)
    parser = commands.add_parser("stop", help="end every launched command of a run")
    parser.add_argument("--run-dir", type=Path, required=True, metavar="DIR")
    parser.set_defaults(run=_run_stop)


def _run_launch(args: argparse.Namespace) -> int:
    """``launch``: print one JSON line and leave the job running."""
    cores, memory_mb = args.load_cores, args.load_memory_mb
    job = Job(
        name=args.name,
        command=(sys.executable, "-m", "paretopipe_worker", *args.arguments),
        run_dir=args.run_dir,
        lease=args.lease,
        lease_s=args.lease_s,
        deadline_s=args.deadline_s,
        threads=args.threads,
        load=loads.command(cores, memory_mb, args.deadline_s) if cores else (),
    )
    try:
        print(json.dumps(launch(job)))
    except LaunchError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _run_stop(args: argparse.Namespace) -> int:
    """``stop``: print what was ended."""
    ended = stop(args.run_dir)
    print(json.dumps({"changed": bool(ended), "ended": ended}))
    return 0
