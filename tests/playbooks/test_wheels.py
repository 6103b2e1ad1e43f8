"""Hosts get their packages by the roles: chosen, said, sent and installed by a real pip."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distributions
from pathlib import Path

import pytest
import yaml

from tests.helpers.indexes import Index, fleet_of_wheels, serving
from tests.helpers.labs import throwaway
from tests.helpers.sweeps import Checkout, Done

pytestmark = pytest.mark.slow

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
HERE = f"{platform.machine()}, glibc {platform.libc_ver()[1]}, Python {PYTHON}"
"""This machine, as people are told of it."""

PROVISION = """\
- hosts: stages
  gather_facts: false
  any_errors_fatal: true
  tasks:
    - ansible.builtin.import_role: {name: common, tasks_from: preflight}
    - ansible.builtin.import_role: {name: worker, tasks_from: describe}
    - ansible.builtin.import_role: {name: worker, tasks_from: choose}
    - ansible.builtin.import_role: {name: worker, tasks_from: refuse}
    - ansible.builtin.import_role: {name: worker, tasks_from: python}
"""
"""What role worker does about packages, without the rest of it, which needs the real ones."""

RUNTIMES = """\
- hosts: stages
  gather_facts: false
  tasks:
    - ansible.builtin.import_role: {name: common, tasks_from: preflight}
    - ansible.builtin.import_role: {name: worker, tasks_from: runtimes}
      vars: {worker_packages: [runner]}
    - ansible.builtin.debug: {var: worker_runtimes_lacking}
"""


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Checkout]:
    """A checkout whose hosts need two small packages, one of them named torch."""
    with throwaway(tmp_path / "the user's checkout") as made:
        made.write("requirements-worker.txt", "torch==2.0\nquick==2.0\n")
        made.write("requirements-runtimes.txt", "runner==1.0\n")
        made.write("playbooks/a.yml", PROVISION)
        made.write("playbooks/runtimes.yml", RUNTIMES)
        made.environment["UV_CACHE_DIR"] = str(tmp_path / "uv")
        yield made


@contextmanager
def lab(copy: Checkout, folder: Path, *names: str) -> Iterator[Index]:
    """Write an inventory of hosts that are this machine, and serve their packages."""
    fleet_of_wheels(folder / "root")
    with serving(folder / "root", "json", "head") as index:
        hosts = {name: {"worker_home": str(folder / f"{name}'s home")} for name in names}
        own = {
            "ansible_connection": "local",
            "ansible_python_interpreter": "{{ ansible_playbook_python }}",
            "worker_index_url": f"{index.url}/pypi",
            "worker_torch_index_url": f"{index.url}/pytorch",
        }
        inventory = {"all": {"children": {"stages": {"hosts": hosts, "vars": own}}}}
        copy.write("inventory/lab/hosts.yml", yaml.safe_dump(inventory))
        yield index


def play(copy: Checkout, name: str, *arguments: str) -> Done:
    """Run a playbook on the hosts."""
    play = f"playbooks/{name}.yml"
    return copy.run(".venv/bin/ansible-playbook", play, "-i", "inventory/lab", *arguments)


def changes(done: Done) -> dict[str, int]:
    """How many changes a playbook made on each host."""
    found = re.findall(r"^(\S+) +: ok=\d+ +changed=(\d+)", done.output, flags=re.MULTILINE)
    return {name: int(count) for name, count in found}


def versions(folder: Path, host: str) -> dict[str, str]:
    """Versions of what a host's environment has, pip and what came with it apart."""
    [site] = (folder / f"{host}'s home/venv").glob("lib/python*/site-packages")
    found = {each.name: each.version for each in distributions(path=[str(site)])}
    return {name: found[name] for name in found if name not in ("pip", "setuptools", "wheel")}


def test_hosts_are_told_what_they_get_and_install_exactly_that_once(
    copy: Checkout, tmp_path: Path
) -> None:
    with lab(copy, tmp_path, "pi") as index:
        done = play(copy, "a").succeeded()
        told = f"torch 2.0+cpu and 3 more, 0.0 MB to download from {index.url[7:]}"
        assert f"pi: {HERE}: {told}" in done.output
        assert done.output.index(told) < done.output.index("TASK [worker : Install the packages")
    wanted = {"torch": "2.0+cpu", "quick": "2.0", "sympy": "1.0", "filelock": "1.0"}
    assert versions(tmp_path, "pi") == wanted
    assert not (tmp_path / "pi's home/wheels").exists()
    # Nothing is lacking now, so no index is needed: both are gone.
    again = play(copy, "a").succeeded()
    assert "pi: has its packages" in again.output and changes(again) == {"pi": 0}


@pytest.mark.long
def test_a_lab_without_internet_is_told_for_each_host_what_to_do_and_then_uses_a_wheelhouse(
    copy: Checkout, tmp_path: Path
) -> None:
    with lab(copy, tmp_path, "pi", "server"):
        away = {"worker_index_url": "http://127.0.0.1:9", "worker_torch_index_url": ""}
        offline = [f"-e{name}={value}" for name, value in away.items()]
        done = play(copy, "a", *offline).refused("pi: lacks torch, quick", "server: lacks torch")
        [asked] = re.findall(r"-e\s+'(\{.*?\]\})'", " ".join(done.output.split()))
        assert done.output.count("no index can be reached") <= 4  # the error is shown twice
        assert changes(done) == {"pi": 0, "server": 0}
        holds = play(copy, "wheelhouse", "-e", asked).succeeded()
        assert f"{HERE}, torch for cpu (target 1): 4 wheels" in holds.output
        again = play(copy, "wheelhouse").succeeded()
        assert changes(again)["localhost"] == 0
        assert f"{HERE}, torch for cpu (pi, server): 4 wheels" in again.output
    done = play(copy, "a", *offline).succeeded()
    assert "MB to send" in done.output
    assert versions(tmp_path, "pi")["torch"] == versions(tmp_path, "server")["torch"] == "2.0+cpu"


@pytest.mark.long
def test_a_runtime_that_cannot_be_had_is_noted_and_one_that_can_is_installed(
    copy: Checkout, tmp_path: Path
) -> None:
    with lab(copy, tmp_path, "pi") as index:
        play(copy, "a").succeeded()
        [there] = (index.root / "pypi/runner").glob("*.whl")
        kept = there.rename(tmp_path / there.name)
        noted = play(copy, "runtimes").succeeded()
        assert "runner: " in noted.output and "there are no such wheels for" in noted.output
        kept.rename(there)
        (copy.root / ".cache/uv").rename(tmp_path / "what uv knew")
        play(copy, "runtimes").succeeded()
        assert versions(tmp_path, "pi")["runner"] == "1.0"
        assert changes(play(copy, "runtimes").succeeded()) == {"pi": 0}


@pytest.mark.long
def test_a_host_that_cannot_fetch_its_wheels_says_so_in_one_line(
    copy: Checkout, tmp_path: Path
) -> None:
    with lab(copy, tmp_path, "pi") as index:
        # The index lists a wheel that its server has not.
        [there] = (index.root / "pypi/quick").glob("*x86_64.whl")
        index.broken = there.name
        done = play(copy, "a").refused("pi: pip cannot install what it needs: HTTP error 404")
        assert "run playbooks/wheelhouse.yml" in " ".join(done.output.split())
    assert "Traceback" not in done.output
