"""Predictions of runs whose truth is known, and what they rest on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.measures.replicates import replicates
from analysis.prediction.parts import Parts, PredictionError, costs, group_of, hop
from analysis.prediction.predicting import COLUMNS, predictions
from analysis.prediction.predicting import predicted as predicted_by
from analysis.run import Run, read
from paretopipe_worker.cuts import FIRST, LAST
from paretopipe_worker.records.energy import Energy
from tests.helpers.fake_legs import period_ms
from tests.helpers.fake_plan import THREE, TWO_LINKS, expected_ms, make, mobilenet_table, table
from tests.helpers.fake_run import FakeRun


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Every split of MobileNetV2 over two links, where all items take the same."""
    plan = make(mobilenet_table(), links=TWO_LINKS)
    path = tmp_path_factory.mktemp("two") / "run"
    return read(FakeRun(path, plan, items=8, noise=0.0).all_sessions().path)


@pytest.fixture(scope="module")
def predicted(two: Run) -> pd.DataFrame:
    """Its predictions by point."""
    return predictions(two, replicates(two)).set_index("point")


def truth(run: Run, point: str) -> tuple[float, float]:
    """Latency and throughput that the made-up pipeline has."""
    stage, wire = expected_ms(run.plan, run.plan.point(point))
    window = run.plan.point(point).window
    assert window != "auto"
    return sum(stage) + sum(wire), 1e3 / period_ms(stage, wire, window)


def test_every_point_is_predicted_from_the_others(two: Run, predicted: pd.DataFrame) -> None:
    assert list(predicted.index) == [point.id for point in two.plan.points]
    assert [column.name for column in COLUMNS] == ["point", *predicted.columns]
    found = predicted[["predicted_latency_ms", "predicted_throughput_images_s"]].to_numpy()
    wanted = np.array([truth(two, point) for point in predicted.index])
    errors = pd.DataFrame(np.abs(found / wanted - 1), index=predicted.index)
    assert errors[0].max() < 0.02, errors.join(predicted).to_string()
    assert errors[1].max() < 0.02, errors.join(predicted).to_string()
    assert set(predicted["basis"]) == {"stages"}


def test_the_error_is_that_of_the_group(two: Run, predicted: pd.DataFrame) -> None:
    measured = replicates(two).set_index("point")["latency_median_ms"]
    for link in ("none", "rate20"):
        ids = [point.id for point in two.plan.points if point.link == link]
        logs = np.log(predicted.loc[ids, "predicted_latency_ms"] / measured[ids])
        wanted = float(np.sqrt(np.mean(logs**2)))
        assert predicted.loc[ids, "latency_error"].to_numpy() == pytest.approx(wanted)


def changed(run: Run, point: str, factor: float) -> Run:
    """The run as if one point's items had taken longer everywhere."""
    items = run.items.copy()
    own = items["point"] == point
    for name in ("computed_ns", "done_ns"):
        longer = items["start_ns"] + (items[name] - items["start_ns"]) * factor
        items[name] = items[name].where(~own, longer).astype(items[name].dtype)
    items["latency_ns"] = (items["done_ns"] - items["ready_ns"]).astype("Int64")
    return replace(run, items=items)


def test_nothing_of_the_point_itself_has_a_part_in_its_prediction(
    two: Run, predicted: pd.DataFrame
) -> None:
    point = next(p.id for p in two.plan.points if p.split == ("features.7",) and p.link == "none")
    other = changed(two, point, 3.0)
    measured = replicates(other)
    assert measured.set_index("point").loc[point, "latency_median_ms"] > (
        2 * replicates(two).set_index("point").loc[point, "latency_median_ms"]
    )
    found = predictions(other, measured).set_index("point")
    columns = ["predicted_latency_ms", "predicted_throughput_images_s"]
    assert found.loc[point, columns].tolist() == predicted.loc[point, columns].tolist()
    # The others rest on it, which shows that the change was seen.
    assert (found[columns] != predicted[columns]).any().all()


def test_three_stages_are_predicted_at_every_tuple(tmp_path: Path) -> None:
    plan = make(
        table(mobilenet_table().cuts[::3]),
        hosts=THREE,
        links=[{"name": "uneven", "hops": [{"rate_mbit": 100}, {"rate_mbit": 40}]}],
        window=6,
    )
    run = read(FakeRun(tmp_path / "run", plan, items=8, noise=0.0).all_sessions().path)
    assert len(plan.points) > 20
    found = predictions(run, replicates(run)).set_index("point")["predicted_latency_ms"]
    # No other point tells how long one host takes for a model's first or last unit.
    shared = [point.id for point in plan.points if not {*point.split} <= {FIRST, LAST}]
    wanted = [truth(run, point)[0] for point in shared]
    assert found[shared].to_numpy() == pytest.approx(wanted, rel=0.02)


@pytest.mark.parametrize("profiled", [True, False])
def test_a_profile_tells_what_endpoints_do_not(tmp_path: Path, profiled: bool) -> None:
    plan = make(mobilenet_table(), links=["none"])
    fake = FakeRun(tmp_path / "run", plan, items=8, noise=0.0, profiled=profiled)
    run = read(fake.all_sessions().path)
    parts = Parts(run, replicates(run))
    inner = {point.id for point in plan.points if not {*point.split} <= {FIRST, LAST}}
    found = predicted_by(parts, plan.points, inner).set_index("point")
    wanted = np.array([truth(run, point) for point in found.index])
    errors = np.abs(found.iloc[:, :2].to_numpy() / wanted - 1)
    if profiled:
        assert errors.max() < 0.02, found.assign(latency=wanted[:, 0]).to_string()
        assert set(predictions(run, replicates(run))["basis"]) == {"profile"}
    else:
        assert errors.max() > 0.05, "the endpoints tell everything, so that this test shows nothing"


COLD_NS = 1_500_000


def begun_cold(run: Run, *, paused: bool) -> Run:
    """The run as if whatever begins after a wait took longer: each stage, and what is profiled."""
    items, cold = run.items.copy(), cold_ns(run)
    items["computed_ns"] += items["rank"].map(lambda rank: factors(run)[rank] * COLD_NS)
    items["done_ns"] += items["point"].map(cold)
    items["latency_ns"] = (items["done_ns"] - items["ready_ns"]).astype("Int64")
    profiles, pauses = run.profiles.copy(), (3, 6, 9, 12)
    waiting = profiles["duty"] == "waiting"
    profiles["unit_ns"] = [
        tuple(
            tuple(ns + COLD_NS * (unit in (0, paused and pause)) for unit, ns in enumerate(each))
            for each, pause in zip(units, pauses, strict=True)
        )
        if waits
        else units
        for units, waits in zip(profiles["unit_ns"], waiting, strict=True)
    ]
    profiles["pauses"] = [pauses if paused and waits else () for waits in waiting]
    return replace(run, items=items, profiles=profiles)


def factors(run: Run) -> list[int]:
    """By rank, how many times as long its host takes."""
    return [round(run.plan.host(host).device_emulated) for host in run.plan.points[0].placement]


def cold_ns(run: Run) -> dict[str, int]:
    """By point, what all its stages take more."""
    slower = factors(run)
    return {p.id: sum(slower[rank] for rank in p.active_ranks) * COLD_NS for p in run.plan.points}


def test_a_profile_that_pauses_tells_what_a_stage_takes_that_begins_cold(tmp_path: Path) -> None:
    plan = make(mobilenet_table(), links=["none"])
    fake = FakeRun(tmp_path / "run", plan, items=8, noise=0.0, profiled=True)
    warm = read(fake.all_sessions().path)
    inner = {point.id for point in plan.points if not {*point.split} <= {FIRST, LAST}}
    off = {}
    for paused in (True, False):
        run = begun_cold(warm, paused=paused)
        found = predicted_by(Parts(run, replicates(run)), plan.points, inner).set_index("point")
        wanted = {id: truth(run, id)[0] + ns / 1e6 for id, ns in cold_ns(run).items()}
        ratios = found["predicted_latency_ms"] / pd.Series(wanted)
        off[paused] = float((ratios[sorted(inner)] - 1).abs().max())
    assert off[True] < 0.015 < 0.03 < off[False], off


@pytest.mark.parametrize(
    "changes", [{"batch": 77}, {"places": ("@last", "elsewhere")}, {"places": ("@last", "@first")}]
)
def test_a_profile_of_what_the_plan_has_not_tells_nothing(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    plan = make(mobilenet_table(), links=["none"])
    run = read(FakeRun(tmp_path / "run", plan, items=8, profiled=True).all_sessions().path)
    rows = [each | changes for each in run.profiles.to_dict("records")]
    parts = Parts(replace(run, profiles=pd.DataFrame(rows)), replicates(run))
    assert not any(map(parts.profiled, plan.points)) and len(rows)
    assert all(map(Parts(run, replicates(run)).profiled, plan.points))


def test_a_probe_through_which_nothing_came_tells_nothing(two: Run) -> None:
    probes = two.probes.copy()
    assert len(probes)
    probes["goodput_mbit"] = [[0.0] * len(each) for each in probes["goodput_mbit"]]
    found = predictions(replace(two, probes=probes), replicates(two))
    values = found["predicted_latency_ms"].to_numpy(np.float64)
    assert np.isfinite(values).all(), "the profile tells what the probe does not"


def test_a_hop_that_was_never_measured_has_the_software_of_one_that_was(two: Run) -> None:
    point = next(each for each in two.plan.points if each.link == "none")
    made = costs(two, replicates(two), group_of(point))
    slow = hop(10.0, 40.0, made.hops[0])
    assert slow.delay_ms == 40.0
    assert slow.ms_per_byte == pytest.approx(8e-4 * 1514 / 1448)
    assert slow.message_ms == made.hops[0].message_ms
    assert hop(None, 40.0, made.hops[0]).ms_per_byte == made.hops[0].ms_per_byte


def test_what_was_not_measured_is_not_predicted(tmp_path: Path) -> None:
    plan = make(mobilenet_table())
    run = read(FakeRun(tmp_path / "run", plan).path)
    measured = replicates(run)
    found = predictions(run, measured)
    assert found["predicted_latency_ms"].isna().all()
    assert found["latency_error"].isna().all()
    with pytest.raises(PredictionError, match="host pi was not measured with mobilenet_v2"):
        costs(run, measured, group_of(plan.points[0]))
    with pytest.raises(PredictionError, match="no points of model alexnet"):
        costs(run, measured, group_of(plan.points[0]) | {"model": "alexnet"})


REST_W, MORE_W = {"pi": 2.0, "server": 30.0}, {"pi": 5.0, "server": 60.0}


def with_energy(run: Run, boots: dict[str, str]) -> Run:
    """The run as if each host had told its energy, of these powers; and which computer it is."""

    def joules(leg: dict[str, Any]) -> float:
        stage, _ = expected_ms(run.plan, run.plan.point(leg["point"]))
        host, period = leg["host"], period_of(run, leg["point"])
        return (REST_W[host] * period + MORE_W[host] * stage[leg["rank"]]) * 10 / 1e3

    legs = run.legs.copy()
    legs["energy"] = [
        Energy(joules(leg), None, "rapl package-0", 10 * period_of(run, leg["point"]) / 1e3, 10)
        for leg in legs.to_dict("records")
    ]
    keys = run.stages[["session", "attempt", "replicate", "host", "rank"]]
    used = [Energy(REST_W[host], None, "rapl package-0", 1.0, 0) for host in keys["host"]]
    sessions = run.sessions.assign(
        facts=[
            facts | {"boot_id": boots[host]}
            for host, facts in zip(run.sessions["host"], run.sessions["facts"], strict=True)
        ]
    )
    return replace(run, legs=legs, rests=keys.assign(energy=used), sessions=sessions)


def period_of(run: Run, point: str) -> float:
    """Milliseconds from item to item."""
    return 1e3 / truth(run, point)[1]


def test_energy_is_that_of_rest_and_of_computing(two: Run, predicted: pd.DataFrame) -> None:
    column = "predicted_energy_j_per_image"
    assert predicted[column].isna().all(), "no host told its energy"
    told = with_energy(two, {"pi": "a", "server": "b"})
    found = predictions(told, replicates(told)).set_index("point")[column]
    for point in two.plan.points:
        stage, _ = expected_ms(two.plan, point)
        period = period_of(two, point.id)
        hosts = [point.placement[rank] for rank in point.active_ranks]
        wanted = sum(
            REST_W[host] * period + MORE_W[host] * stage[rank] for rank, host in enumerate(hosts)
        )
        assert found[point.id] == pytest.approx(wanted / 1e3, rel=0.02), point.split


def test_hosts_that_are_one_computer_have_no_energy_together(two: Run) -> None:
    told = with_energy(two, {"pi": "a", "server": "a"})
    found = predictions(told, replicates(told)).set_index("point")["predicted_energy_j_per_image"]
    alone = {point.id for point in two.plan.points if not point.crosses}
    assert set(found.dropna().index) == alone
