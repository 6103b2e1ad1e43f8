"""Every command of the README is run, here or by the tests named here."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tests import ROOT

pytestmark = pytest.mark.slow

README = (ROOT / "README.md").read_text()
SWEEP_OVER_SSH = (
    ".venv/bin/ansible-playbook sweep.yml -i inventory/lab "
    "-e experiment=experiments/paper.yml -e run=first"
)
LINKS_SWEEP = (
    ".venv/bin/ansible-playbook sweep.yml -i inventory/local -e experiment=experiments/links.yml"
)
BACKENDS_SWEEP = (
    ".venv/bin/ansible-playbook sweep.yml -i inventory/local -e experiment=experiments/backends.yml"
)
THREE_STAGES_SWEEP = (
    ".venv/bin/ansible-playbook sweep.yml -i inventory/three "
    "-e experiment=experiments/three-stages.yml"
)
RUNTIMES_SWEEP, WIRE_SWEEP = (
    f".venv/bin/ansible-playbook sweep.yml -i inventory/local -e experiment=experiments/{name}.yml"
    for name in ("runtimes", "wire")
)
SHARED_SWEEP = (
    ".venv/bin/ansible-playbook sweep.yml -i inventory/shared "
    "-e experiment=experiments/shared-server.yml"
)
ELSEWHERE = {
    "make test": "what CI runs",
    "make sweep": "playbooks/test_sweep_local.py, with a smaller experiment",
    ".venv/bin/ansible-playbook playbooks/restore.yml -i inventory/local": (
        "playbooks/test_sweep_failures.py"
    ),
    SWEEP_OVER_SSH: "playbooks/test_rehearsal.py, with an inventory and an experiment of its own",
    **{
        f".venv/bin/ansible-playbook playbooks/{name}.yml -i inventory/lab": f"playbooks/{test}.py"
        for name, test in (
            ("check", "test_bad_hosts"),
            ("links", "test_links"),
            ("uninstall", "test_rehearsal"),
        )
    },
    LINKS_SWEEP: "playbooks/test_sweep_local.py, with each kind of profile in a smaller experiment",
    BACKENDS_SWEEP: "session/test_backends.py, its sessions; playbooks/test_sweep_local.py",
    RUNTIMES_SWEEP: "playbooks/test_sweep_runtimes.py, with a smaller experiment",
    WIRE_SWEEP: "session/test_wire_sessions.py, its sessions",
    SHARED_SWEEP: "playbooks/test_sweep_shared.py, with a smaller experiment",
    THREE_STAGES_SWEEP: "playbooks/test_rehearsal.py, over SSH and with a smaller experiment",
    ".venv/bin/python -m analysis.reproduce experiments/paper.yml -i inventory/lab": (
        "playbooks/test_rehearsal.py, with an inventory and an experiment of its own"
    ),
    ".venv/bin/python -m analysis.reproduce --from results/paper-20261126T120000.zip "
    "-i inventory/lab": "playbooks/test_rehearsal.py, with a smaller run",
    ".venv/bin/python -m analysis.pareto results/latest": "playbooks/test_sweep_local.py",
    ".venv/bin/python -m analysis.pareto results/latest --latency-max 50ms --energy-max 2J": (
        "analysis/test_choosing.py"
    ),
    ".venv/bin/python -m analysis.compare results/first results/second": "analysis/test_compare.py",
    ".venv/bin/python -m analysis.whatif results/latest --rate 10 --delay 40": (
        "analysis/test_whatif.py"
    ),
    ".venv/bin/python -m analysis.paper results/latest": "analysis/test_paper.py",
}
"""Commands that other tests run, or CI itself."""


def commands() -> list[str]:
    """Commands of the README's shell blocks, and those of its text that start with .venv/bin."""
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines() if line.strip()]
    return lines + re.findall(r"`(\.venv/bin/[^`]+)`", README)


HERE = [command for command in commands() if command not in ELSEWHERE]


def run(command: str) -> str:
    """Run a command of the README from the checkout, with this Python as the one in .venv."""
    words = shlex.split(command)
    assert words[:2] == [".venv/bin/python", "-m"], command
    done = subprocess.run(
        [sys.executable, *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readme_has_the_commands_that_are_run_elsewhere() -> None:
    assert set(ELSEWHERE) <= set(commands())


def benchmark(module: str) -> None:
    """Run a benchmark, shortened, and hold its document's form."""
    document = json.loads(run(f".venv/bin/python -m {module} --json --quick"))
    assert document["benchmark"] == module.rpartition(".")[2]
    assert document["rows"]
    for check in document["checks"]:
        assert set(check) == {"name", "value", "limit", "better", "met"}


@pytest.mark.long
@pytest.mark.parametrize(
    "name", ["energy", "exact", "fleet", "long", "pipeline", "relay", "steadiness"]
)
def test_the_other_benchmarks_run(name: str) -> None:
    benchmark(f"tests.benchmarks.{name}")


DEAR = ("tests.benchmarks.memory", "tests.benchmarks.stages", "tests.benchmarks.transport")
"""Benchmarks whose short form takes more than ten seconds all the same."""


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(each, marks=[pytest.mark.long] if any(name in each for name in DEAR) else [])
        for each in HERE
    ],
)
def test_a_command_of_the_readme_runs(command: str) -> None:
    if ".benchmarks." in command:
        benchmark(command.split()[2])
        return
    output = run(command)
    if "--json" in command:
        cuts = json.loads(output)["cuts"]
        assert cuts[0]["name"] == "@first"
        assert cuts[-1]["payload_bytes"] > 0
    else:
        assert ("satellite" if command.endswith(" links") else "features.18") in output


def test_every_file_the_readme_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_path_the_readme_names_is_there() -> None:
    named = re.findall(r"`((?:experiments|inventory|playbooks|docs)/[\w/.-]+)`", README)
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_makefile_has_the_targets_people_are_told_of() -> None:
    for target in ("sweep", "test", "test-long", "lint", "clean", "lock"):
        done = subprocess.run(
            ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
