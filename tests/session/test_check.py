"""How far an output may be from the model's follows from what computes it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from paretopipe_worker.cuts import EAGER
from paretopipe_worker.plan.plan import Plan, Point
from paretopipe_worker.session.check import TOLERANCE, Check, PointFailed, allowed
from tests.helpers import fake_plan

ONNX = "onnxruntime"


@pytest.fixture(scope="module")
def plan() -> Plan:
    """A plan of two hosts."""
    return fake_plan.make(fake_plan.tiny_table())


def at(plan: Plan, split: str) -> Point:
    """A point that is cut there."""
    return next(point for point in plan.points if point.split == (split,))


def bound(plan: Plan, point: Point, *, alike: bool = True, devices: tuple[str, ...] = ()) -> float:
    """What is allowed on hosts of such devices."""
    hosts = [plan.host(name) for name in point.ring]
    devices = devices or ("cpu",) * len(hosts)
    given = [replace(each, device=device) for each, device in zip(hosts, devices, strict=True)]
    return allowed(point, given, alike=alike)


def inner(plan: Plan) -> Point:
    """A point with operations on both hosts."""
    return next(point for point in plan.points if not point.split[0].startswith("@"))


def test_where_torch_computes_alike_everywhere_outputs_must_be_equal(plan: Plan) -> None:
    assert bound(plan, inner(plan)) == 0
    assert bound(plan, replace(inner(plan), runtimes=(EAGER, EAGER))) == 0


def test_where_hosts_compute_in_another_way_outputs_may_be_close(plan: Plan) -> None:
    point = inner(plan)
    assert bound(plan, point, alike=False) == TOLERANCE
    assert bound(plan, point, devices=("cpu", "cuda:0")) == TOLERANCE
    for runtimes in ((EAGER, ONNX), (ONNX, EAGER)):
        assert bound(plan, replace(point, runtimes=runtimes)) == TOLERANCE


def test_a_rank_without_operations_changes_no_bit(plan: Plan) -> None:
    point = replace(at(plan, "@last"), runtimes=(ONNX, EAGER))
    assert bound(plan, point, devices=("cuda:0", "cpu")) == 0
    assert bound(plan, replace(point, runtimes=(EAGER, ONNX))) == TOLERANCE


def test_where_nothing_crosses_the_source_alone_matters(plan: Plan) -> None:
    point = replace(at(plan, "@first"), runtimes=(EAGER, ONNX))
    assert bound(plan, point, alike=False) == 0
    assert bound(plan, replace(point, runtimes=(ONNX, EAGER))) == TOLERANCE


def test_of_numbers_that_are_rounded_on_purpose_only_finite_ones_are_asked_for(plan: Plan) -> None:
    assert bound(plan, replace(inner(plan), dtype="int8")) == math.inf


@pytest.mark.parametrize(
    ("most", "output", "reason"),
    [
        (0.0, 1.0, None),
        (0.0, 1.5, "where all hosts compute alike they must be equal"),
        (TOLERANCE, 1 + TOLERANCE / 2, None),
        (TOLERANCE, 1.5, "by 0.5 of its largest value; allowed: 0.0001"),
        (math.inf, 1.5, None),
        (math.inf, math.nan, "values that are not finite"),
        (math.inf, math.inf, "values that are not finite"),
    ],
)
def test_outputs_that_are_too_far_fail_the_point(
    most: float, output: float, reason: str | None
) -> None:
    check = Check(most)
    check.add((torch.tensor([output]),), (torch.tensor([1.0]),))
    if reason is None:
        check.verdict()
    else:
        with pytest.raises(PointFailed, match=reason):
            check.verdict()
