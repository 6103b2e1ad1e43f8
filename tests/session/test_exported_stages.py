"""A session executes the stages that planning exported, in float32 and in eight bits."""

from __future__ import annotations

from pathlib import Path

import pytest

from paretopipe_worker.plan import abilities
from paretopipe_worker.records.lines import PointEnd
from tests.helpers.sessions import experiment, lab

pytestmark = pytest.mark.slow

MIXED = {"edge": "eager", "server": "onnxruntime"}


def test_points_of_all_runtimes_and_dtypes_are_measured_in_one_session(tmp_path: Path) -> None:
    asked = experiment(
        splits={"cuts": ["1", "3"]}, runtimes=["onnxruntime", MIXED], dtype=["float32", "int8"]
    )
    made = lab(tmp_path, asked)
    refused = abilities.refused(made.plan, {})
    [session] = made.plan.sessions
    left = [point for point in session.points if point not in refused]
    ends = made.run(session.only(left)).of(PointEnd)
    assert {end.status for end in ends} == {"ok"}, ends
    errors: dict[tuple[str, bool], set[float]] = {}
    for end in ends:
        point = made.plan.point(end.point)
        idle = point.split == ("@first",) and "eager" in point.runtimes
        errors.setdefault((point.dtype, idle), set()).add(end.max_relative_error or 0.0)
    assert errors["float32", True] == {0.0}
    assert 0 < max(errors["float32", False]) < 1e-5
    # Wherever it is cut, it returns what the whole program in eight bits returns.
    [error] = errors["int8", False]
    assert 1e-3 < error < 0.1
