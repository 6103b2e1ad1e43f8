"""Ten families of models over SSH, to hosts that have torch and neither torchvision nor timm."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests import ROOT
from tests.helpers import venvs
from tests.helpers.sshd import fleet, reason_without_sshd
from tests.helpers.sweeps import Checkout, checkout

pytestmark = [
    pytest.mark.alone,
    pytest.mark.long,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(bool(reason_without_sshd()), reason=reason_without_sshd()),
]

EXPERIMENT = "experiments/models.yml"
INVENTORY = "inventory/lab"
DEADLINE_S = 2000.0


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with what ``requirements-worker.txt`` lists and nothing else."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    python = venvs.made(folder, *venvs.worker_packages())
    look = "import importlib.util, sys; sys.exit(any(map(importlib.util.find_spec, sys.argv[1:])))"
    subprocess.run([python, "-I", "-c", look, "torchvision", "timm", "ansible"], check=True)
    return folder


@pytest.fixture
def lab(tmp_path: Path, bare: Path) -> Iterator[Checkout]:
    """A checkout whose inventory has hosts with that environment."""
    with fleet(bare, threads=1, netem_emulate=True) as up:
        copy = checkout(tmp_path / "checkout")
        copy.write(f"{INVENTORY}/hosts.yml", up.inventory)
        copy.environment.update(up.environment)
        with up.controller.entered():
            yield copy


def test_every_point_of_ten_families_is_measured_where_hosts_have_torch_alone(
    lab: Checkout,
) -> None:
    running = lab.start_sweep(EXPERIMENT, "models", inventory=INVENTORY)
    running.wait(DEADLINE_S).succeeded()
    points = lab.results("models").points
    experiment = yaml.safe_load((ROOT / EXPERIMENT).read_text(encoding="utf-8"))
    names = [each if isinstance(each, str) else each["name"] for each in experiment["models"]]
    assert list(points["model"].unique()) == names and len(names) == 10
    assert set(points["status"]) == {"ok"}, points.loc[points["status"] != "ok", "reason"]
    assert set(points["output"]) == {"exact"}
    assert points["gate"].all()
