"""The check that torch works on a host, before anything is measured there."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests import ROOT

pytestmark = pytest.mark.slow

KILL = "import os, signal; os.kill(os.getpid(), signal.{})"
CHECK = """\
- name: Check the worker of two hosts
  hosts: stages
  gather_facts: false
  any_errors_fatal: true
  tasks:
    - name: Check that torch works
      ansible.builtin.import_role:
        name: worker
        tasks_from: torch
"""
ANOTHER = (
    rf"torch is built for another processor than .+, {platform.machine()}: the import of torch "
)


def fake_torch(folder: Path, text: str) -> Path:
    """Make a folder with a package `torch` of this text, which counts how often it is imported."""
    package = folder / "torch"
    package.mkdir(parents=True, exist_ok=True)
    count = f"open({str(folder / 'imports')!r}, 'a').write('x')\n"
    (package / "__init__.py").write_text(f"{count}{text}\n", encoding="utf-8")
    return folder


def working(version: str) -> str:
    """Code of a torch of this version that does what the check asks of it."""
    return f"import sys; print(1); print(2); print('\"{version}\"'); sys.exit(0)"


def preflight(home: Path, *path: Path) -> subprocess.CompletedProcess[str]:
    """Run the check, with packages of these folders in front of the installed ones."""
    return subprocess.run(
        [sys.executable, "-m", "paretopipe_worker", "preflight", f"--home={home}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT]))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (KILL.format("SIGILL"), rf"{ANOTHER}was ended by SIGILL.*python3-torch"),
        ("import os; os._exit(128 + 4)", rf"{ANOTHER}was ended by SIGILL"),
        (
            f"class nn: functional = None\ndef ones(*shape):\n    {KILL.format('SIGILL')}",
            r"another processor.*: a convolution was ended by SIGILL",
        ),
        (KILL.format("SIGSEGV"), r"does not work: the import of torch was ended by SIGSEGV on "),
        (KILL.format("SIGKILL"), r"ended by SIGKILL \(memory may have run out\)"),
        (
            "raise ImportError('libgomp.so.1: cannot open shared object file')",
            r"^torch does not work: the import of torch failed: ImportError: libgomp.so.1: cannot",
        ),
    ],
    ids=["illegal", "behind a shell", "illegal later", "segfault", "killed", "import error"],
)
def test_how_torch_fails_is_told_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    done = preflight(tmp_path, fake_torch(tmp_path / "fake", text))
    assert done.returncode == 2
    assert re.search(said, done.stderr), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "preflight.json").exists()


def test_a_build_that_worked_is_not_tried_again_before_it_changes(tmp_path: Path) -> None:
    done = preflight(tmp_path)
    assert json.loads(done.stdout)["torch"] == torch.__version__, done.stderr
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < json.loads(done.stdout)["free_bytes"] < total
    fake = fake_torch(tmp_path / "fake", working("9.9"))
    kept = (tmp_path / "preflight.json").read_text()
    for runs in (1, 1):
        assert json.loads(preflight(tmp_path, fake).stdout)["torch"] == "9.9"
        assert (fake / "imports").read_text() == "x" * runs
    os.utime(fake / "torch/__init__.py", ns=(1, 1))
    preflight(tmp_path, fake)
    assert (fake / "imports").read_text() == "xx"
    (tmp_path / "preflight.json").write_text(kept[:20])
    preflight(tmp_path, fake)
    assert (fake / "imports").read_text() == "xxx"


def check(folder: Path, torches: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run the role's check on hosts whose interpreters find these fakes of torch."""
    hosts = {}
    for number, text in enumerate(torches):
        home = folder / f"host{number}"
        fake = fake_torch(home, text)
        python = home / "python"
        python.write_text(f'#!/bin/sh\nPYTHONPATH={fake}:$PYTHONPATH exec {sys.executable} "$@"\n')
        python.chmod(0o755)
        runtime = {"python": str(python), "site": str(ROOT), "home": str(home)}
        hosts[home.name] = {"worker_runtime": runtime}
    variables = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    inventory = {"stages": {"hosts": hosts, "vars": variables}}
    (folder / "hosts.json").write_text(json.dumps({"all": {"children": inventory}}))
    (folder / "check.yml").write_text(CHECK)
    return playbook(folder / "check.yml", "-i", folder / "hosts.json")


def playbook(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a playbook to its end."""
    return subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), *arguments],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_ROLES_PATH": str(ROOT / "roles")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_host_whose_torch_is_built_for_another_processor_is_named(tmp_path: Path) -> None:
    done = check(tmp_path, [working("9.9"), KILL.format("SIGILL")])
    assert done.returncode != 0
    assert re.search(rf"fatal: \[host1\]: host1: {ANOTHER}.*worker_python", done.stdout), (
        done.stdout
    )
    assert "[host0]: host0" not in done.stdout


def test_hosts_with_different_versions_of_torch_are_named(tmp_path: Path) -> None:
    done = check(tmp_path, [working("2.1.0+cpu"), working("2.2.0")])
    assert done.returncode != 0
    assert re.search(r"these differ: host0 2\.1\.0\+cpu \(.+\); host1 2\.2\.0 \(", done.stdout)


def test_planning_that_dies_of_its_torch_says_so(tmp_path: Path) -> None:
    plan = [{"name": "Plan", "hosts": "localhost", "gather_facts": False, "roles": ["plan"]}]
    (tmp_path / "plan.yml").write_text(json.dumps(plan))
    worker = {"plan_worker": [sys.executable, "-c", KILL.format("SIGILL")], "run": "killed"}
    chosen = ("-e", json.dumps(worker), "-e", "experiment=experiments/tiny.yml")
    done = playbook(str(tmp_path / "plan.yml"), "-i", "inventory/local", *chosen)
    assert done.returncode == 2
    said = "planning was ended on this computer by signal 4 (SIGILL), as if torch were built"
    assert said in done.stdout, done.stdout
