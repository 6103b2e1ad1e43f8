"""A run that was recorded and analysed by an earlier version has the same tables today.

``tests/data/run-before-rooms.tar.xz`` has the records of 12 points (two backends, a trace, offered
load, two replicates) and, in ``tables``, what commit 80a6fde made of them. Hosts' facts were taken
out of the headers. What was a column per rank then, ``stage0_compute_ms``, is a row of
``stages.csv`` now.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import pandas as pd
import pytest

from analysis import pareto
from analysis.tables import columns, load_curve
from tests import ROOT

pytestmark = pytest.mark.slow

KEPT = ROOT / "tests" / "data" / "run-before-rooms.tar.xz"
TABLES = ("points", "front", "attribution", "backends", "load", "segments")

INTERVALS = {
    column.name
    for column in (*columns.COLUMNS, *load_curve.COLUMNS)
    if column.over is not None and column.over.how in ("low", "high")
} | {"difference_low", "difference_high"}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    with tarfile.open(KEPT) as archive:
        archive.extractall(folder, filter="data")
    assert pareto.main([str(folder)]) == 0
    return folder


def table(path: Path) -> pd.DataFrame:
    """A table with its cells as they are written."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_what_it_was(kept: Path, name: str) -> None:
    then, now = table(kept / "tables" / f"{name}.csv"), table(kept / f"{name}.csv")
    moved = [column for column in then.columns if column.startswith(("stage0_", "stage1_"))]
    assert len(then) == len(now) > 0
    if "max_relative_error" in then:
        # An exact output had no error then, and has one of 0 now.
        exact = then["output"] == "exact"
        then["max_relative_error"] = then["max_relative_error"].mask(exact, "0")
    # Two replicates had an interval then, some with ends below zero, and have none now.
    then[[name for name in then if name in INTERVALS]] = ""
    pd.testing.assert_frame_equal(then.drop(columns=moved), now[list(then.columns.drop(moved))])
    assert not [column for column in now.columns if column.startswith("stage")]


def test_columns_of_a_rank_are_rows_of_stages(kept: Path) -> None:
    then, now = table(kept / "tables" / "points.csv"), table(kept / "stages.csv")
    compared = 0
    for row in now.itertuples():
        (before,) = then[then["point"] == row.point].to_dict("records")
        for name, value in row._asdict().items():
            if f"stage{row.rank}_{name}" in before:
                assert before[f"stage{row.rank}_{name}"] == value, f"{name} of {row}"
                compared += value != ""
    assert compared >= 12 * 7
