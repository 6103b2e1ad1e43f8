"""Operators that do not come with torch: asked for on each host, and installed there if wanted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from paretopipe_worker.operators import lacking
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
  - name: paretopipe_worker.model.tiny:network
    input: [3, 32, 32]
links: [none]
strategy: {sample: 1}
phases: {min_items: 6, min_s: 0, retries: 0}
"""

INSTALL = """\
- hosts: localhost
  vars:
    ansible_python_interpreter: "{{{{ ansible_playbook_python }}}}"
  tasks:
    - ansible.builtin.import_role:
        name: worker
        tasks_from: abilities
      vars:
        worker_home: "{home}"
        worker_python: ""
        worker_runtime: {{python: "{home}/venv/bin/python", site: "{root}"}}
        worker_operators: [{operator}]
        worker_requirements: ["paretopipe-plugin @ file://{wheel}", "./no/such/package"]
        worker_packages: []
        worker_ask: true
    - ansible.builtin.copy:
        content: "{{{{ worker_abilities | to_json }}}}"
        dest: "{found}"
        mode: "0644"
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
    assert lacking(["aten::relu.default"], ["torch", "numpy>=1.0"]) == {}
    found = lacking(["nobodys::a.default", "nobodys::b.out", "other::c.default"], ["torch<1"])
    assert list(found) == ["torch<1", "nobodys::a.default", "nobodys::b.out", "other::c.default"]
    first, second, third, fourth = found.values()
    assert first.startswith("requirements: torch<1 is not satisfied: ")
    assert second.startswith("package 'nobodys' is not there or has no nobodys::a.default, nobodys")
    assert second == third
    assert "'other'" in fourth
    assert f"installing the package for {sys.executable}" in fourth


@pytest.mark.parametrize(("paths", "there"), [([ROOT, PACKAGES], True), ([ROOT], False)])
def test_the_package_of_an_operator_is_imported(paths: list[Path], there: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "paretopipe_worker", "operators", WAIT],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    assert list(json.loads(done.stdout)) == ([] if there else [WAIT])


@pytest.mark.slow
@pytest.mark.must_run
@pytest.mark.skipif(bool(reason_without_namespaces()), reason=reason_without_namespaces())
@pytest.mark.long
def test_points_that_need_an_operator_are_refused_and_the_rest_is_measured(copy: Checkout) -> None:
    done = copy.sweep(copy.write("experiments/waits.yml", EXPERIMENT), "waits")
    said = f"package 'paretopipe_test' is not there or has no {WAIT}, which programs of this sweep"
    done.refused(f"edge: 3 points are not measured, since {said}", "3 points failed by themselves")
    points = copy.results("waits").points
    for model, status in (("synthetic:two_of_2_ms", "failed"), ("tiny:network", "ok")):
        rows = points[points["model"].str.endswith(model)]
        assert set(rows["status"]) == {status}
        reasons = rows["reason"].dropna()
        assert all(reasons.str.startswith(f"edge: {said}")) and len(reasons) % 3 == 0


@pytest.mark.slow
def test_requirements_are_installed_into_the_environment_of_the_worker(
    copy: Checkout, tmp_path: Path
) -> None:
    home, wheel = tmp_path / "home", tmp_path / "paretopipe_plugin-1.0-py3-none-any.whl"
    subprocess.run([sys.executable, "-m", "venv", home / "venv"], check=True)
    [site] = (home / "venv").glob("lib/python*/site-packages")
    (site / "parent.pth").write_text("\n".join(map(str, _sites())) + "\n")
    for name in ("requirements", "requirements-runtimes"):
        (home / f"{name}.txt").write_text("torch>=2\n")
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
    found, other = tmp_path / "found.json", PLUGIN.replace("wait", "other")
    words = {"home": home, "root": ROOT, "wheel": wheel, "found": found}
    play = copy.write("playbooks/a.yml", INSTALL.format(operator=f"{PLUGIN}, {other}", **words))
    copy.run(".venv/bin/ansible-playbook", play, "-i", "localhost,", "-c", "local").succeeded()
    assert (site / "paretopipe_plugin.py").is_file()
    told = json.loads(found.read_text())
    assert list(told["lacking"]) == [other, "./no/such/package"]
    assert told["lacking"][other].startswith("package 'paretopipe_plugin' is not there or has no")
    assert told["lacking"]["./no/such/package"].startswith("pip cannot install what it needs: ")
    assert "cpu" in told["devices"] and "version" in told["runtimes"]["eager"]


def _sites() -> set[str]:
    """Folders in which this Python's packages lie."""
    return {sysconfig.get_path("purelib"), *(path for path in sys.path if "site-packages" in path)}
