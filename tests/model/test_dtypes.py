"""Models that compute in 16 bits: what is planned of them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from paretopipe_worker.cuts import InputSpec
from paretopipe_worker.model import loading
from paretopipe_worker.model.inputs import items
from paretopipe_worker.plan import fleet, spec
from paretopipe_worker.plan import plan as plans
from paretopipe_worker.plan.plan import Plan
from paretopipe_worker.plan.sending import Sending
from paretopipe_worker.plan.spec import SpecError
from paretopipe_worker.prepare import prepare
from tests.helpers.tables import HOSTS

TINY = "paretopipe_worker.model.tiny:network"
FORMATS = ["float32", "bfloat16", "float16"]


def planned(folder: Path, dtype: list[str], *models: str) -> Plan:
    """The plan of these models for two hosts; its files are in folder ``cache``."""
    hosts = json.dumps([{"name": h.name, "data_address": h.data_address} for h in HOSTS])
    document = {"models": list(models) or [TINY], "dtype": dtype}
    experiment = spec.parse(document)
    return prepare("run", experiment, fleet.parse(hosts), folder / "run", folder / "cache")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where :func:`three` has its files."""
    return tmp_path_factory.mktemp("three")


@pytest.fixture(scope="module")
def three(folder: Path) -> Plan:
    """The plan of the tiny network in three formats."""
    return planned(folder, FORMATS)


def test_sixteen_bits_cross_in_half_the_bytes(three: Plan) -> None:
    sizes = {(p.dtype, p.split): p.hop_bytes for p in three.points}
    assert {dtype for dtype, _ in sizes} == set(FORMATS)
    for (dtype, split), size in sizes.items():
        whole = sizes["float32", split]
        assert size == (whole if dtype == "float32" else tuple(each // 2 for each in whole))


def test_points_in_float32_keep_their_ids_whatever_else_is_measured(
    three: Plan, tmp_path: Path
) -> None:
    alone = planned(tmp_path, ["float32"])
    ids = {point.id for point in three.points if point.dtype == "float32"}
    assert ids == {point.id for point in alone.points}
    assert len({point.id for point in three.points}) == 3 * len(ids)


def test_one_file_has_the_tensors_of_every_format(three: Plan, folder: Path) -> None:
    kept = plans.kept(folder / "cache")
    [name] = {plans.weights_name(table) for table in three.tables}
    assert len({table.weights_sha256 for table in three.tables}) == 3
    for table in three.tables:
        program = loading.load_program(kept / plans.program_name(table), table.graph_sha256)
        tensors = loading.load_tensors(kept / name, [program])
        own = list(loading.partitioned(program, tensors).tensors.values())
        assert {each.dtype for each in own} == {getattr(torch, table.dtype)}


def test_every_format_is_compared_with_what_the_model_returns_in_float32(
    three: Plan, folder: Path, tmp_path: Path
) -> None:
    [told] = {plans.references_name(table) for table in three.tables}
    references = loading.load_references(plans.kept(folder / "cache") / told)
    assert references[0][0].dtype == torch.float32
    # Also where that itself is not measured.
    [table] = planned(tmp_path, ["bfloat16"]).tables
    assert plans.references_name(table) == told


def test_a_source_is_sent_what_float32_returns_for_other_formats_alone(
    three: Plan, tmp_path: Path
) -> None:
    for plan, wanted in ((three, True), (planned(tmp_path, ["float32"]), False)):
        sending = Sending(plan)
        for session in plan.sessions:
            sending.add(session)
        told = {plans.references_name(table) for table in plan.tables}
        assert told.issubset(sending.files["edge"]) == wanted
        assert told.isdisjoint(sending.files["server"])


def test_inputs_are_those_of_float32_rounded() -> None:
    taken = (2, 3, 8, 8)
    for dtype in FORMATS[1:]:
        plain = items([InputSpec(taken, "float32")], seed=3)
        cast = items([InputSpec(taken, dtype)], seed=3)
        for (one,), (other,) in zip(plain, cast, strict=True):
            assert torch.equal(one.to(other.dtype), other)
    images = torch.rand(2, 3, 4, 4)
    (first,), _ = items([InputSpec((1, 3, 4, 4), "bfloat16")], seed=0, images=images)
    assert torch.equal(first[0], images[0].bfloat16())


@pytest.mark.parametrize(
    ("model", "refused", "reason"),
    [
        ("solving", FORMATS[1:], "Low precision dtypes"),
        ("large", ["float16"], "not finite"),
    ],
)
def test_a_format_in_which_a_model_does_not_run_is_refused_and_the_others_are_measured(
    tmp_path: Path, model: str, refused: list[str], reason: str
) -> None:
    plan = planned(tmp_path, FORMATS, f"tests.helpers.unfit:{model}")
    assert {point.dtype for point in plan.points} == set(FORMATS) - set(refused)
    assert len(plan.refused) == len(refused)
    for line, dtype in zip(plan.refused, refused, strict=True):
        assert line.startswith(f"models[0], dtype {dtype}: model 'tests.helpers.unfit:{model}': ")
        assert reason in line and "\n" not in line


def test_a_model_that_runs_in_no_format_that_was_asked_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"^models\[0\], dtype float16: "):
        planned(tmp_path, ["float16"], "tests.helpers.unfit:large")


def test_a_format_that_there_is_not_is_refused() -> None:
    with pytest.raises(SpecError, match=r"dtype\[0\]: .*'bfloat16'"):
        spec.parse({"models": [TINY], "dtype": "float8"})
