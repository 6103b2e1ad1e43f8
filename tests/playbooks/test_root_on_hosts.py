"""On hosts that an ordinary user reaches by SSH, root runs nothing that this user can change."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.sshd import WORKER_HOME, Fleet, fleet, reason_without_sshd
from tests.helpers.sweeps import Checkout, Done, checkout

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(reason_without_sshd()), reason=reason_without_sshd()),
]

HOME = str(Path(WORKER_HOME).parent)
PLANTED = """\
import os, pathlib
pathlib.Path("/tmp", f"run-by-{os.getuid()}").touch()
"""


@dataclass(frozen=True)
class Hosts:
    """A fleet, and the checkout from which it is used."""

    fleet: Fleet
    copy: Checkout

    def play(self, playbook: str, *words: str) -> Done:
        """Run a playbook to its end."""
        command = (".venv/bin/ansible-playbook", playbook, "-i", "inventory/lab", *words)
        with self.fleet.controller.entered():
            running = self.copy.start(*command)
        return running.wait()

    def files(self, folder: str) -> list[Path]:
        """What is in a folder of each host."""
        return [path for host in self.fleet.hosts for path in host.file(folder).rglob("*")]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Fresh hosts."""
    copy = checkout(tmp_path_factory.mktemp("hosts") / "checkout")
    with fleet(worker_governor="performance") as up:
        copy.write("inventory/lab/hosts.yml", up.inventory)
        copy.environment.update(up.environment)
        yield Hosts(up, copy)


@pytest.mark.long
def test_on_fresh_hosts_check_mode_says_what_would_change_and_changes_nothing(hosts: Hosts) -> None:
    done = hosts.play("playbooks/provision.yml", "--check", "--diff").succeeded()
    assert "Install what root runs" in done.output
    assert not hosts.files("/opt/paretopipe") + hosts.files(WORKER_HOME)


@pytest.mark.long
def test_root_refuses_a_folder_of_the_users_and_runs_none_of_the_users_code(hosts: Hosts) -> None:
    folder = ("-e", json.dumps({"worker_root_dir": f"{HOME}/root"}))
    refused = hosts.play("playbooks/provision.yml", *folder)
    refused.refused("belongs to user ada. Root runs nothing that another user can change")
    hosts.play("playbooks/provision.yml").succeeded()
    archives = hosts.files("/opt/paretopipe")
    assert {path.lstat().st_uid for path in archives} == {0}
    assert {path.name for path in archives} >= {"paretopipe.pyz"}

    package = [path for path in hosts.files(WORKER_HOME) if path.suffix == ".py"]
    assert package
    for path in package:
        path.write_text(path.read_text() + PLANTED)
    for host in hosts.fleet.hosts:
        # Bash reads this where sshd starts it for a command.
        host.file(f"{HOME}/.bashrc").write_text(f"export PYTHONPATH='{WORKER_HOME}/site'\n")
        host.file(f"{HOME}/.bashrc").chmod(0o644)
        host.file(f"{WORKER_HOME}/runs/run").mkdir(parents=True)
    hosts.play("playbooks/restore.yml").succeeded()
    marks = {path.name for path in hosts.files("/tmp") if path.name.startswith("run-by-")}
    # What ends stages, as the user, ran what was planted; nothing of root's did.
    assert len(marks) == 1, marks
    assert marks != {"run-by-0"}
