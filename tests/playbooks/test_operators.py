"""Operators that do not come with torch: asked for on each host, and installed there if wanted."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from paretopipe_worker.operators import OperatorError, check
from tests import ROOT
from tests.helpers.labs import throwaway
from tests.helpers.namespaces import reason_without_namespaces
from tests.helpers.sweeps import Checkout
from tests.helpers.synthetic import PACKAGES

WAIT = "paretopipe_test::wait.default"
PLUGIN = "paretopipe_plugin::wait.default"

EXPERIMENT = """\
models:
  - name: tests.helpers.synthetic:two_of_2_ms
    requirements: [torch, no-such-package-of-anyone>=3]
links: [none]
"""

INSTALL = """\
- hosts: localhost
  vars:
    ansible_python_interpreter: "{{{{ ansible_playbook_python }}}}"
  tasks:
    - ansible.builtin.import_role:
        name: worker
        tasks_from: operators
      vars:
        worker_home: "{home}"
        worker_python: ""
        worker_runtime: {{python: "{home}/venv/bin/python", site: "{root}"}}
        worker_operators: [{operator}]
        worker_requirements: ["paretopipe-plugin @ file://{wheel}"]
"""

REGISTER = """\
import torch

library = torch.library.Library("paretopipe_plugin", "DEF")
library.define("wait(Tensor tensor) -> Tensor")
"""


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Checkout]:
    """A throwaway checkout."""
    with throwaway(tmp_path / "checkout") as made:
        yield made


def test_what_a_host_has_is_not_named_and_what_it_lacks_is() -> None:
    check(["aten::relu.default"], ["torch", "numpy>=1.0"])
    with pytest.raises(OperatorError) as refused:
        check(["nobodys::a.default", "nobodys::b.out", "other::c.default"], ["torch<1"])
    first, second, third = str(refused.value).splitlines()
    assert first.startswith("requirements: torch<1 is not satisfied: ")
    assert second.startswith("package 'nobodys' is not there or has no nobodys::a.default, nobodys")
    assert "'other'" in third
    assert f"installing the package for {sys.executable}" in third


@pytest.mark.parametrize(("paths", "code"), [([ROOT, PACKAGES], 0), ([ROOT], 2)])
def test_the_package_of_an_operator_is_imported(paths: list[Path], code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "paretopipe_worker", "operators", WAIT],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert (WAIT in done.stderr) == bool(code)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.must_run
@pytest.mark.skipif(bool(reason_without_namespaces()), reason=reason_without_namespaces())
def test_a_host_that_lacks_an_operator_is_named_before_anything_starts(copy: Checkout) -> None:
    done = copy.sweep(copy.write("experiments/waits.yml", EXPERIMENT), "waits")
    for host in ("edge", "server"):
        done.refused(
            f"{host}: requirements: no-such-package-of-anyone>=3 is not satisfied",
            f"package 'paretopipe_test' is not there or has no {WAIT}, which programs of this",
        )
    assert "torch is not satisfied" not in done.output
    assert not copy.results("waits").raw()


@pytest.mark.slow
def test_requirements_are_installed_into_the_environment_of_the_worker(
    copy: Checkout, tmp_path: Path
) -> None:
    home, wheel = tmp_path / "home", tmp_path / "paretopipe_plugin-1.0-py3-none-any.whl"
    subprocess.run([sys.executable, "-m", "venv", home / "venv"], check=True)
    [site] = (home / "venv").glob("lib/python*/site-packages")
    (site / "parent.pth").write_text("\n".join(map(str, _sites())) + "\n")
    (home / "requirements.txt").write_text("torch>=2\n")
    with zipfile.ZipFile(wheel, "w") as archive:
        info = "paretopipe_plugin-1.0.dist-info"
        archive.writestr("paretopipe_plugin.py", REGISTER)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: paretopipe-plugin\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    words = {"home": home, "root": ROOT, "wheel": wheel}
    for name, operator in (("has", PLUGIN), ("lacks", PLUGIN.replace("wait", "other"))):
        play = copy.write(f"playbooks/{name}.yml", INSTALL.format(operator=operator, **words))
        done = copy.run(".venv/bin/ansible-playbook", play, "-i", "localhost,", "-c", "local")
        if name == "has":
            done.succeeded()
            assert (site / "paretopipe_plugin.py").is_file()
        else:
            done.refused("localhost: package 'paretopipe_plugin' is not there or has no")


def _sites() -> set[str]:
    """Folders in which this Python's packages lie."""
    return {sysconfig.get_path("purelib"), *(path for path in sys.path if "site-packages" in path)}
