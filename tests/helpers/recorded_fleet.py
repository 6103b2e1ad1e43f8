"""A fleet of hundreds of hosts on one machine, for sweeps whose stages hand out made-up records.

Each host is a network namespace and a folder of this machine; the controller has a namespace, too,
with the bridge that joins them all. Where they are reached by SSH, each has an sshd. Everything but
the stages is real: the playbook, its roles and modules, supervisors, leases, records and analysis.
Hosts are prepared here, in place of the plays that do so, since that takes seconds for each.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from paretopipe_worker import prepare
from paretopipe_worker.plan import fleet, spec
from paretopipe_worker.plan.plan import Plan, Session
from tests.helpers.fake_run import FakeRun
from tests.helpers.namespaces import Namespace
from tests.helpers.sweeps import Checkout, Running
from tests.helpers.synthetic import PACKAGES

RUN = "recorded"
PLAYBOOK = "playbooks/recorded.yml"
_KEPT = (
    *("Check how this was started, before any host is touched", "Plan the run"),
    *("Find out what is left to measure", "Run the sessions", "Restore the hosts", "Analyse"),
)
"""Plays of a sweep; the work of the others is done here."""

CONTROLLER = "10.79.0.1"
EXPERIMENT = "experiments/recorded.yml"
INVENTORY = "inventory/recorded.yml"

_SPEC: dict[str, Any] = {
    "models": ["paretopipe_worker.model.tiny:network"],
    "links": ["none"],
    "splits": {"granularity": "block", "cuts": ["2"]},
    "phases": {"min_items": 20, "min_s": 0.1, "max_s": 10, "retries": 0},
}
_SSHD = (
    *("/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-o", "PidFile=none", "-o", "UsePAM=no"),
    *("-o", "UseDNS=no", "-o", "StrictModes=no", "-o", "PermitRootLogin=prohibit-password"),
    *("-o", "Subsystem=sftp internal-sftp"),
)


@dataclass(frozen=True)
class Recorded:
    """A checkout whose next sweep, named :data:`RUN`, has its records ready."""

    checkout: Checkout
    network: Namespace
    plan: Plan

    def start(self, *before: str, arguments: Sequence[str] = ()) -> Running:
        """Start the sweep by `before`, which is ``ansible-playbook`` by default."""
        program = before or (".venv/bin/ansible-playbook",)
        what = ("-e", f"experiment={EXPERIMENT}", "-e", f"run={RUN}", *arguments)
        with self.network.entered():
            return self.checkout.start(*program, PLAYBOOK, "-i", INVENTORY, *what)

    def hold(self, session: Session, until: Session) -> None:
        """Let the source's stage of a session end only when that of another has begun."""
        here, there = (self._recorded(each) for each in (session, until))
        here.with_suffix(".until").write_text(str(there.with_suffix(".began")), encoding="utf-8")

    def lose(self, session: Session, host: str) -> None:
        """Take away the records of a host's stage, which fails for that."""
        self._recorded(session, host).unlink()

    def _recorded(self, session: Session, host: str | None = None) -> Path:
        """The records of a stage, by default that of the source."""
        folder = self.checkout.root / "fleet/python/recorded" / (host or session.placement[0])
        return folder / f"{session.id}.1.jsonl"


@contextmanager
def recorded_fleet(
    checkout: Checkout,
    hosts: int,
    *,
    replicates: int = 1,
    connection: Literal["local", "ssh"] = "local",
    **spec_keys: Any,
) -> Iterator[Recorded]:
    """Make a fleet of so many hosts, in disjoint pairs, and the records of its sweep.

    Parameters
    ----------
    spec_keys
        Replace those of the experiment.
    """
    root = checkout.root
    names = [f"h{number:03}" for number in range(hosts)]
    own = {
        name: {"data_address": f"10.79.{number // 200 + 1}.{number % 200 + 1}"}
        for number, name in enumerate(names)
    }
    placements = [list(pair) for pair in zip(names[::2], names[1::2], strict=True)]
    asked = _SPEC | {"placements": placements, "replicates": replicates} | spec_keys
    checkout.write(EXPERIMENT, yaml.safe_dump(asked))
    python = _environment(root / "fleet/python")
    with _networks(f"pp{root.parent.name[-6:]}", own) as prefix:
        variables = _variables(root)
        if connection == "local":
            _enter(root, prefix, own)
        else:
            variables |= _reached_by_ssh(root / "fleet", own)
        inventory = {"all": {"children": {"stages": {"hosts": own, "vars": variables}}}}
        checkout.write(INVENTORY, yaml.safe_dump(inventory))
        plan = _planned(root, asked, names, own)
        _record(plan, python.parent.parent / "recorded")
        _prepare(root, names, _facts(root, python))
        with ExitStack() as stack:
            for name in names if connection == "ssh" else ():
                stack.enter_context(_sshd(root / "fleet", Namespace(f"{prefix}{name}", "", "")))
            stack.callback(_stop, root, names, python)
            yield Recorded(checkout, Namespace(prefix, CONTROLLER, ""), plan)


def _environment(folder: Path) -> Path:
    """Make an environment of this Python whose stages hand out records; return its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    here = next(path for path in map(Path, sys.path) if (path / "torch").is_dir())
    load = "import sys; 'stage' in sys.orig_argv and __import__('paretopipe_recorded')"
    (site / "fleet.pth").write_text(f"{here}\n{PACKAGES}\n{load}\n", encoding="utf-8")
    return folder / "bin/python"


def _variables(root: Path) -> dict[str, Any]:
    """What all hosts have in common. Each keeps to a folder of its own."""
    home = f"{root}/fleet/{{{{ inventory_hostname }}}}"
    return {
        "ansible_connection": "local",
        "ansible_become": False,
        "ansible_python_interpreter": sys.executable,
        "threads": 1,
        "worker_governor": "",
        "worker_state_dir": f"{home}/state",
        "netem_state_dir": f"{home}/link",
        # No link is shaped: whether this kernel could is not asked.
        "netem_emulate": True,
    }


def _enter(root: Path, prefix: str, own: dict[str, dict[str, str]]) -> None:
    """Give each host an interpreter that enters its namespace, as role ``local_lab`` does."""
    for name, given in own.items():
        script = root / "fleet" / name / "python"
        script.parent.mkdir(parents=True)
        inside = f'exec ip netns exec {prefix}{name} {sys.executable} "$@"'
        script.write_text(f"#!/bin/sh\n{inside}\n", encoding="utf-8")
        script.chmod(0o755)
        given["ansible_python_interpreter"] = str(script)


def _planned(
    root: Path, asked: dict[str, Any], names: list[str], own: dict[str, dict[str, str]]
) -> Plan:
    """Plan the run, as its first sweep would."""
    hosts = [
        {"name": name, "threads": 1, "data_address": own[name]["data_address"]} for name in names
    ]
    results = root / "results" / RUN
    results.mkdir(parents=True)
    parsed = fleet.parse(json.dumps(hosts))
    return prepare.prepare(RUN, spec.parse(asked), parsed, results, root / ".cache")


def _record(plan: Plan, folder: Path) -> None:
    """Write the records of every host's stages, and what their source tells meanwhile."""
    fake = FakeRun(folder.with_name("made-up"), plan)
    header = {"torch": torch.__version__.partition("+")[0]}
    weights = {table.model: table.weights_sha256 for table in plan.tables}
    for session in plan.sessions:
        files = fake.session(session, 1, header=header, weights=weights[session.model])
        for host, file in zip(session.placement, files, strict=True):
            (folder / host).mkdir(parents=True, exist_ok=True)
            file.rename(folder / host / file.name)
        progress = folder / session.placement[0] / f"{files[0].stem}.progress"
        progress.write_text("".join(_progress(plan, session)), encoding="utf-8")


def _progress(plan: Plan, session: Session) -> Iterator[str]:
    """A line for each point, as a source tells that it is finished."""
    for number, point in enumerate(map(plan.point, session.points), start=1):
        told = {"done": number, "of": len(session.points), "predicted_left_s": 0.0}
        told |= {"model": point.model, "link": point.link, "backend": point.backend}
        told |= {"split": ">".join(point.split), "status": "ok"}
        yield json.dumps(told | {"images_per_s": None, "latency_ms": 1.0}) + "\n"


def _facts(root: Path, python: Path) -> dict[str, Any]:
    """What role ``worker`` finds out about each host."""
    package = ["/usr/bin/env", f"PYTHONPATH={root}", str(python), "-m", "paretopipe_worker"]
    return {
        "worker_runtime": {
            "python": str(python),
            "site": str(root),
            "home": f"{root}/fleet/{{{{ inventory_hostname }}}}/home",
            "root": package,
        },
        "worker_torch": torch.__version__.partition("+")[0],
        "worker_free_bytes": None,
    }


def _prepare(root: Path, names: list[str], facts: dict[str, Any]) -> None:
    """Leave what a sweep leaves on hosts before its sessions, and its playbook without that."""
    for name in names:
        run = root / "fleet" / name / "home/runs" / RUN
        run.mkdir(parents=True)
        (run / "lease").touch()
        shutil.copy(root / "results" / RUN / "plan.json", run)
    plays = yaml.safe_load((root / "playbooks/sweep.yml").read_text(encoding="utf-8"))
    kept = [play for play in plays if play["name"] in _KEPT]
    assert len(kept) == len(_KEPT)
    prepared = {
        "name": "Take the hosts as prepared",
        "hosts": "stages",
        "gather_facts": False,
        "tags": ["always"],
        "tasks": [{"name": "Note it", "ansible.builtin.set_fact": facts}],
    }
    # After the check, which takes all that is known of hosts for their inventory.
    text = yaml.safe_dump([kept[0], prepared, *kept[1:]], sort_keys=False)
    (root / PLAYBOOK).write_text(text, encoding="utf-8")


def _stop(root: Path, names: list[str], python: Path) -> None:
    """End stages that are still held."""
    for name in names:
        run = root / "fleet" / name / "home/runs" / RUN
        if list(run.glob("*.status.json")):
            command = [python, "-m", "paretopipe_worker", "stop", f"--run-dir={run}"]
            subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def _networks(prefix: str, own: dict[str, dict[str, str]]) -> Iterator[str]:
    """Make the namespaces of the controller, of this name, and of the hosts, and join them."""
    inside = [f"{prefix}{name}" for name in own]
    with ExitStack() as stack:
        for namespace in (prefix, *inside):
            subprocess.run(["ip", "netns", "add", namespace], check=True)
            stack.callback(subprocess.run, ["ip", "netns", "delete", namespace], check=True)
        lines = ["link add name switch type bridge", "link set lo up", "link set switch up"]
        lines += [f"address add {CONTROLLER}/16 dev switch"]
        for number, namespace in enumerate(inside):
            lines += [f"link add port{number} type veth peer name eth0 netns {namespace}"]
            lines += [f"link set port{number} master switch up"]
        _batch(prefix, lines)
        for namespace, given in zip(inside, own.values(), strict=True):
            address = f"address add {given['data_address']}/16 dev eth0"
            _batch(namespace, ["link set lo up", "link set eth0 up", address])
        yield prefix


def _batch(namespace: str, lines: list[str]) -> None:
    """Run several commands of ``ip`` in a namespace."""
    command = ["ip", "-n", namespace, "-batch", "-"]
    subprocess.run(command, input="\n".join(lines), text=True, check=True)


def _reached_by_ssh(folder: Path, own: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Make keys, and say how hosts are reached at their data addresses."""
    for name in ("user", "host"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", folder / name]
        subprocess.run(command, check=True)
    key = (folder / "host.pub").read_text(encoding="utf-8")
    known = folder / "known_hosts"
    known.write_text("".join(f"{host['data_address']} {key}" for host in own.values()))
    for host in own.values():
        host["ansible_host"] = host["data_address"]
    return {
        "ansible_connection": "ssh",
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(folder / "user"),
        "ansible_ssh_common_args": f"-F none -o UserKnownHostsFile={known}",
    }


@contextmanager
def _sshd(folder: Path, network: Namespace) -> Iterator[None]:
    """Run the sshd of a host."""
    keys = ("-o", f"HostKey={folder}/host", "-o", f"AuthorizedKeysFile={folder}/user.pub")
    Path("/run/sshd").mkdir(exist_ok=True)
    with network.entered():
        process = subprocess.Popen([*_SSHD, *keys], stderr=subprocess.PIPE, text=True)
    assert process.stderr
    try:
        line = process.stderr.readline()
        assert "listening" in line, line
        yield
    finally:
        process.kill()
        process.wait()
