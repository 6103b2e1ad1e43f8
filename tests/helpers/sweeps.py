"""Real sweeps for tests: ansible-playbook in a throwaway copy of the checkout.

Every process of a sweep, daemons on hosts of the local lab included, inherits the variable
``PARETOPIPE_TEST`` with the copy's path, and so is found again wherever it went.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from paretopipe_worker.records.files import read_records
from paretopipe_worker.records.lines import End, Header, Record
from tests import ROOT

MARK = "PARETOPIPE_TEST"
DEADLINE_S = 240.0
"""Seconds a command of a sweep may take."""
HEARING = ("env", "--default-signal=HUP,INT")
"""What a command begins with that is to be ended by these signals, as from a terminal. A shell has
jobs in the background ignore SIGINT, and nohup SIGHUP, and children do as their parents."""


@dataclass
class Running:
    """A command that runs in a checkout, in a process group of its own."""

    process: subprocess.Popen[bytes]
    log: Path
    reader: subprocess.Popen[bytes]

    @property
    def output(self) -> str:
        """What it has printed so far, errors included."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def prints(self, text: str, deadline_s: float = DEADLINE_S) -> None:
        """Wait until it has printed `text`."""
        end = time.monotonic() + deadline_s
        while text not in self.output:
            assert self.process.poll() is None, f"ended without printing {text!r}:\n{self.output}"
            assert time.monotonic() < end, f"did not print {text!r} in time:\n{self.output}"
            time.sleep(0.02)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the command and all its children, as a terminal does at Ctrl-C."""
        os.killpg(self.process.pid, number)

    def wait(self, deadline_s: float = DEADLINE_S) -> Done:
        """Wait for its end; past the deadline it is killed and the test fails with its output."""
        try:
            code = self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            self.process.wait()
            raise AssertionError(f"still ran after {deadline_s:g} s:\n{self.output}") from None
        self.reader.wait(deadline_s)
        return Done(code, self.output)


@dataclass(frozen=True)
class Done:
    """How a command ended: its exit status, and all it printed."""

    code: int
    output: str

    def succeeded(self) -> Done:
        """Hold that it did; else the test fails with what it printed."""
        assert self.code == 0, f"exit status {self.code}:\n{self.output}"
        return self

    def refused(self, *texts: str) -> Done:
        """Hold that it failed and, in words that Ansible may have wrapped, said each of `texts`."""
        assert self.code != 0, f"it should have failed:\n{self.output}"
        flat = " ".join(self.output.split())
        assert [text for text in texts if text not in flat] == [], self.output
        assert "Traceback" not in self.output, self.output
        return self


@dataclass(frozen=True)
class Results:
    """What a run left in its folder."""

    folder: Path

    @property
    def plan(self) -> dict[str, Any]:
        """Its plan."""
        return self._json("plan.json")

    @property
    def manifest(self) -> dict[str, Any]:
        """Its manifest."""
        return self._json("manifest.json")

    @property
    def points(self) -> pd.DataFrame:
        """Its points, one per row."""
        return pd.read_csv(self.folder / "points.csv")

    @property
    def front(self) -> pd.DataFrame:
        """Its fronts."""
        return pd.read_csv(self.folder / "front.csv")

    def records(self) -> list[list[Record]]:
        """Every file of its records, read."""
        return [list(read_records(path)) for path in sorted(self.folder.glob("records/*/*.jsonl"))]

    def ends(self, host: str) -> list[tuple[Header, End | None]]:
        """First and last line of each file of one host, in the order of their names."""
        files = [file for file in self.records() if file[0].host == host]  # type: ignore[union-attr]
        return [(file[0], file[-1] if isinstance(file[-1], End) else None) for file in files]  # type: ignore[misc]

    def raw(self) -> dict[str, bytes]:
        """Raw content of its records, by path."""
        found = sorted(self.folder.glob("records/*/*.jsonl"))
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in found}

    def _json(self, name: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads((self.folder / name).read_text(encoding="utf-8"))
        return value


@dataclass
class Checkout:
    """A throwaway copy of the tree, with the environment of the tests as its ``.venv``."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    started: int = 0

    def start(self, *command: str | Path) -> Running:
        """Start a command of the README in it, such as ``.venv/bin/ansible-playbook``."""
        self.started += 1
        log = self.root / f"command-{self.started}.log"
        words = [str(word) for word in command]
        with log.open("w", encoding="utf-8") as output:
            output.write(f"$ {shlex.join(words)}\n")
            output.flush()
            process = subprocess.Popen(
                [*HEARING, *words],
                cwd=self.root,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            # Through a pipe, so that whoever waits for a line sees that none is held back there.
            reader = subprocess.Popen(["cat"], stdin=process.stdout, stdout=output)
        assert process.stdout is not None
        process.stdout.close()
        return Running(process, log, reader)

    def run(self, *command: str | Path, deadline_s: float = DEADLINE_S) -> Done:
        """Run a command in it to its end."""
        return self.start(*command).wait(deadline_s)

    def start_sweep(
        self, experiment: str | Path, run: str, *arguments: str, inventory: str = "inventory/local"
    ) -> Running:
        """Start a sweep."""
        what = ("-e", f"experiment={experiment}", "-e", f"run={run}", *arguments)
        return self.start(".venv/bin/ansible-playbook", "sweep.yml", "-i", inventory, *what)

    def sweep(
        self, experiment: str | Path, run: str, *arguments: str, inventory: str = "inventory/local"
    ) -> Done:
        """Run a sweep to its end."""
        return self.start_sweep(experiment, run, *arguments, inventory=inventory).wait()

    def results(self, run: str) -> Results:
        """What a run left."""
        return Results(self.root / "results" / run)

    def write(self, path: str, text: str) -> Path:
        """Put a file into it, such as another experiment or inventory."""
        (self.root / path).write_text(text, encoding="utf-8")
        return Path(path)

    def processes(self) -> dict[int, str]:
        """Command lines of all processes that were started from it, in whatever namespace."""
        mark = f"{MARK}={self.root}".encode()
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    words = (entry / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
                    found[int(entry.name)] = b" ".join(words).decode(errors="replace")
            except OSError:
                continue  # ended meanwhile
        return found

    def _environment(self) -> dict[str, str]:
        """The environment of its commands: this one's, without what would steer Ansible."""
        inherited = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("ANSIBLE_", "PYTHON", "MAKE", "MFLAGS", "PYTEST"))
        }
        return {**inherited, MARK: str(self.root), "ANSIBLE_NOCOLOR": "1", **self.environment}


def checkout(folder: Path) -> Checkout:
    """Copy the files that git would commit to `folder`, file times kept as ``make`` needs them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and os.path.lexists(ROOT / name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    (folder / ".venv").symlink_to(sys.prefix)
    return Checkout(folder)
