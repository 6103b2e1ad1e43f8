"""From raw records to one row per point and rank: how it computed, how its host was."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import pareto
from analysis.figures.latency_parts import heights
from analysis.measures import hosts
from analysis.measures.computing import computing
from analysis.tables.stages import COLUMNS
from paretopipe_worker.records.health import Health
from tests.helpers.analysed import measure, point_at, stages_of
from tests.helpers.fake_plan import expected_ms, make, tiny_table
from tests.helpers.fake_run import HEALTHY, FakeRun
from tests.helpers.record_files import edit

pytestmark = pytest.mark.slow

CUT = "body.1"


def fake_of(path: Path, **options: Any) -> FakeRun:
    """A run without noise."""
    return FakeRun(path / "run", make(tiny_table()), noise=0, **options)


def test_every_rank_with_a_part_in_a_point_has_a_row(tmp_path: Path) -> None:
    fake = fake_of(tmp_path).all_sessions()
    table = stages_of(fake)
    assert set(table.index) == {
        *((split, rank) for split in ("@last", "body.0", CUT) for rank in (0, 1)),
        ("@first", 0),
    }
    for (split, rank), row in table.iterrows():
        stage, _ = expected_ms(fake.plan, point_at(fake, str(split)))
        assert row["host"] == fake.plan.hosts[rank].name
        assert row["compute_ms"] == pytest.approx(stage[rank], rel=1e-4, abs=1e-6)
        assert row["loaded_compute_ms"] == pytest.approx(stage[rank], rel=1e-4, abs=1e-6)
    assert table.loc[(CUT, 0), "wall_over_cpu"] == pytest.approx(1 / 0.99, rel=1e-4)


def test_points_that_were_not_measured_have_their_ranks_and_no_figures(tmp_path: Path) -> None:
    table = stages_of(fake_of(tmp_path))
    assert len(table) == 7 and table["compute_ms"].isna().all() and table["governor"].isna().all()
    assert set(table.xs(0, level="rank")["device_emulated"]) == {3.0}


@pytest.mark.usefixtures("undrawn")
def test_the_file_has_the_columns_that_are_described(tmp_path: Path) -> None:
    fake = fake_of(tmp_path, items=8).all_sessions()
    document = pareto.analyse(fake.path)
    assert str(fake.path / "stages.csv") in document["files"]
    table = pd.read_csv(fake.path / "stages.csv")
    assert list(table.columns) == [column.name for column in COLUMNS]
    known = pd.read_csv(fake.path / "points.csv").set_index("point")
    shared = ["model", "split", "placement", "link", "backend", "batch", "window", "dtype"]
    assert table[shared].equals(known.loc[table["point"], shared].reset_index(drop=True))
    assert not [name for name in known.columns if name.startswith("stage")]


def test_a_stages_ratio_under_a_full_window_is_that_of_all_its_items(tmp_path: Path) -> None:
    fake = fake_of(tmp_path)
    source, _ = fake.session(fake.plan.sessions[0])

    def slower(line: dict[str, Any]) -> None:
        if line["seq"] % 5 < 2:
            line["compute_ns"] *= 2

    edit(source, slower)
    row = stages_of(fake).loc[(CUT, 0)]
    # Four in ten items took twice as long: the median of the others hides it.
    assert row["wall_over_cpu"] == pytest.approx(1 / 0.99, rel=1e-3)
    assert row["loaded_wall_over_cpu"] == pytest.approx(1.4 / 0.99, rel=1e-3)


def test_emulated_devices_are_told(tmp_path: Path) -> None:
    plain = [dataclasses.replace(host, device_emulated=1.0) for host in make(tiny_table()).hosts]
    fake = FakeRun(tmp_path / "a", make(tiny_table()))
    assert measure(fake)["device_emulated"].all()
    assert set(stages_of(fake).xs(0, level="rank")["device_emulated"]) == {3.0}
    fake = FakeRun(tmp_path / "b", make(tiny_table(), hosts=plain)).all_sessions()
    assert not measure(fake)["device_emulated"].any()
    assert set(stages_of(fake)["device_emulated"]) == {1.0}


def test_the_hosts_are_told_by_the_worst_leg_that_counts(tmp_path: Path) -> None:
    hot = dataclasses.replace(
        HEALTHY,
        others_cpu=0.9,
        cpu_mhz=(600.0, 900.0, 1500.0),
        governor="ondemand",
        temperature_c=84.5,
        throttled=("hot", "throttled"),
        swapped_pages=7,
        peak_rss_bytes=500_000_000,
        overslept=0.03,
        slowed=0.2,
    )
    table = stages_of(fake_of(tmp_path, health={1: hot}).all_sessions()).loc[CUT]
    names = ["others_cpu", "cpu_mhz_min", "governor", "temperature_c_max", "throttled"]
    names += ["swapped_pages", "peak_rss_bytes"]
    assert table.loc[0, names].tolist() == [
        *(0.02, 1500.0, "performance", 55.0, "no", 0, 300_000_000)
    ]
    assert table.loc[1, names].tolist() == [
        *(0.9, 600.0, "ondemand", 84.5, "hot, throttled", 14, 500_000_000)
    ]
    assert table.loc[0, ["overslept", "slowed"]].isna().all()
    assert table.loc[1, ["overslept", "slowed"]].tolist() == [0.03, 0.2]


def test_what_a_host_does_not_tell_is_null(tmp_path: Path) -> None:
    fake = fake_of(tmp_path, health={0: Health(), 1: HEALTHY}).all_sessions()
    table = stages_of(fake)
    names = [column.name for column in hosts.COLUMNS]
    assert len(names) == 9 and table.xs(0, level="rank")[names].isna().all(axis=None)
    assert table.xs(1, level="rank")["governor"].eq("performance").all()


def test_every_field_of_a_hosts_health_has_a_column_or_is_left_to_the_records() -> None:
    # The ratio is computed from the items, which tell it for each phase.
    left = {"wall_over_cpu", "policy_mhz", "gpu_mhz"}
    assert {field.name for field in dataclasses.fields(Health)} == {*hosts.TOLD} | left


def test_any_number_of_ranks_is_measured_and_drawn() -> None:
    items = pd.DataFrame(
        {"rank": [0, 1, 2] * 8, "phase": (["latency"] * 3 + ["throughput"] * 3) * 4}
    ).assign(session="s", attempt=0, point="p", start_ns=0, compute_ns=10**6, cpu_ns=10**6)
    items["computed_ns"] = 10**6 * (1 + items["rank"])
    table = computing(items)
    assert table["rank"].tolist() == [0, 1, 2] and table["compute_ms"].tolist() == [1.0, 2.0, 3.0]
    points = pd.DataFrame(
        {"point": ["p"], "placement": ["a>b>c"], "latency_median_ms": [10.0], "wire_ms": [3.0]}
    )
    bars = heights(points, table).iloc[0]
    assert bars[[f"stage {rank} compute" for rank in range(3)]].tolist() == [1.0, 2.0, 3.0]
    assert bars["latency - compute (not attributed)"] == 4.0
    attribution = pd.DataFrame(
        {"rank": [0, 1, 2], "kind": "wire", "ms": [0.5, 1.0, 1.5], "placement": "a>b>c"}
    )
    queued = attribution.assign(kind="queue", ms=0.1)
    split = pd.concat([attribution, queued], ignore_index=True).assign(point="p")
    bars = heights(points, table, split).iloc[0]
    assert bars[["wire 0 to 1", "wire 1 to 2", "wire back"]].tolist() == [0.5, 1.0, 1.5]
    assert bars["queue"] == pytest.approx(0.3)
