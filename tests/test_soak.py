"""What a soak finds; ``python -m tests.soak`` runs for hours."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT
from tests.helpers.namespaces import reason_without_namespaces
from tests.helpers.sweeps import HEARING
from tests.helpers.waiting import until
from tests.soak import drawing
from tests.soak.finding import Finding, Sweep, findings
from tests.soak.watching import Left

WELL = Sweep(
    number=1,
    at_s=0,
    seconds=60,
    exit_status=0,
    asked=8,
    measured=8,
    point_s=4.0,
    reference_ms=12.0,
    reference_images_s=90.0,
    memory_mb={"stages": 700.0, "Ansible": 200.0},
    processes=14,
    files=300,
    threads=40,
    namespaces=3,
    records_mb=2.0,
    left=Left(processes=0, namespaces=0, temporary_files=12, beside_mb=30.0, runs_mb=3.0),
)


def soaked(change: Callable[[Sweep], Sweep] = lambda sweep: sweep, count: int = 20) -> list[Sweep]:
    """Sweeps that went well, with the noise that all figures have, each changed by a function."""
    drawn, found = random.Random(3), []
    for number in range(1, count + 1):
        noise = drawn.gauss(1, 0.01)
        memory = {kind: noise * size for kind, size in WELL.memory_mb.items()}
        sweep = replace(WELL, number=number, at_s=60.0 * number, memory_mb=memory)
        left = replace(WELL.left, runs_mb=3.0 * number)
        sweep = replace(sweep, point_s=4 * noise, reference_ms=12 * noise, left=left)
        found.append(change(sweep))
    return found


def texts(sweeps: Sequence[Sweep]) -> list[tuple[str, str]]:
    """What was found, as its kind and the words before the first colon."""
    return [(each.kind, each.text.partition(":")[0]) for each in findings(sweeps)]


def test_nothing_is_found_where_all_goes_well() -> None:
    assert findings(soaked()) == []


def test_what_grows_from_sweep_to_sweep_is_named() -> None:
    def leaking(sweep: Sweep) -> Sweep:
        left = replace(sweep.left, temporary_files=12 + 2 * sweep.number)
        memory = sweep.memory_mb | {"Ansible": 200 + sweep.number}
        return replace(sweep, left=left, memory_mb=memory, files=300 + 5 * sweep.number)

    assert texts(soaked(leaking)) == [
        ("leak", "memory of Ansible, MB"),
        ("leak", "temporary files"),
        ("leak", "open files at most"),
    ]


def test_what_slows_down_or_speeds_up_is_drift_and_no_leak() -> None:
    def drifting(sweep: Sweep) -> Sweep:
        factor = 1 + 0.02 * sweep.number
        return replace(sweep, reference_ms=12 * factor, reference_images_s=90 / factor)

    assert texts(soaked(drifting)) == [
        ("drift", "latency of the reference, ms"),
        ("drift", "throughput of the reference, images/s"),
    ]


def test_failures_and_leftovers_are_named_with_their_sweep() -> None:
    def failing(sweep: Sweep) -> Sweep:
        if sweep.number != 7:
            return sweep
        return replace(sweep, exit_status=2, measured=5, left=replace(sweep.left, processes=2))

    assert findings(soaked(failing)) == [
        Finding("failure", "sweep 7 ended with status 2 and measured 5 of 8 points"),
        Finding("leak", "sweep 7 left 2 processes and 0 namespaces"),
    ]


def test_a_soak_is_drawn_also_where_a_sweep_has_no_figures(tmp_path: Path) -> None:
    lacking = replace(WELL, measured=0, point_s=None, reference_ms=None, reference_images_s=None)
    drawing.draw([WELL, lacking], tmp_path / "soak.png")
    assert (tmp_path / "soak.png").stat().st_size > 10_000


@pytest.mark.long
@pytest.mark.alone
@pytest.mark.skipif(bool(reason_without_namespaces()), reason=reason_without_namespaces())
@pytest.mark.parametrize("interrupted", [False, True])
def test_a_short_soak_measures_and_leaves_nothing(tmp_path: Path, interrupted: bool) -> None:
    file = tmp_path / "soak.json"
    what = ("--hours", "1" if interrupted else "0.005", "--experiment", "experiments/tiny.yml")
    process = subprocess.Popen(
        [*HEARING, sys.executable, "-m", "tests.soak", *what, "--json", str(file)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    if interrupted:
        until(file.exists, "the figures of the first sweep", deadline_s=200)
        process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=280)
    assert process.returncode == 0, said
    document: dict[str, Any] = json.loads(file.read_text())
    assert document["interrupted"] == interrupted
    [first, *_] = document["sweeps"]
    assert first["measured"] == first["asked"] > 0, first
    assert first["left"]["processes"] == first["left"]["namespaces"] == 0, first
    assert first["reference_ms"] > 0 and first["memory_mb"]["stages"] > 0, first
    assert {path.name for path in tmp_path.iterdir()} == {"soak.json", "soak.csv", "soak.png"}
