"""A manifest names what it takes to do a run again, and no secret."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from analysis import manifest as manifests
from analysis import provenance
from analysis.run import read
from paretopipe_worker.plan import fleet, spec
from paretopipe_worker.prepare import prepare
from tests import ROOT
from tests.helpers.fake_plan import make, tiny_table
from tests.helpers.fake_run import FakeRun
from tests.helpers.role_code import module
from tests.helpers.sessions import lab

pytestmark = pytest.mark.slow

EXPERIMENTS = sorted(ROOT.glob("experiments/*.yml"))
SECRETS = ("hunter2", "swordfish", "opensesame", "BEGIN OPENSSH", "id_ed25519", "tr0ub4dor")

HOPS: dict[str, Any] = {
    "models": ["paretopipe_worker.model.tiny:network"],
    "placements": [["pi", "mid", "server"]],
    "links": [
        {"name": "ring", "hops": [{"delay_ms": 3}, {"rate_mbit": 9}], "return": {"delay_ms": 20}},
        {"name": "odd", "forward": {"delay_ms": 5, "jitter_ms": 1}, "back": {"rate_mbit": 2}},
    ],
}


@pytest.fixture
def fake(tmp_path: Path) -> FakeRun:
    """A small run."""
    return FakeRun(tmp_path / "made-up", make(tiny_table())).all_sessions()


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_can_be_read_back_from_what_the_manifest_says(path: Path) -> None:
    asked = spec.read(path)
    assert spec.parse(json.loads(json.dumps(provenance.written(asked)))) == asked


def test_links_of_several_hops_can_be_read_back_as_well() -> None:
    asked = spec.parse(HOPS)
    assert spec.parse(json.loads(json.dumps(provenance.written(asked)))) == asked


def test_the_manifest_alone_is_enough_to_plan_the_same_again(tmp_path: Path) -> None:
    experiment = {
        "models": ["paretopipe_worker.model.tiny:network"],
        "links": ["none", {"name": "far", "delay_ms": 5}],
        "replicates": 2,
        "seed": 7,
    }
    first = lab(tmp_path / "first", experiment)
    assert manifests.main([str(first.results)]) == 0
    told = json.loads((first.results / "manifest.json").read_text())
    known = [field.name for field in fields(fleet.Host)]
    hosts = [{name: host[name] for name in known} for host in told["hosts"]]
    again = prepare(
        told["run"],
        spec.parse(told["spec"]),
        fleet.parse(json.dumps(hosts)),
        tmp_path / "second",
        tmp_path / "second-cache",
    )
    assert again.sessions == first.plan.sessions
    assert {table.weights_sha256 for table in again.tables} == set(told["weights_sha256"].values())
    assert told["controller"]["packages"]["torch"]
    assert set(told["checkout"] or {"commit": 0, "dirty": 0}) == {"commit", "dirty"}


def test_of_variables_and_facts_only_what_is_listed_and_plain_gets_in(fake: FakeRun) -> None:
    variables = {
        "threads": 4,
        "ansible_password": "hunter2",
        "ansible_become_password": "swordfish",
        "ansible_become_pass": "swordfish",
        "ansible_ssh_private_key_file": "~/.ssh/id_ed25519",
        "deploy_key": "-----BEGIN OPENSSH PRIVATE KEY-----",
        "worker_home": {"__ansible_vault": "opensesame"},
        "netem_state_dir": ["tr0ub4dor"],
    }
    facts = {"distribution": "Debian", "env": {"TOKEN": "hunter2"}, "ssh_host_key": "id_ed25519"}
    document = manifests.manifest(read(fake.path), {"pi": facts}, {"pi": variables})
    assert document["hosts"][0]["inventory"] == {"threads": 4}
    assert document["hosts"][0]["facts"] == {"distribution": "Debian"}
    text = json.dumps(document)
    assert [secret for secret in SECRETS if secret in text] == []


def inventory(folder: Path, encrypted: bool) -> Path:
    """An inventory with secrets of every kind: plain, encrypted values, an encrypted file."""
    command = [str(Path(sys.executable).with_name("ansible-vault"))]
    (folder / "group_vars").mkdir()
    key = folder / "key"
    key.write_text("opensesame\n")
    value = subprocess.run(
        [*command, "encrypt_string", f"--vault-password-file={key}", "tr0ub4dor"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    text = f"""
all:
  children:
    stages:
      hosts:
        pi:
          data_address: 10.0.0.1
          threads: 4
          ansible_password: hunter2
          ansible_ssh_private_key_file: ~/.ssh/id_ed25519
          netem_state_dir: "{{{{ ansible_password }}}}"
          worker_home: {value.strip().replace(" " * 10, " " * 12)}
"""
    (folder / "hosts.yml").write_text(text)
    secret = folder / "group_vars/stages.yml"
    secret.write_text("ansible_become_password: swordfish\nnetem_emulate: true\n")
    if encrypted:
        encrypt = [*command, "encrypt", f"--vault-password-file={key}", str(secret)]
        subprocess.run(encrypt, capture_output=True, check=True)
    return folder / "hosts.yml"


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted file"])
def test_no_secret_of_an_inventory_leaves_the_process_that_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encrypted: bool
) -> None:
    file = inventory(tmp_path, encrypted)
    monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", str(tmp_path / "key"))
    said = subprocess.run(
        [sys.executable, str(ROOT / "roles/analysis/files/inventory.py"), str(file)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(said.stdout) == {
        "pi": {
            "data_address": "10.0.0.1",
            "threads": 4,
            "netem_emulate": True,
            "netem_state_dir": "{{ ansible_password }}",
        }
    }
    assert [secret for secret in SECRETS if secret in said.stdout + said.stderr] == []


def test_an_inventory_that_cannot_be_decrypted_is_said_to_be_so(tmp_path: Path) -> None:
    read = module(ROOT / "roles/analysis/files/inventory.py").read
    file = inventory(tmp_path, encrypted=True)
    with pytest.raises(subprocess.CalledProcessError):
        read([str(file)])


def test_of_a_mapping_only_numbers_are_told() -> None:
    load = {"cores": 2, "memory_mb": None}
    assert provenance.told({"busy": load}, provenance.VARIABLES) == {"busy": load}
    assert provenance.told({"busy": load | {"password": "x"}}, provenance.VARIABLES) == {}


def test_every_option_of_the_inventories_is_told() -> None:
    lab = (ROOT / "inventory/lab/hosts.yml").read_text()
    options = set(re.findall(r"^ +# ([a-z_]+): ", lab, re.MULTILINE))
    assert "worker_governor" in options
    local = yaml.safe_load((ROOT / "inventory/local/group_vars/local_lab.yml").read_text())
    options |= {name for name in local if not name.startswith("local_lab_")}
    assert options <= {*provenance.VARIABLES, *provenance.UNTOLD}
    assert not set(provenance.VARIABLES) & set(provenance.UNTOLD)
