"""A session that computes in several number formats, by real stage processes over sockets."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from paretopipe_worker.records.lines import LegEnd, PointEnd, Ready
from paretopipe_worker.session.check import Check, PointFailed
from tests.helpers import shares
from tests.helpers.sessions import Finished, experiment, lab

FORMATS = {"float32": 0.0, "bfloat16": 2.0**-8, "float16": 2.0**-11}
"""Half a unit in the last place, relative to the value."""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A finished session of the tiny model in three formats."""
    splits = {"cuts": ["2"]}
    made = lab(tmp_path_factory.mktemp("lab"), experiment(dtype=list(FORMATS), splits=splits))
    return made.run(made.plan.sessions[0])


@pytest.mark.slow
def test_every_format_passes_the_gate_and_says_how_far_it_is_from_float32(
    measured: Finished,
) -> None:
    plan = measured.lab.plan
    ends = {plan.point(e.point): e for e in measured.of(PointEnd)}
    assert len(ends) == 3 * len(FORMATS)
    for point, end in ends.items():
        assert (end.status, end.gate) == ("ok", True), end
        if point.dtype == "float32":
            assert (end.output, end.max_relative_error) == ("exact", 0)
            continue
        assert end.output == "close" and end.max_relative_error is not None
        # Eight layers round, and none of them many times over.
        half = FORMATS[point.dtype]
        assert 0.1 * half < end.max_relative_error < 10 * half, end


@pytest.mark.slow
def test_half_the_bytes_cross(measured: Finished) -> None:
    plan = measured.lab.plan
    sent: dict[str, set[float]] = {}
    for leg in measured.of(LegEnd):
        point = plan.point(leg.point)
        if point.split == ("2",) and leg.energy:
            sent.setdefault(point.dtype, set()).add(leg.payload_sent_bytes / leg.energy.items)
    [plain] = sent["float32"]
    assert sent["bfloat16"] == sent["float16"] == {plain / 2}


@pytest.mark.slow
def test_all_ranks_loaded_the_tensors_of_all_formats(measured: Finished) -> None:
    [held] = {table.held_sha256 for table in measured.lab.plan.tables}
    assert [measured.of(Ready, rank)[0].weights_sha256 for rank in range(2)] == [held, held]


@pytest.mark.slow
def test_hosts_that_hold_a_part_of_a_model_compute_in_several_formats(tmp_path: Path) -> None:
    limit = {"memory_mb": 0.45}  # all of its tensors are 0.75 MB, and half as much in 16 bits
    keys: dict[str, Any] = {"dtype": ["float32", "bfloat16"], "splits": {"cuts": ["2"]}}
    made = lab(
        tmp_path, experiment("tests.helpers.networks:wide", **keys), edge=limit, server=limit
    )
    found = shares.todo(made)
    [task] = found["sessions"]
    [session] = made.plan.sessions
    made = shares.sent(made, found, session.id)
    done = made.run(session.only(task["points"]), task["attempt"])
    ends = {made.plan.point(e.point): e for e in done.of(PointEnd)}
    assert {end.status for end in ends.values()} == {"ok"}, ends
    by_format = {dtype: [p for p in ends if p.dtype == dtype] for dtype in keys["dtype"]}
    assert all(by_format.values()), ends
    for point in by_format["bfloat16"]:
        assert ends[point].output == "close" and 0 < (ends[point].max_relative_error or 0) < 0.1
    for point in by_format["float32"]:
        assert ends[point].gate is None, "the source has not all tensors of float32"
        assert ends[point].output == "exact" or (ends[point].max_relative_error or 1) < 1e-5


def test_of_rounded_numbers_any_finite_error_is_allowed() -> None:
    wanted = (torch.tensor([1.0, 2.0]),)
    check = Check(math.inf)
    check.add((torch.tensor([1.0, 1.0], dtype=torch.bfloat16),), wanted)
    check.verdict()
    assert (check.output, check.error) == ("close", 0.5)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_numbers_that_are_not_finite_are_refused_however_rounded(value: float) -> None:
    check = Check(math.inf)
    check.add((torch.tensor([1.0, value], dtype=torch.float16),), (torch.tensor([1.0, 2.0]),))
    with pytest.raises(PointFailed, match="values that are not finite"):
        check.verdict()


def test_a_rounded_output_may_still_be_the_same() -> None:
    check = Check(math.inf)
    check.add((torch.tensor([1.0, 2.0], dtype=torch.float16),), (torch.tensor([1.0, 2.0]),))
    check.verdict()
    assert (check.output, check.error) == ("exact", 0)
