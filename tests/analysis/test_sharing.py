"""How long several sources shared a sink's host, from made-up records of known times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import pareto
from analysis.report import terminal
from analysis.run import read
from analysis.tables.points import points
from paretopipe_worker.plan.fleet import Host
from tests.helpers import fake_plan
from tests.helpers.fake_run import FakeRun
from tests.helpers.record_files import edit

FLEET = tuple(
    Host(name=name, data_address=f"10.0.0.{number}")
    for number, name in enumerate(("edge", "edge2", "server"), start=1)
)
CROSSING = ("@last", "body.0", "body.1")


def two_lanes(folder: Path, *, scale: float = 1.0) -> FakeRun:
    """A run of one group of two lanes; the second one computes `scale` times as long."""
    placements = [["edge", "server"]]
    made = fake_plan.make(fake_plan.tiny_table(), hosts=FLEET, placements=placements, sources=[2])
    fake = FakeRun(folder / "run", made, noise=0)
    first, second = made.sessions
    fake.session(first)
    fake.session(second, scale=scale)
    return fake


def table(fake: FakeRun) -> pd.DataFrame:
    """Its points."""
    return points(read(fake.path)).set_index(["placement", "split"])


def of_lane(rows: pd.DataFrame, source: str, name: str) -> pd.Series:
    """A column of one lane's points at which something crosses."""
    return rows.loc[[(f"{source}>server", split) for split in CROSSING], name]


def test_lanes_that_take_the_same_time_share_all_of_it(tmp_path: Path) -> None:
    rows = table(two_lanes(tmp_path))
    for source in ("edge", "edge2"):
        assert of_lane(rows, source, "overlap_share").tolist() == pytest.approx([1] * 3, abs=0.001)
        assert of_lane(rows, source, "overlap_note").isna().all()
        assert pd.isna(rows.loc[(f"{source}>server", "@first"), "overlap_share"])


def test_the_share_is_the_time_in_which_all_others_had_items_under_way(tmp_path: Path) -> None:
    fake = two_lanes(tmp_path)
    first, second = fake.plan.sessions
    ends: dict[tuple[str, str], dict[str, Any]] = {}
    place = next(n for n, p in enumerate(first.points) if fake.plan.point(p).hops[0])
    mine, theirs = first.points[place], second.points[place]

    # The other lane's last items at its sink come in the middle of this one's counted time.
    def note(line: dict[str, Any]) -> None:
        ends[line["point"], line["phase"]] = line

    edit(fake.file(first, 0, "server"), note, "phase")
    leg = ends[mine, "throughput"]
    middle = (leg["start_ns"] + leg["end_ns"]) // 2

    def cut_short(line: dict[str, Any]) -> None:
        if line["point"] == theirs and line["leg"] == leg["leg"]:
            line["sent_ns"] = min(line["sent_ns"], middle)

    edit(fake.file(second, 0, "server"), cut_short)
    rows = points(read(fake.path)).set_index("point")
    assert rows.loc[mine, "overlap_share"] == pytest.approx(0.5, abs=0.001)
    assert rows.loc[mine, "overlap_note"] == (
        "throughput: the other sources shared 0.50 of the time"
    )
    assert rows.loc[theirs, "overlap_share"] == pytest.approx(1, abs=0.001)


def test_lanes_that_drifted_apart_shared_nothing_and_the_table_says_so(tmp_path: Path) -> None:
    rows = table(two_lanes(tmp_path, scale=3))
    shares = of_lane(rows, "edge", "overlap_share")
    notes = of_lane(rows, "edge", "overlap_note")
    assert (shares < 0.9).any()
    assert (notes.notna() == (shares < 0.9)).all()


def test_people_are_told_of_points_that_were_not_shared_for_long(tmp_path: Path) -> None:
    document = pareto.analyse(two_lanes(tmp_path, scale=3).path)
    text = terminal.text(document)
    assert f"{len(document['apart'])} points not shared with all other sources for long" in text
    rows = points(read(tmp_path / "run"))
    assert len(document["apart"]) == (rows["overlap_share"] < 0.9).sum() > 0


def test_clocks_of_two_boots_are_not_compared(tmp_path: Path) -> None:
    fake = two_lanes(tmp_path)
    _, second = fake.plan.sessions

    def reboot(line: dict[str, Any]) -> None:
        line["facts"]["boot_id"] = "another"

    edit(fake.file(second, 0, "server"), reboot, "header")
    assert table(fake)["overlap_share"].isna().all()


def test_one_source_shares_with_nobody(tmp_path: Path) -> None:
    fake = FakeRun(tmp_path / "run", fake_plan.make(fake_plan.tiny_table())).all_sessions()
    rows = points(read(fake.path))
    assert rows["overlap_share"].isna().all() and rows["overlap_note"].isna().all()
