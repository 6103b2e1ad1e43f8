"""What a session costs the controller, for fleets of few and of many hosts.

Hosts are namespaces of this machine, in disjoint pairs, and their stages hand out records that were
made before (:mod:`tests.helpers.recorded_fleet`); everything else is a real sweep. Few hosts are
also reached by SSH. The controller's time is CPU time: of Ansible's main process, of the worker
processes that it forks, and of the clients of SSH. What modules take is the hosts' time, which they
spend here on the same cores, and is not part of it. Waiting is the share of the workers' wall time
in which they did not compute.

`walk` is the play that runs the sessions. `steps` is how that was arranged before, with tasks that
do nothing: each session in turn, for all hosts, with a task for each of its five steps. It shows
what the arrangement alone costs.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from tests.benchmarks.report import Check, Rows, main
from tests.helpers.recorded_fleet import INVENTORY, RUN, Recorded, recorded_fleet
from tests.helpers.sweeps import Running, checkout

PLAY = "Run the sessions"
DEADLINE_S = 590.0
HOSTS, BY_SSH, IN_STEPS = (2, 10, 50, 200), (2, 10), (2, 10, 50)
COUNTED = (".venv/bin/python", "-m", "tests.helpers.counted_playbook", "spent.jsonl")


@dataclass(frozen=True)
class Spent:
    """What a play took, in seconds; `wall_s` of the play, the rest CPU but for `busy_s`.

    `workers_s` is that of the processes that ran tasks, and `busy_s` their wall time. `children_s`
    is that of what they started and waited for: modules on hosts that are here, else SSH's clients.
    `kept_s` is that of SSH's clients which keep connections.
    """

    wall_s: float
    main_s: float
    kept_s: float
    workers_s: float
    busy_s: float
    children_s: float


def measure(quick: bool) -> tuple[Rows, Sequence[Check]]:
    """Sweep fleets of every size; a quick run only the smallest."""
    rows = [_walk(hosts, "local") for hosts in HOSTS[: 1 if quick else None]]
    rows += [_walk(hosts, "ssh") for hosts in BY_SSH[: 0 if quick else None]]
    rows += [_steps(hosts) for hosts in IN_STEPS[: 1 if quick else None]]
    walks = [row for row in rows if row["way"] == "walk"]
    checks = [
        Check(
            f"{row['hosts']} hosts, {row['connection']}: controller's seconds per session and pair",
            row["controller_per_session_s"],
            2.0,
            "lower",
        )
        for row in walks
    ]
    sizes = {
        row["hosts"]: row["controller_per_session_s"]
        for row in walks
        if row["connection"] == "local"
    }
    if {10, 200} <= set(sizes):
        ratio = sizes[200] / sizes[10]
        checks.append(Check("the same at 200 hosts over that at 10", ratio, 1.1, "lower"))
    return rows, checks


def _walk(hosts: int, connection: Literal["local", "ssh"]) -> dict[str, Any]:
    """Sweep a fleet, analysis included, and count what its sessions took."""
    with tempfile.TemporaryDirectory(prefix="ppfleet-") as folder:
        copy = checkout(Path(folder) / "checkout")
        # Short, since the names of sockets are.
        copy.environment["ANSIBLE_SSH_CONTROL_PATH_DIR"] = f"{folder}/c"
        with recorded_fleet(copy, hosts, connection=connection) as fleet:
            fleet.start(*COUNTED).wait(DEADLINE_S).succeeded()
            sessions = len(fleet.plan.sessions)
            measured = copy.results(RUN).points["status"].eq("ok").sum()
        assert measured == len(fleet.plan.points), copy.results(RUN).points["reason"]
        return _row("walk", hosts, sessions, connection, _spent(copy.root / COUNTED[-1], PLAY))


def _steps(hosts: int) -> dict[str, Any]:
    """Arrange the same sessions by tasks that do nothing."""
    with tempfile.TemporaryDirectory(prefix="ppfleet-") as folder:
        copy = checkout(Path(folder) / "checkout")
        with recorded_fleet(copy, hosts) as fleet:
            sessions = len(fleet.plan.sessions)
            _start_steps(fleet).wait(DEADLINE_S).succeeded()
        return _row("steps", hosts, sessions, "local", _spent(copy.root / COUNTED[-1], PLAY))


def _start_steps(fleet: Recorded) -> Running:
    """Run a play that loops over all sessions on all hosts."""
    tasks = [
        {"name": f"Step {number}", "ansible.builtin.command": {"argv": ["true"]}}
        for number in range(5)
    ]
    loop = {
        "name": "Run each session in turn",
        "ansible.builtin.include_tasks": "steps.yml",
        "loop": "{{ sessions }}",
        "loop_control": {"loop_var": "session"},
        "when": "inventory_hostname in session.placement",
    }
    sessions = [{"placement": list(each.placement)} for each in fleet.plan.sessions]
    play = {"name": PLAY, "hosts": "stages", "gather_facts": False, "tasks": [loop]}
    play["vars"] = {"sessions": sessions}
    fleet.checkout.write("playbooks/steps.yml", yaml.safe_dump(tasks))
    fleet.checkout.write("playbooks/in-steps.yml", yaml.safe_dump([play]))
    with fleet.network.entered():
        return fleet.checkout.start(*COUNTED, "playbooks/in-steps.yml", "-i", INVENTORY)


def _spent(file: Path, play: str) -> Spent:
    """Sum what a play took, by the lines of :mod:`tests.helpers.counted_playbook`."""
    tasks: list[dict[str, Any]] = []
    for line in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
        if "play" not in line:
            tasks.append(line)
        elif line["play"] != play:
            tasks = []
        else:
            sums = (sum(task[name] for task in tasks) for name in ("own_s", "wall_s", "others_s"))
            return Spent(line["wall_s"], line["main_s"], line["kept_s"], *sums)
    raise AssertionError(f"{file}: no play {play!r}")


def _row(way: str, hosts: int, sessions: int, connection: str, spent: Spent) -> dict[str, Any]:
    """What the benchmark tells of a play."""
    ssh_s = spent.children_s + spent.kept_s if connection == "ssh" else 0.0
    controller_s = spent.main_s + spent.workers_s + ssh_s
    return {
        "way": way,
        "hosts": hosts,
        "connection": connection,
        "sessions": sessions,
        "wall_s": round(spent.wall_s, 2),
        "controller_per_session_s": round(controller_s / sessions, 3),
        "python_share": round((spent.main_s + spent.workers_s) / controller_s, 3),
        "ssh_share": round(ssh_s / controller_s, 3),
        "waiting_share": round(1 - (spent.workers_s + spent.children_s) / spent.busy_s, 3),
        "main_s": round(spent.main_s, 2),
        "workers_s": round(spent.workers_s, 2),
        "hosts_s": None if connection == "ssh" else round(spent.children_s, 2),
    }


if __name__ == "__main__":
    main("fleet", measure, __doc__.partition("\n")[0])
