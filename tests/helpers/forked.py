"""Stage processes that begin as copies of one process, which has imported torch.

To import it costs a stage more than a short session does. The process that is copied is Python's
own fork server: it has the environment of stages, and has done nothing but import.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection, context, forkserver, get_context
from pathlib import Path
from typing import Self

from paretopipe_worker.__main__ import main
from tests import ROOT
from tests.helpers.namespaces import set_namespace

SERVER = get_context("forkserver")
IMPORTED = "paretopipe_worker.session.stage"
NETWORK = Path("/proc/thread-self/ns/net")


@dataclass(frozen=True)
class Forked:
    """A copy that runs a stage: what tests use of a ``subprocess.Popen``.

    Attributes
    ----------
    process
        The copy.
    said
        File of what it says on stderr.
    """

    process: context.ForkServerProcess
    said: Path

    @property
    def pid(self) -> int:
        """Its pid."""
        assert self.process.pid is not None
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit status, or its signal below zero; None while it runs."""
        return self.process.exitcode

    def poll(self) -> int | None:
        """How it has ended; None while it runs."""
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; how it ended."""
        self.process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(f"stage {self.pid}", timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[None, str]:
        """Wait for its end; nothing, and what it said on stderr."""
        self.wait(timeout)
        return None, self.said.read_text()

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal unless it has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for its end."""
        self.wait()


def prepare(environment: Mapping[str, str]) -> None:
    """Start the process that is copied, unless it runs.

    It has the stages' environment, since glibc reads the settings of its allocator when a process
    begins. BLAS gets no threads there, since a copy would lack them.
    """
    SERVER.set_forkserver_preload([IMPORTED])
    before = dict(os.environ)
    os.environ.update({**environment, "OPENBLAS_NUM_THREADS": "1"})
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)


def start(arguments: Sequence[str], environment: Mapping[str, str], said: Path) -> Forked:
    """Run a command of the worker where this thread is: in its network, and on its cores."""
    packages = environment["PYTHONPATH"].split(os.pathsep)
    ready, told = SERVER.Pipe(duplex=False)
    network = os.open(NETWORK, os.O_RDONLY)
    try:
        place = (f"/proc/{os.getpid()}/fd/{network}", os.sched_getaffinity(0))
        given = (arguments, packages, said, *place, told)
        process = SERVER.Process(target=_run, args=given, daemon=True)
        process.start()
        told.close()
        ready.recv()
    finally:
        os.close(network)
    return Forked(process, said)


def _run(
    arguments: Sequence[str],
    packages: Sequence[str],
    said: Path,
    network: str,
    cores: Collection[int],
    told: connection.Connection,
) -> None:
    """Be the process of a command, and end with its exit status."""
    with said.open("w") as errors:
        os.dup2(errors.fileno(), sys.stderr.fileno())
    os.chdir(ROOT)
    os.sched_setaffinity(0, cores)
    if NETWORK.readlink() != Path(network).readlink():
        with Path(network).open("rb") as there:
            set_namespace(there.fileno())
    sys.path[:0] = packages
    sys.argv = [IMPORTED, *arguments]
    told.send(None)
    told.close()
    sys.exit(main(list(arguments)))
