"""Energy per image: which legs and images count, and when ranks may be added."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

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


def replicates(fake: FakeRun) -> list[list[Path]]:
    """The record files of each replicate, by rank."""
    sessions = sorted(fake.plan.sessions, key=lambda session: session.replicate)
    return [[fake.file(session, 0, host) for host in session.placement] for session in sessions]


def test_a_run_without_energy_has_none(fake: FakeRun) -> None:
    names = ["energy_j_per_image", "energy_source", "energy_note"]
    assert stages_of(fake)[names].isna().all(axis=None)
    assert measure(fake)["energy_j_per_image"].isna().all()


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
