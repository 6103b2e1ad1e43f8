"""Files of stages that runtimes other than torch execute: made once, tried out, or refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from paretopipe_worker import exports
from paretopipe_worker.cuts import FIRST, LAST
from paretopipe_worker.model import loading, onnx_graph
from paretopipe_worker.model.partition import largest_error
from paretopipe_worker.model.standalone import onnx_stage
from paretopipe_worker.plan import abilities, identity, resume, spec
from paretopipe_worker.plan import plan as plans
from paretopipe_worker.plan.plan import Plan
from paretopipe_worker.plan.refusals import told
from paretopipe_worker.plan.summary import summary
from paretopipe_worker.prepare import prepare
from tests.helpers.tables import HOSTS

TINY, ODD = "paretopipe_worker.model.tiny:network", "tests.helpers.networks:Odd"


Make = Callable[..., Plan]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Plans runs; all keep their programs in one place."""

    def made(*models: str, run: str = "a", **keys: Any) -> Plan:
        document = {"models": list(models) or [TINY], "links": ["none"], **keys}
        experiment = spec.parse(document)
        return prepare(run, experiment, HOSTS, tmp_path / run, tmp_path / "cache")

    return made


def files(tmp_path: Path) -> dict[str, int]:
    """When each file of a stage was written, by name."""
    folder = plans.kept(tmp_path / "cache")
    return {file.name: file.stat().st_mtime_ns for file in folder.glob("*.stage")}


def test_each_stage_is_exported_once_and_runs_as_torch_runs_it(make: Make, tmp_path: Path) -> None:
    made = make(runtimes=["eager", {"server": "onnxruntime"}])
    [table] = made.tables
    assert re.match(
        r"torch 2\S+, onnx 1\S+, onnxscript 0\S+, opset 20, cut at block", table.exporter
    )
    folder = plans.kept(tmp_path / "cache")
    names = {plans.stage_name(table, before, FIRST) for before in (LAST, *table.names)}
    before = files(tmp_path)
    assert set(before) == names
    assert f"{TINY}, batch 1, float32: {len(names)} of {len(names)} stages are exported" in summary(
        made
    )
    program = loading.load_program(folder / plans.program_name(table), table.graph_sha256)
    tensors = loading.load_tensors(folder / plans.weights_name(table), [program])
    given = torch.randn(1, 3, 32, 32)
    stage = onnx_stage(loading.load_checked(folder / plans.stage_name(table, LAST, FIRST)))
    wanted = loading.partitioned(program, tensors).whole(given)
    assert largest_error(stage(given), wanted) <= 1e-5
    again = make(runtimes=["onnxruntime"], run="b")
    after = files(tmp_path)
    assert {name: after[name] for name in names} == before and set(after) > names
    assert f"({len(names)} were before)" in summary(again)


def test_a_plan_whose_stages_are_all_eager_exports_nothing(make: Make, tmp_path: Path) -> None:
    made = make()
    assert made.tables[0].exporter == "" and not files(tmp_path)
    assert [p.id for p in made.points] == [p.id for p in make(runtimes="eager", run="b").points]


def test_a_damaged_file_is_made_again(make: Make, tmp_path: Path) -> None:
    make(runtimes="onnxruntime")
    name, *others = sorted(files(tmp_path))
    file = plans.kept(tmp_path / "cache") / name
    file.write_bytes(file.read_bytes()[:-1])
    before = files(tmp_path)
    make(runtimes="onnxruntime", run="b")
    assert loading.load_checked(file)
    assert {each: files(tmp_path)[each] for each in others} == {
        each: before[each] for each in others
    }


def test_stages_in_eight_bits_are_files_of_their_own(make: Make, tmp_path: Path) -> None:
    made = make(runtimes=["onnxruntime"], dtype=["float32", "int8"])
    plain, eight = made.tables
    assert (plain.dtype, eight.dtype) == ("float32", "int8")
    assert plain.cuts == eight.cuts and plain.graph_sha256 == eight.graph_sha256
    assert "QDQ" in eight.exporter and "32 inputs of seed 0" in eight.exporter
    assert "QDQ" not in plain.exporter
    folder = plans.kept(tmp_path / "cache")
    given = torch.randn(1, 3, 32, 32)
    returned = [
        onnx_stage(loading.load_checked(folder / plans.stage_name(table, LAST, FIRST)))(given)
        for table in made.tables
    ]
    assert 1e-4 < largest_error(returned[1], returned[0]) < 0.2
    assert len(files(tmp_path)) == 2 * (2 * len(plain.names) + 1)
    seeded = make(runtimes=["onnxruntime"], dtype=["int8"], run="b", seed=1)
    assert seeded.tables[0].exporter != eight.exporter
    assert "models" in identity.differences(made, seeded)


def test_a_model_that_onnx_cannot_hold_refuses_its_points_of_that_runtime_alone(
    make: Make, tmp_path: Path
) -> None:
    made = make(TINY, ODD, runtimes=["eager", "onnxruntime"])
    refusals = abilities.refused(made, {})
    odd = {p.id for p in made.points if p.model.endswith("Odd") and p.runtimes}
    assert set(refusals) == odd
    [line] = told(refusals)
    assert line.startswith(f"model {ODD}, float32: {len(odd)} points are not measured, sin")
    assert line.endswith("exported: ONNX has nothing for the operator prims::bessel_j0.default")
    assert line in summary(made)
    # It may work by now: the next sweep of the run tries again.
    experiment, results = made.experiment, tmp_path / "a"
    assert resume.planned(experiment, HOSTS, results, tmp_path / "cache") is None
    good = make(runtimes=["eager", "onnxruntime"], run="b")
    again = resume.planned(good.experiment, HOSTS, tmp_path / "b", tmp_path / "cache")
    assert again == good
    next(plans.kept(tmp_path / "cache").glob("*.stage")).unlink()
    assert resume.planned(good.experiment, HOSTS, tmp_path / "b", tmp_path / "cache") is None


def test_a_stage_that_returns_something_else_is_refused(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = onnx_graph.Graph.stage

    def wrong(self: onnx_graph.Graph, before: str, after: str) -> bytes:
        return stage(self, LAST if after == FIRST and before != LAST else before, after)

    monkeypatch.setattr(exports, "MOST_ERROR", -1.0)
    made = make(runtimes=["onnxruntime"])
    lines = told(abilities.refused(made, {}))
    assert all("returns what differs from what torch computes by" in line for line in lines)
    assert f"its stage from {LAST} to {FIRST} cannot be used" in " ".join(lines)
    monkeypatch.setattr(exports, "MOST_ERROR", 1e-4)
    monkeypatch.setattr(onnx_graph.Graph, "stage", wrong)
    made = make(runtimes=[{"server": "onnxruntime"}], run="b")
    refused = abilities.refused(made, {})
    assert {made.point(point).split for point in refused} == {
        (name,) for name in made.tables[0].names
    }
    assert all("onnxruntime cannot run it" in each.reason for each in refused.values())
