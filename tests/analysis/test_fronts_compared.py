"""Two runs' fronts against each other, with truths that are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from analysis.column import OBJECTIVES
from analysis.compare import main
from analysis.tables.front import GROUP
from analysis.tables.fronts_compared import fronts
from tests.helpers.fake_plan import make, tiny_table
from tests.helpers.fake_run import FakeRun
from tests.helpers.truths import drawn_replicates, drawn_truth

FACTORS = {"same": [1.0, 1.0], "better": [0.8, 1.25]}


def side(values: NDArray[np.float64]) -> pd.DataFrame:
    """The replicates (replicates, splits, objectives) of one run, as a comparison has them."""
    index = pd.MultiIndex.from_product([range(n) for n in values.shape[:2]])
    table = pd.DataFrame(values.reshape(-1, 2), index=index, columns=list(OBJECTIVES))
    table.index.names = ["replicate", "split"]
    table = table.reset_index().astype({"split": "str"})
    return table.assign(**dict.fromkeys(GROUP, "x"))


def both(count: int, factor: list[float], seed: int = 4) -> list[pd.DataFrame]:
    """A run, and another of a truth that differs by factors."""
    draws = np.random.default_rng(seed)
    truth = drawn_truth(draws, 12)
    return [
        side(drawn_replicates(draws, truth * np.array(by), count, 0.01, common=0.01))
        for by in (FACTORS["same"], factor)
    ]


def test_a_run_that_is_better_everywhere_has_the_greater_hypervolume_and_needs_no_step() -> None:
    [row] = fronts(both(5, FACTORS["better"]))
    assert row["points"] == 12 and row["replicates"] == [5, 5]
    assert row["low"] > 0 and row["hypervolume"][1] > row["hypervolume"][0]
    behind, ahead = row["epsilon"]
    assert behind > 0 > ahead


def test_runs_of_one_truth_differ_by_no_more_than_their_interval() -> None:
    draws = range(40)
    rows = [fronts(both(5, FACTORS["same"], seed))[0] for seed in draws]
    held = [row["low"] <= 0 <= row["high"] for row in rows]
    assert sum(held) >= 34
    assert all(min(row["epsilon"]) < 0.2 for row in rows)


def test_fewer_than_three_complete_replicates_have_no_interval() -> None:
    first, second = both(3, FACTORS["better"])
    second = second.drop(second.index[-1])
    [row] = fronts([first, second])
    assert row["replicates"] == [3, 2] and row["low"] is None and row["high"] is None
    assert row["difference"] > 0


def test_only_splits_that_both_measured_are_compared() -> None:
    first, second = both(3, FACTORS["same"])
    [row] = fronts([first, second[second["split"].astype(int) < 5]])
    assert row["points"] == 5
    assert fronts([first, second[second["split"] == "none of them"]]) == []


def test_the_comparison_tells_of_fronts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = []
    for name, scale in (("a", 1.0), ("b", 0.7)):
        fake = FakeRun(tmp_path / name, make(tiny_table(), run=name, replicates=3), items=8)
        for session in fake.plan.sessions:
            fake.session(session, scale=scale)
        runs.append(str(fake.path))
    assert main(runs) == 0
    *_, said = capsys.readouterr().out.split("\n\n")
    assert said.startswith(
        "fronts as a whole (hypervolume: 1 is a split that is best in everything"
    )
    assert "tiny over link none, tcp, 4 splits: hypervolume" in said
    assert "(95%: +" in said and "of a, -" in said
