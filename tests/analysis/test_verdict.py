"""What a person is told of two runs of one experiment."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.run import Run, read
from analysis.verdict import verdict
from tests.helpers.fake_plan import make, tiny_table
from tests.helpers.fake_run import HEALTHY, FakeRun
from tests.helpers.record_files import edit

pytestmark = pytest.mark.slow

CUT = "body.0"


def run_of(
    path: Path, name: str, *, slower: float = 1.0, mhz: float = 1500.0, replicates: int = 4
) -> Run:
    """A run in which the stage of one point on the first host takes longer by a factor."""
    plan = make(tiny_table(), run=name, replicates=replicates)
    (point,) = (p.id for p in plan.points if p.split == (CUT,))
    health = {0: replace(HEALTHY, cpu_mhz=(mhz, mhz, mhz))}
    fake = FakeRun(path / name, plan, items=8, noise=0, health=health)
    chance = random.Random(name)

    def stretch(line: dict[str, int | str]) -> None:
        if line["point"] == point:
            for key in ("latency_ns", "done_ns", "compute_ns", "cpu_ns"):
                line[key] = int(int(line[key]) * slower)
            line["computed_ns"] = int(line["start_ns"]) + int(line["compute_ns"])

    for session in plan.sessions:
        files = fake.session(session, scale=chance.gauss(1, 0.005))
        if slower != 1:
            edit(files[0], stretch)
    return read(fake.path)


def test_two_runs_that_agree_are_said_to(tmp_path: Path) -> None:
    assert verdict(run_of(tmp_path, "a"), run_of(tmp_path, "b")) == ["4 of 4 points agree"]


def test_a_point_that_differs_is_named_with_what_was_other(tmp_path: Path) -> None:
    first, second = run_of(tmp_path, "a", mhz=1800), run_of(tmp_path, "b", slower=1.1)
    head, *lines = verdict(first, second)
    assert head == "3 of 4 points agree"
    [line] = lines
    assert line.startswith(f"{CUT} over none: ")
    assert " % slower" in line and " % less throughput" in line
    assert "its stage on pi took" in line
    assert "(its clock was 1.8 GHz, then 1.5)" in line
    assert "on server took" in line and "governor" not in line


def test_without_replicates_nothing_is_claimed(tmp_path: Path) -> None:
    first, second = (run_of(tmp_path, name, replicates=1) for name in "ab")
    [line] = verdict(first, second)
    assert "4 points were measured in both runs, too seldom to tell whether they agree" in line
    assert "that needs 2 or more replicates" in line
    assert "latency 0.9" in line or "latency 1" in line


def test_runs_of_other_things_are_told_apart(tmp_path: Path) -> None:
    first = run_of(tmp_path, "a")
    other = make(tiny_table(), run="b", replicates=4, tcp={"congestion_control": "reno"})
    second = read(FakeRun(tmp_path / "b", other, items=8).all_sessions().path)
    head, *lines = verdict(first, second)
    assert "did not measure the same" in head
    assert any("reno" in line for line in lines)
