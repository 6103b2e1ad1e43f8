"""What the analysis says of a made-up run, as tests ask for it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analysis.measures.replicates import replicates
from analysis.run import read
from analysis.tables.points import points
from analysis.tables.stages import stages
from paretopipe_worker.plan.plan import Point
from tests.helpers.fake_plan import make, mobilenet_table
from tests.helpers.fake_run import FakeRun


def measure(fake: FakeRun) -> pd.DataFrame:
    """The points of a run, by split."""
    return points(read(fake.path)).set_index("split")


def stages_of(fake: FakeRun) -> pd.DataFrame:
    """The stages of a run, by split and rank."""
    run = read(fake.path)
    return stages(run, replicates(run)).set_index(["split", "rank"])


def tables_of(fake: FakeRun) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables ``points.csv`` and ``stages.csv`` of a run."""
    run = read(fake.path)
    measured = replicates(run)
    return points(run, measured=measured), stages(run, measured)


def point_at(fake: FakeRun, split: str) -> Point:
    """The plan's point at a cut."""
    return next(point for point in fake.plan.points if point.split == (split,))


def mobilenet(
    path: Path, links: list[object], count: int = 21
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Points and stages of a made-up run of MobileNetV2, the first `count` cuts of each link."""
    plan = make(mobilenet_table(), links=links)
    table, of_ranks = tables_of(FakeRun(path / "run", plan, items=8).all_sessions())
    return table[table["position"] < count], of_ranks
