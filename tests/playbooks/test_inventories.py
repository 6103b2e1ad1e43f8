"""The inventories to copy can be planned for as they are, before anybody fills in an address."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests import ROOT
from tests.helpers.sweeps import Checkout, checkout

pytestmark = pytest.mark.slow

TINY = yaml.safe_load((ROOT / "experiments/tiny.yml").read_text(encoding="utf-8"))
OWN_COMPUTERS = {"local", "shared", "three"}
"""Inventories whose hosts are namespaces of one computer; other tests run sweeps on them."""

INVENTORIES = sorted(path.name for path in (ROOT / "inventory").iterdir())


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return checkout(tmp_path_factory.mktemp("inventories"))


@pytest.mark.parametrize("name", [each for each in INVENTORIES if each not in OWN_COMPUTERS])
def test_an_inventory_to_copy_can_be_planned_for(copy: Checkout, name: str) -> None:
    experiment = TINY | ({"placements": "pairs"} if name == "many" else {})
    path = copy.write(f"experiments/{name}.yml", yaml.safe_dump(experiment))
    told = copy.sweep(path, "trial", "--check", inventory=f"inventory/{name}").succeeded().output
    hosts = {"many": "20 placements: 20 of 2 stages", "pi-and-pi": "2 stages: pi1 > pi2"}
    hosts |= {"pi-pi-and-server": "3 stages: pi1 > pi2 > server", "lab": "2 stages: pi > server"}
    assert hosts[name] in told
    assert "no host was touched" in told
    assert not Path(copy.root, "results").exists()
