"""Probabilities of being on a front, and intervals, against truths that are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from analysis.pareto import main
from analysis.report.terminal import text
from analysis.tables import certainty, joint
from analysis.tables.front import is_nondominated
from tests.helpers.fake_plan import make, tiny_table
from tests.helpers.fake_run import FakeRun
from tests.helpers.truths import drawn_replicates, drawn_truth

DIRECTIONS = ["min", "max"]
FRONTS = 60


@pytest.mark.parametrize("replicates", [5, 10])
def test_of_splits_that_are_said_to_be_on_the_front_as_many_are(replicates: int) -> None:
    draws = np.random.default_rng(replicates)
    said, true = [], []
    for _ in range(FRONTS):
        truth = drawn_truth(draws, 22)
        values = drawn_replicates(draws, truth, replicates, draws.choice([0.01, 0.03]))
        said.append(certainty.probabilities(values, DIRECTIONS))
        true.append(is_nondominated(truth, DIRECTIONS))
    probability, on_front = np.concatenate(said), np.concatenate(true)
    sure = probability >= 0.9
    assert sure.sum() > FRONTS
    assert on_front[sure].mean() >= 0.88
    assert on_front[probability <= 0.1].mean() <= 0.02
    # Not sure of everything either: what is said to be open is open.
    between = (probability > 0.3) & (probability < 0.7)
    assert 0.3 < on_front[between].mean() < 0.75


@pytest.mark.parametrize("correlation", [0.0, -0.9])
@pytest.mark.parametrize("replicates", [5, 10])
def test_joint_intervals_hold_as_often_as_they_say(replicates: int, correlation: float) -> None:
    draws = np.random.default_rng(7)
    covariance = [[1, correlation], [correlation, 1]]
    low, high = joint.ends(draws.multivariate_normal([0, 0], covariance, (4000, replicates)))
    held = ((low <= 0) & (high >= 0)).all(axis=1)
    assert 0.94 <= held.mean() <= 0.96


def test_a_part_that_a_replicate_shares_does_not_blur_the_front() -> None:
    draws = np.random.default_rng(3)
    truth = np.array([[1.0, 10.0], [1.05, 12.0], [1.1, 11.0]])
    values = drawn_replicates(draws, truth, 5, 0.002)
    assert np.ptp(values[:, 0, 0]) > 0.1
    assert certainty.probabilities(values, DIRECTIONS) == pytest.approx([1, 1, 0], abs=0.02)


def needed_of(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Further replicates that each point needs."""
    return certainty.further(values, DIRECTIONS, certainty.probabilities(values, DIRECTIONS))


def test_further_replicates_are_named_where_points_are_close() -> None:
    draws = np.random.default_rng(1)
    far = np.array([[1.0, 10.0], [2.0, 5.0]])
    assert needed_of(drawn_replicates(draws, far, 3, 0.01)).tolist() == [0, 0]
    close = np.array([[1.0, 10.0], [1.01, 9.9]])
    needed = needed_of(drawn_replicates(draws, close, 3, 0.03))
    assert needed.max() > 0
    same = np.repeat(drawn_replicates(draws, far, 3, 0.01)[:, :1], 2, axis=1)
    same[:, 1] *= np.array([0.97, 1.0, 1.03])[:, None]
    assert needed_of(same).max() == certainty.MOST_FURTHER


def test_fewer_than_three_replicates_say_nothing() -> None:
    measured = pd.DataFrame(
        {
            "point": ["a", "a", "a", "b", "b"],
            "replicate": [0, 1, 2, 0, 1],
            "status": "ok",
            "latency_median_ms": [1.0, 1.1, 1.2, 2.0, 2.1],
            "throughput_images_s": [9.0, 9.1, 9.2, 5.0, 5.1],
        }
    )
    group = dict.fromkeys(("model", "placement", "link", "backend", "dtype", "runtimes"), "x")
    group |= dict.fromkeys(("batch", "window", "wire", "busy", "sources"), 1)
    means = measured.groupby("point")[["latency_median_ms", "throughput_images_s"]].mean()
    points = means.reset_index().assign(link_certified=True, **group)
    told = certainty.certainty(points, measured)
    assert told["front_probability"].isna().tolist() == [False, True]
    assert joint.joint(measured)["point"].tolist() == ["a"]
    few = measured[measured["replicate"] < 2]
    assert certainty.certainty(points, few)["front_probability"].isna().all()
    assert joint.joint(few).empty


def test_the_report_says_what_replicates_do_not_tell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make(tiny_table(), replicates=3)
    run = FakeRun(tmp_path / "run", plan, items=8, noise=0.3).all_sessions().path
    assert main([str(run), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    sure = [row["front_probability"] for row in document["front"]]
    assert all(0 <= probability <= 1 for probability in sure)
    assert document["unresolved"] == [] and "probability" in text(document)
    open_ = document["front"][0] | {"front_probability": 0.62, "further_replicates": 4}
    said = text(document | {"unresolved": [open_, open_ | {"further_replicates": 100}]})
    assert "2 points of which the replicates do not tell whether they are on the front" in said
    assert "62% probable; about 4 more replicates would tell" in said
    assert "62% probable; more than 100 more replicates would tell" in said
    assert "no interval is shown" not in text(document)
    alone = FakeRun(tmp_path / "alone", make(tiny_table()), items=8).all_sessions().path
    assert main([str(alone)]) == 0
    printed = capsys.readouterr().out
    assert "probab" not in printed
    assert printed.startswith("no interval is shown: fewer than 3 replicates were measured")
