"""Which split is taken within limits, and what is said where none keeps them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from analysis.answers.choosing import choices, knee
from analysis.answers.limits import Limit
from analysis.column import OBJECTIVES
from analysis.pareto import main
from analysis.tables.front import GROUP
from tests.helpers.fake_plan import make, tiny_table
from tests.helpers.fake_run import FakeRun

LATENCY, THROUGHPUT = OBJECTIVES
SAME = dict.fromkeys(GROUP, "x") | {"placement": "pi>server", "link_certified": True}


def points(**figures: tuple[float, float, float | None]) -> pd.DataFrame:
    """Splits with latency, throughput and energy."""
    rows = [
        {
            "point": split,
            "split": split,
            LATENCY: ms,
            THROUGHPUT: rate,
            "energy_j_per_image": joules,
        }
        for split, (ms, rate, joules) in figures.items()
    ]
    return pd.DataFrame(rows).assign(**SAME)


TABLE = points(a=(10, 10, 5), b=(12, 30, 4), c=(30, 34, 3), d=(40, 20, 1))


def test_the_knee_gives_up_least_of_both() -> None:
    front = TABLE[TABLE["split"].isin(["a", "b", "c"])]
    assert TABLE["split"][knee(front, OBJECTIVES)] == "b"
    [choice] = choices(TABLE, [])
    assert (choice["split"], choice["why"]) == ("b", "knee of the front of latency and throughput")


def test_where_one_split_is_best_in_everything_there_is_no_knee() -> None:
    best = points(a=(10, 40, 5), b=(12, 30, 4))
    [choice] = choices(best, [])
    assert (choice["split"], choice["why"]) == (
        "a",
        "best split in latency and throughput alike",
    )


def test_within_a_limit_the_rest_is_as_good_as_it_can_be() -> None:
    [choice] = choices(TABLE, [Limit("latency", 35)])
    assert choice["split"] == "c"
    assert choice["why"] == "best throughput with latency of at most 35 ms"
    [choice] = choices(TABLE, [Limit("throughput", 20)])
    assert (choice["split"], choice["why"]) == (
        "b",
        "best latency with throughput of at least 20 /s",
    )


def test_a_limit_that_cannot_be_met_says_by_how_much() -> None:
    [choice] = choices(TABLE, [Limit("latency", 8), Limit("energy", 2)])
    assert choice["split"] is None
    assert choice["why"] == (
        "latency of at most 8 ms cannot be met: the best, a, has 10, 25 % beyond"
    )
    [choice] = choices(TABLE, [Limit("latency", 15), Limit("energy", 2)])
    assert choice["why"].endswith("can each be met, but by no split together")
    unknown = TABLE.assign(energy_j_per_image=None)
    [choice] = choices(unknown, [Limit("energy", 2)])
    assert choice["why"] == "energy of at most 2 J: nothing is known of it"


def test_points_over_links_that_were_not_as_asked_are_not_taken() -> None:
    off = TABLE.assign(link_certified=TABLE["split"] != "b")
    assert choices(off, [])[0]["split"] != "b"
    assert choices(off, [], uncertified=True)[0]["split"] == "b"


def test_limits_are_read_with_their_units(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(FakeRun(tmp_path / "run", make(tiny_table()), items=8).all_sessions().path)
    assert main([run, "--json", "--latency-max", "0.2s", "--throughput-min", "1/s"]) == 0
    [choice] = json.loads(capsys.readouterr().out)["choices"]
    assert "latency of at most 200 ms and throughput of at least 1 /s" in choice["why"]
    for text in ("50parsec", "much", "-3ms", "nan"):
        with pytest.raises(SystemExit):
            main([run, f"--latency-max={text}"])
        assert "is no latency; allowed are 50ms, 50s, 50us" in capsys.readouterr().err
