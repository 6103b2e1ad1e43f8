"""Energy per image: which legs and images count, and when ranks may be added."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.measures import energy
from tests.helpers.analysed import measure, stages_of
from tests.helpers.fake_plan import make, tiny_table
from tests.helpers.fake_run import FakeRun
from tests.helpers.record_files import edit

pytestmark = pytest.mark.slow

CUT, BATCH = "body.1", 2


@pytest.fixture
def fake(tmp_path: Path) -> FakeRun:
    """A measured run with two images in an item, whose hosts have no counter of energy yet."""
    table = dataclasses.replace(tiny_table(), batch=BATCH)
    return FakeRun(tmp_path / "run", make(table, batch=[BATCH]), items=8).all_sessions()


def counted(fake: FakeRun, rank: int, joules: list[float | None], **changes: Any) -> None:
    """Have a rank count these joules in 50 items of a throughput leg, replicate by replicate.

    All its other legs count a thousand times as much.
    """
    for session, value in zip(replicates(fake), joules, strict=True):

        def write(line: dict[str, Any], value: float | None = value) -> None:
            factor = 1 if line["phase"] == "throughput" else 1000
            line["energy"] = {
                "joules": value and value * factor,
                "reason": None if value else "it stood still",
                "source": "rapl package-0",
                "seconds": 2.0,
                "items": 50,
            } | changes

        edit(session[rank], write, kind="phase")


def rested(fake: FakeRun, rank: int, joules: list[float | None], **changes: Any) -> None:
    """Have a rank's host use these joules in 4 s at rest, replicate by replicate."""
    for session, value in zip(replicates(fake), joules, strict=True):
        energy = {
            "joules": value,
            "reason": None if value else "it was gone",
            "source": "rapl package-0",
            "seconds": 4.0,
            "items": 0,
        } | changes
        header, *rest = session[rank].read_text().splitlines()
        line = json.dumps({"kind": "rest", "energy": energy})
        session[rank].write_text("\n".join([header, line, *rest, ""]))


def replicates(fake: FakeRun) -> list[list[Path]]:
    """The record files of each replicate, by rank."""
    sessions = sorted(fake.plan.sessions, key=lambda session: session.replicate)
    return [[fake.file(session, 0, host) for host in session.placement] for session in sessions]


def test_a_run_without_energy_has_none(fake: FakeRun) -> None:
    names = [column.name for column in energy.RANK_COLUMNS]
    assert stages_of(fake)[names].isna().all(axis=None)
    names = [column.name for column in energy.COLUMNS]
    assert measure(fake)[names].isna().all(axis=None)


def test_energy_is_by_image_of_the_throughput_leg_and_adds_up_over_ranks(fake: FakeRun) -> None:
    count = len(replicates(fake))
    counted(fake, 0, [300.0 + 100 * number for number in range(count)])
    counted(fake, 1, [50.0] * count, source="rapl package-0 + nvml 0")
    stages = stages_of(fake)
    # 300 J over 50 items of 2 images are 3 J, and each replicate has one more.
    source = 3 + (count - 1) / 2
    assert stages.loc[(CUT, 0), "energy_j_per_image"] == pytest.approx(source)
    assert stages.loc[(CUT, 1), "energy_j_per_image"] == pytest.approx(0.5)
    assert stages.loc[(CUT, 1), "energy_source"] == "rapl package-0 + nvml 0"
    assert stages["energy_note"].isna().all()
    points = measure(fake)["energy_j_per_image"]
    assert points[CUT] == pytest.approx(source + 0.5)
    assert points["@first"] == pytest.approx(source), "the other host takes no part"


def test_energy_above_rest_is_without_what_the_host_would_have_used_anyway(fake: FakeRun) -> None:
    count = len(replicates(fake))
    for rank in range(2):
        counted(fake, rank, [300.0] * count, scope="a package")
    rested(fake, 0, [40.0 + 8 * number for number in range(count)])
    rested(fake, 1, [400.0] * count)
    stages = stages_of(fake)
    # 40 J in 4 s are 10 W, and each replicate has two more; a leg of 2 s would have used 20 J.
    idle_w = 10 + 2 * (count - 1) / 2
    row = stages.loc[(CUT, 0)]
    assert row["idle_w"] == pytest.approx(idle_w)
    assert row["energy_j_per_image"] == pytest.approx(3)
    assert row["energy_above_idle_j_per_image"] == pytest.approx((300 - 2 * idle_w) / 100)
    assert row["energy_scope"] == "a package" and pd.isna(row["idle_note"])
    points = measure(fake)["energy_above_idle_j_per_image"]
    # The other host at rest used 100 W: in 2 s of its leg, 200 J of the 300.
    assert points[CUT] == pytest.approx((300 - 2 * idle_w + 100) / 100)
    assert points["@first"] == pytest.approx((300 - 2 * idle_w) / 100)


@pytest.mark.parametrize(
    ("joules", "changes"), [([None], {}), ([40.0], {"source": "rapl package-0 + nvml 0"})]
)
def test_without_the_same_sources_at_rest_there_is_no_energy_above_it(
    fake: FakeRun, joules: list[float | None], changes: dict[str, Any]
) -> None:
    count = len(replicates(fake))
    counted(fake, 0, [300.0] * count)
    counted(fake, 1, [300.0] * count)
    rested(fake, 0, [40.0] * count)
    rested(fake, 1, joules * count, **changes)
    row, points = stages_of(fake).loc[(CUT, 1)], measure(fake)
    assert row["energy_j_per_image"] == pytest.approx(3)
    assert pd.isna(row["energy_above_idle_j_per_image"])
    assert pd.isna(points.loc[CUT, "energy_above_idle_j_per_image"])
    assert points.loc["@first", "energy_above_idle_j_per_image"] == pytest.approx(2.8)
    assert (row["idle_note"] == "it was gone") == (joules == [None])


def test_a_sampled_leg_says_how_often_it_was_sampled(fake: FakeRun) -> None:
    count = len(replicates(fake))
    counted(fake, 0, [300.0] * count, source="pmic_partial", rate_hz=10.0, samples=21)
    row = stages_of(fake).loc[(CUT, 0)]
    assert (row["energy_rate_hz"], row["energy_samples"]) == (10.0, 21)


def test_one_rank_without_energy_leaves_its_point_without(fake: FakeRun) -> None:
    count = len(replicates(fake))
    counted(fake, 0, [300.0] * count)
    counted(fake, 1, [None, *[50.0] * (count - 1)])
    row = stages_of(fake).loc[(CUT, 1)]
    assert pd.isna(row["energy_j_per_image"]) and row["energy_note"] == "it stood still"
    points = measure(fake)["energy_j_per_image"]
    assert pd.isna(points[CUT]) and points["@first"] == pytest.approx(3)


@pytest.mark.parametrize("boots", [("one", "one"), (None, None), (None, "one")])
def test_ranks_that_may_share_a_computer_are_not_added(
    fake: FakeRun, boots: tuple[str | None, str | None]
) -> None:
    count = len(replicates(fake))
    for rank, boot in enumerate(boots):
        counted(fake, rank, [300.0] * count)
        for files in replicates(fake):
            edit(files[rank], lambda line, boot=boot: line["facts"].update(boot_id=boot), "header")
    assert stages_of(fake)["energy_j_per_image"].tolist() == pytest.approx([3.0] * 7)
    points = measure(fake)["energy_j_per_image"]
    assert pd.isna(points[CUT]) and points["@first"] == pytest.approx(3)


def test_records_from_before_energy_was_read_are_read(fake: FakeRun) -> None:
    for file in [file for files in replicates(fake) for file in files]:
        edit(file, lambda line: line.pop("energy"), kind="phase")
        assert '"energy"' not in file.read_text() and json.loads(file.read_text().split("\n")[0])
    assert measure(fake)["energy_j_per_image"].isna().all()
    assert measure(fake)["throughput_images_s"].notna().all()
