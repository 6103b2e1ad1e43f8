"""What a guide decides by made-up truths: it spares points, and it is not wrong when it does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from analysis.guiding.deciding import decide
from analysis.guiding.residuals import Places, Residuals
from analysis.guiding.rule import Boxes
from analysis.run import Run, read
from paretopipe_worker.plan.generations import End, Generation, History
from paretopipe_worker.plan.plan import Plan
from paretopipe_worker.plan.strategy import GuideSpec
from tests.helpers import fake_plan, replaying
from tests.helpers.fake_run import FakeRun

EPSILON = GuideSpec().epsilon


def plan_of(**keys: Any) -> Plan:
    """A plan of MobileNetV2's 21 splits over each of four links."""
    return fake_plan.make(
        fake_plan.mobilenet_table(), **({"links": fake_plan.SIX_LINKS[:4]} | keys)
    )


def truth(plan: Plan) -> pd.DataFrame:
    """Latency in ms and images per second of each point, by a simple model of a pipeline."""
    rows = []
    for point in plan.points:
        stage, wire = fake_plan.expected_ms(plan, point)
        latency = sum(stage) + sum(wire)
        window = 3 if point.window == "auto" else point.window
        rows.append((point.id, latency, 1e3 / max(*stage, *wire, latency / window)))
    return pd.DataFrame(rows, columns=["point", "latency_median_ms", "throughput_images_s"])


def measuring(table: pd.DataFrame, noise: float = 0.0, replicates: int = 1) -> pd.DataFrame:
    """Replicates of points whose true figures are those of `table`."""
    draws = np.random.default_rng(3)
    parts = []
    for replicate in range(replicates):
        part = table.assign(replicate=replicate, status="ok", session="s", link_certified=True)
        for name in ("latency_median_ms", "throughput_images_s"):
            part[name] = part[name] * np.exp(noise * draws.standard_normal(len(part)))
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def predicting(table: pd.DataFrame) -> Callable[[Run, pd.DataFrame], pd.DataFrame]:
    """A predictor that says the figures of `table` whatever was measured."""
    said = table.rename(columns={
        "latency_median_ms": "predicted_latency_ms",
        "throughput_images_s": "predicted_throughput_images_s",
    })  # fmt: skip
    return lambda run, measured: said


def off(table: pd.DataFrame, factors: NDArray[np.float64]) -> pd.DataFrame:
    """The table with both figures made worse by factors, one for each point."""
    return table.assign(
        latency_median_ms=table["latency_median_ms"] * factors,
        throughput_images_s=table["throughput_images_s"] / factors,
    )


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of()


@pytest.fixture(scope="module")
def run(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of which nothing was measured."""
    path = tmp_path_factory.mktemp("run") / "run"
    FakeRun(path, plan)
    return read(path)


def outcome(
    run: Run, measured: pd.DataFrame, predicted: pd.DataFrame, spec: GuideSpec | None = None
) -> tuple[float, float]:
    """Share of points that a guide measures, and by how much the front of these is worse."""
    replayed = replaying.replay(run, measured, predicting(predicted), spec)
    assert len(set(replayed.points)) == len(replayed.points), "a point is measured once"
    table = replaying.figures(run.plan, measured)
    share = len(replayed.points) / len(run.plan.points)
    return share, replaying.worse_by(table, replayed.points)


def test_good_predictions_spare_most_points(run: Run, plan: Plan) -> None:
    true = truth(plan)
    draws = np.random.default_rng(1)
    near = off(true, np.exp(0.01 * draws.standard_normal(len(true))))
    share, worse = outcome(run, measuring(true), near)
    assert share <= 0.25, f"{share:.0%} of the points were measured"
    assert worse <= EPSILON


def test_a_wrong_model_makes_it_measure_more_and_not_be_wrong(run: Run, plan: Plan) -> None:
    true = truth(plan)
    good, _ = outcome(run, measuring(true), true)
    draws = np.random.default_rng(10)
    # One knows nothing, the other thinks that splits in the last third are twice as good.
    place = np.array([plan.table("mobilenet_v2", 1, "float32").order.index(each.split[0])
                      for each in plan.points])  # fmt: skip
    wrong = {
        "nothing known": np.exp(0.5 * draws.standard_normal(len(true))),
        "a wrong third": np.where(place > 13, 0.5, 1.0),
    }
    for name, factors in wrong.items():
        share, worse = outcome(run, measuring(true), off(true, factors))
        print(f"{name}: {share:.0%} measured, worse by {worse:.2%}")
        assert share > good, name
        assert worse <= EPSILON, name


def test_a_model_that_is_off_by_the_same_factor_everywhere_is_as_good_as_a_right_one(
    run: Run, plan: Plan
) -> None:
    true = truth(plan)
    share, worse = outcome(run, measuring(true), off(true, np.full(len(true), 1.4)))
    assert share <= 0.25, f"{share:.0%} of the points were measured"
    assert worse <= EPSILON


def test_noise_and_ties_do_not_make_it_wrong(run: Run, plan: Plan) -> None:
    true = truth(plan)
    noisy = measuring(true, noise=0.02)
    assert outcome(run, noisy, true)[1] <= EPSILON, "by what was measured of all points"
    tied = true.assign(latency_median_ms=10.0, throughput_images_s=200.0)
    share, worse = outcome(run, measuring(tied), tied)
    assert worse == 0
    assert share <= 0.25, "of equal points one is enough"


@pytest.mark.long
def test_without_predictions_it_learns_from_what_it_measures(run: Run, plan: Plan) -> None:
    true = truth(plan)
    share, worse = outcome(run, measuring(true), off(true, np.full(len(true), np.nan)))
    assert share < 1
    assert worse <= EPSILON


@pytest.mark.long
def test_a_looser_epsilon_spares_more(run: Run, plan: Plan) -> None:
    true = truth(plan)
    draws = np.random.default_rng(4)
    near = off(true, np.exp(0.1 * draws.standard_normal(len(true))))
    close, _ = outcome(run, measuring(true), near, GuideSpec(epsilon=0.01))
    loose, worse = outcome(run, measuring(true), near, GuideSpec(epsilon=0.3))
    assert loose < close
    assert worse <= 0.3


@pytest.mark.long
def test_uncertain_replicates_let_fewer_points_be_left_out(run: Run, plan: Plan) -> None:
    true = truth(plan)
    sure, _ = outcome(run, measuring(true, noise=0.0001, replicates=3), true)
    unsure, _ = outcome(run, measuring(true, noise=0.2, replicates=3), true)
    assert unsure > sure


def test_a_link_that_was_not_as_asked_for_lets_no_point_be_left_out(run: Run, plan: Plan) -> None:
    true = truth(plan)
    measured = measuring(true)
    links = {point.id: point.link for point in plan.points}
    bad = measured["point"].map(links) == "wifi"
    replayed = replaying.replay(run, measured.assign(link_certified=~bad), predicting(true))
    assert {point for point, link in links.items() if link == "wifi"} <= set(replayed.points)
    assert len(replayed.points) < 0.45 * len(plan.points), "the other links are as before"


def test_points_that_failed_are_neither_wanted_nor_a_reason(run: Run, plan: Plan) -> None:
    true = truth(plan)
    measured = measuring(true)
    best = measured.groupby(measured["point"].map({p.id: p.link for p in plan.points}))[
        "throughput_images_s"
    ].idxmax()
    measured.loc[best, "status"] = "failed"
    measured.loc[best, ["latency_median_ms", "throughput_images_s"]] = np.nan
    replayed = replaying.replay(run, measured, predicting(true))
    table = replaying.figures(plan, measured)
    assert replaying.worse_by(table, replayed.points) <= EPSILON
    assert isinstance(replayed.lines[-1], End)


def test_a_budget_ends_it_with_what_it_leaves_open(run: Run, plan: Plan) -> None:
    true = truth(plan)
    draws = np.random.default_rng(5)
    far = off(true, np.exp(0.4 * draws.standard_normal(len(true))))
    begin = replaying.replay(run, measuring(true), predicting(far)).lines[0]
    done = [each.point for each in begin.measure] if isinstance(begin, Generation) else []
    seen = (run, replaying.masked(measuring(true), done), History((begin,)))

    def within(hours: float) -> Any:
        return decide(*seen, GuideSpec(hours=hours), predicting(far), 0.1)

    whole = within(100.0)
    assert isinstance(begin, Generation) and isinstance(whole, Generation)
    # What was measured took 0.1 h, and what comes next will be as much slower than predicted.
    needed = 0.1 * whole.predicted_s / begin.predicted_s
    part, end = within(0.1 + 0.7 * needed), within(0.1)
    assert isinstance(part, Generation)
    assert 0 < len(part.measure) < len(whole.measure), "the most wanted of them"
    assert whole.measure[: len(part.measure)] == part.measure
    assert isinstance(end, End) and end.why == "hours"
    left_out = {each.point for each in end.standing.skipped}
    assert {each.point for each in end.left} == {p.id for p in plan.points} - left_out - {*done}


def test_every_reason_for_leaving_a_point_out_holds(run: Run, plan: Plan) -> None:
    """Held against a loop over all points that were measured by then."""
    true = truth(plan).set_index("point")
    draws = np.random.default_rng(6)
    near = off(truth(plan), np.exp(0.02 * draws.standard_normal(len(true))))
    replayed = replaying.replay(run, measuring(truth(plan)), predicting(near))
    done: set[str] = set()
    told = 0
    for line in replayed.lines:
        for each in line.standing.skipped:
            by, link = true.loc[each.by], plan.point(each.by).link
            assert each.by in done and link == plan.point(each.point).link
            assert by["latency_median_ms"] <= each.bounds.latency_ms[0] * 1.0201
            assert by["throughput_images_s"] >= each.bounds.throughput_images_s[2] / 1.0201
            told += 1
        done |= {each.point for each in line.measure} if isinstance(line, Generation) else set()
    assert told >= len(true) - len(done)


def test_what_is_covered_agrees_with_a_slow_twin() -> None:
    draws = np.random.default_rng(7)
    low, worst = draws.normal(size=(40, 2)), draws.normal(size=(15, 2))
    found = Boxes(low, low, low, worst).covered(0.1)
    slack = np.log(1.1)
    for box, by in zip(low, found, strict=True):
        covers = [all(w <= b + slack for w, b in zip(each, box, strict=True)) for each in worst]
        assert any(covers) == (by >= 0)
        assert by < 0 or covers[by]


def test_bounds_hold_as_often_as_they_say() -> None:
    """Of functions that are partly shared, partly smooth and partly rough."""
    draws = np.random.default_rng(8)
    inside = 0
    for _ in range(60):
        places = draws.uniform(size=(40, 1))
        groups = draws.integers(0, 2, 40)
        waves = np.sin(draws.uniform(2, 8) * places[:, 0] + draws.uniform(0, 6))
        rough = draws.uniform(0, 0.05) * draws.standard_normal(40)
        missed = 0.1 * draws.standard_normal() + draws.uniform(0, 0.2) * waves + rough
        every = Places(places, groups)
        seen, rest = np.arange(12), np.arange(12, 40)
        residuals = Residuals(every[seen], missed[seen], 0.05)
        mean, scale = residuals.at(every[rest])
        inside += int((np.abs(missed[rest] - mean) <= 3.286 * scale).sum())
    share = inside / (60 * 28)
    assert share >= 0.985, f"{share:.1%} of the values were in bounds of 99 % and more"


def test_what_measuring_would_tell_is_what_it_tells() -> None:
    """A point that is supposed measured makes others as certain as one that is measured."""
    draws = np.random.default_rng(9)
    every = Places(draws.uniform(size=(9, 1)), np.array([0, 1] * 4 + [0]))
    missed = 0.1 + 0.3 * np.sin(5 * every.features[:, 0])
    rest = np.arange(5, 9)
    beliefs = Residuals(every[np.arange(4)], missed[:4], 0.05).believing(every[rest])
    taken, shape = every[np.append(np.arange(4), rest)], beliefs._shape
    covariance = (shape.between(taken, taken) + shape.rough * np.eye(8)) / shape.variance
    beliefs.measure(0)
    known, other = np.arange(5), np.arange(5, 8)
    gain = covariance[np.ix_(other, known)] @ np.linalg.inv(covariance[np.ix_(known, known)])
    left = np.diag(covariance[np.ix_(other, other)] - gain @ covariance[np.ix_(known, other)])
    before = covariance[np.ix_(other, known[:4])]
    gain = before @ np.linalg.inv(covariance[np.ix_(known[:4], known[:4])])
    first = np.diag(covariance[np.ix_(other, other)] - gain @ before.T)
    assert beliefs.shrunk[1:] == pytest.approx(np.sqrt(left / first), rel=1e-6)


def test_a_run_of_which_nothing_can_be_measured_ends(tmp_path: Path, plan: Plan, run: Run) -> None:
    measured = measuring(truth(plan)).assign(
        status="failed", latency_median_ms=np.nan, throughput_images_s=np.nan
    )
    replayed = replaying.replay(run, measured, predicting(truth(plan)))
    assert isinstance(replayed.lines[-1], End) and replayed.lines[-1].why == "measured"
