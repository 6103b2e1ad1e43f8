"""What is wrong with hosts is told in one table, before anything is changed on any of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.labs import nothing_left, throwaway
from tests.helpers.namespaces import reason_without_namespaces
from tests.helpers.sweeps import Checkout

pytestmark = [
    pytest.mark.slow,
    pytest.mark.must_run,
    pytest.mark.skipif(bool(reason_without_namespaces()), reason=reason_without_namespaces()),
]

PYTHON = "/nowhere/python"


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Checkout]:
    with throwaway(tmp_path / "checkout") as made:
        yield made


def test_problems_and_notes_of_the_hosts_of_one_computer_are_told_together(copy: Checkout) -> None:
    given = (
        *("-e", "experiment=experiments/tiny.yml", "-e", f"worker_python={PYTHON}"),
        *("-e", "device=cuda:7", "-e", "memory_mb=0.0001"),
    )
    command = (".venv/bin/ansible-playbook", "playbooks/check.yml", "-i", "inventory/local")
    done = copy.run(*command, *given)
    said = [
        text
        for host in ("edge", "server")
        for text in (
            f"{host} torch worker_python {PYTHON}: No such file or directory",
            f"{host} gpu note: device cuda:7 is asked for, and this host has: ",
        )
    ]
    done.refused(
        "host check what is the matter",
        "edge memory note: rank 0: 16 points",
        *said,
        "2 problems on edge, server",
        "fatal: [server]: has problems, which the table above names",
    )
    assert done.output.count("what is the matter") == 1
    assert done.output.count("Check that the host has no problems") == 1
    nothing_left(copy)
    assert not (copy.root / "results").exists()
    assert not [*copy.root.glob(".lab/*/home")]
