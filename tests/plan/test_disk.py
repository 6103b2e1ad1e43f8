"""What a plan takes on disks, by hand calculation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from paretopipe_worker.plan import disk
from paretopipe_worker.plan import plan as plans
from paretopipe_worker.records.lines import Item
from tests.helpers.fake_plan import make, tiny_table


def test_records_are_the_items_of_both_legs_at_every_rank() -> None:
    plan = make(tiny_table(), replicates=2)
    points = tuple(
        replace(point, predicted_latency_s=0.1, predicted_s=10.0, window=3) for point in plan.points
    )
    at = 10**15
    line = len(orjson.dumps(Item("p" * 12, "latency", 1000, at, at, at, 10**7, 10**7)))
    # In 5 s there are 50 items one after the other, and thrice as many with three in flight.
    ranks = sum(len(point.ring) for point in points) * 2
    found = disk.records_bytes(replace(plan, points=points))
    assert found / (200 * ranks) == pytest.approx(line, rel=0.5)
    assert found % ranks == 0


def test_files_are_those_that_hosts_are_sent(tmp_path: Path) -> None:
    plan = make(tiny_table())
    folder = plans.kept(tmp_path)
    folder.mkdir(parents=True)
    assert disk.files_bytes(plan, tmp_path) == 0
    for path in plans.program_files(plan.tables[0], folder):
        path.write_bytes(b"0" * 3_000_000)
    (folder / "of another plan").write_bytes(b"0" * 1000)
    assert disk.files_bytes(plan, tmp_path) == 6_000_000
    assert "6 MB of programs and tensors" in disk.told(plan, tmp_path)
