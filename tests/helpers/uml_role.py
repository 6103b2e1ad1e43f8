"""What test_uml runs inside User-Mode Linux: role netem by ansible-playbook, printed as JSON."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paretopipe_worker.link.conditions import Condition, TcpSettings
from tests import ROOT
from tests.helpers.namespaces import Namespace, joined_pair
from tests.helpers.uml_link import DATA_PORT, Worker, profile

WAYS = {"10.77.0.2": Condition(delay_ms=50, jitter_ms=1, rate_mbit=20, loss_percent=0.5)}
AS_ROOT = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "paretopipe_worker"]
RUNS = {"check": ("check", "main"), "real": ("main", "main", "restore")}
"""Runs of ansible-playbook, the first in check mode: the task files of the role in each."""


def playbook(files: tuple[str, ...], folder: Path) -> list[dict[str, Any]]:
    """The role on this host, as the role session uses it."""
    asked = profile("role", WAYS)
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "ansible_become": False,  # it is root already
        "netem_profile": asked,
        "netem_profiles": [{"name": asked["name"], "ways": {"pi": asked["ways"]}}],
        "netem_tcp": asdict(TcpSettings()),
        "netem_address": "10.77.0.1",
        "netem_ports": [DATA_PORT],
        "netem_lease": str(folder / "lease"),
        "netem_lease_s": 600,
        "netem_state_dir": str(folder / "state"),
        "worker_runtime": {"root": AS_ROOT},
    }
    tasks = [
        {"ansible.builtin.include_role": {"name": "netem", "tasks_from": file}} for file in files
    ]
    return [{"hosts": "pi", "gather_facts": False, "vars": variables, "tasks": tasks}]


def play(host: Namespace, run: str, folder: Path) -> list[dict[str, Any]]:
    """Do one of the runs on the host; what each call of the role's module answered."""
    book = folder / f"{run}.json"
    book.write_text(json.dumps(playbook(RUNS[run], folder)))
    done = host.run(
        *(Path(sys.executable).with_name("ansible-playbook"), "-i", "pi,", book, "--diff"),
        *(["--check"] if run == "check" else []),
        check=False,
        ANSIBLE_STDOUT_CALLBACK="ansible.posix.json",
    )
    if done.returncode != 0:
        raise RuntimeError(f"{run}: {done.stdout}{done.stderr}")
    tasks = json.loads(done.stdout)["plays"][0]["tasks"]
    results = [task["hosts"]["pi"] for task in tasks]
    return [each for each in results if each["action"] == "netem_link"]


def main() -> None:
    """Take one host's link through both runs."""
    with tempfile.TemporaryDirectory() as name, joined_pair() as (source, _):
        folder = Path(name)
        worker = Worker(source, folder)
        found: dict[str, Any] = {"unshaped": worker.state()}
        for run in RUNS:
            found[run] = {"answers": play(source, run, folder), "state": worker.state()}
        print(json.dumps(found))


if __name__ == "__main__":
    main()
