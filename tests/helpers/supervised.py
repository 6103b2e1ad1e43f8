"""Processes under supervision, as Ansible launches them on a host."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paretopipe_worker.host.daemons import Process
from tests.helpers.waiting import until

WAIT = "import signal; signal.pause()"


def alive(pid: int) -> bool:
    """Whether a process has not ended."""
    return Process.running(pid) is not None


@dataclass
class SupervisedHost:
    """A run's folder on a host, and what Ansible would call there."""

    folder: Path

    @property
    def lease(self) -> Path:
        """The lease file."""
        return self.folder / "lease"

    def launch(self, program: str, name: str = "s1.1", **options: Any) -> Any:
        """Launch a small Python program under supervision, as the command line would a stage."""
        limits = {"lease_s": 300.0, "deadline_s": 300.0, **options}
        command = limits.pop("command", (sys.executable, "-c", program))
        script = (
            "import json, sys; from pathlib import Path\n"
            "from paretopipe_worker.host import supervise\n"
            "name, folder, lease, command, limits = json.loads(sys.argv[1])\n"
            "supervise.GRACE_S = 0.5\n"
            "job = supervise.Job(name, tuple(command), Path(folder), Path(lease), **limits)\n"
            "print(json.dumps(supervise.launch(job)))"
        )
        words = json.dumps([name, str(self.folder), str(self.lease), command, limits])
        # Its output is a pipe, as Ansible's is: it must not stay open with the daemon.
        done = subprocess.run(
            [sys.executable, "-c", script, words], capture_output=True, text=True, timeout=20
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def entrusted(self, name: str = "s1.1") -> Path:
        """The file of a secret that was left for a process."""
        path = self.folder / f"{name}.secret"
        path.touch()
        return path

    def cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the worker's command line."""
        command = [sys.executable, "-m", "paretopipe_worker", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=30)

    def stop(self) -> Any:
        """Stop all that runs."""
        return json.loads(self.cli("stop", "--run-dir", str(self.folder)).stdout)

    def status(self, name: str = "s1.1") -> Any:
        """What the supervisor last wrote."""
        return json.loads((self.folder / f"{name}.status.json").read_text())

    def ended(self, name: str = "s1.1") -> Any:
        """The status, once the process has ended."""
        until(lambda: self.status(name)["state"] == "ended", f"the end of {name}")
        return self.status(name)

    def log(self, name: str = "s1.1") -> str:
        """What the process printed."""
        return (self.folder / f"{name}.log").read_text()
