"""A short run of the fuzzer; ``python -m tests.fuzz`` is the long one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS


def fuzzed(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the fuzzer; `path` is a folder of modules that Python finds first."""
    environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    command = [sys.executable, "-m", "tests.fuzz", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_a_thousand_inputs_of_each_kind_end_nothing(tmp_path: Path) -> None:
    done = fuzzed("--inputs", "1000", "--found", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{1000 * len(TARGETS):,} inputs, 0 targets with a fault" in done.stdout


def test_a_fault_is_told_with_the_input_that_showed_it(tmp_path: Path) -> None:
    """The fault is planted by a module that Python loads before all others."""
    (tmp_path / "sitecustomize.py").write_text(
        "import yaml\n"
        "def load(text, Loader):\n"
        "    raise ZeroDivisionError('planted')\n"
        "yaml.load = load\n"
    )
    found = tmp_path / "found"
    asked = ("--inputs", "10", "--targets", "spec", "--found", str(found))
    done = fuzzed(*asked, path=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "ZeroDivisionError: planted" in done.stdout
    assert list((found / "spec").iterdir()), done.stdout


@pytest.mark.parametrize("name", TARGETS)
def test_right_inputs_and_an_empty_one_are_read_or_refused(name: str) -> None:
    for data in [*TARGETS[name].seeds(), b""]:
        TARGETS[name].check(data)
