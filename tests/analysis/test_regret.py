"""One split for all links, and what each host brings, on tables whose truth is known."""

from __future__ import annotations

import pandas as pd
import pytest

from analysis.answers.hosts import worth
from analysis.answers.regret import across_links
from analysis.column import OBJECTIVES
from analysis.tables.front import GROUP

LATENCY, THROUGHPUT = OBJECTIVES
SAME = dict.fromkeys(GROUP, "x") | {"link_certified": True}


def points(rows: list[tuple[str, str, str, float, float]]) -> pd.DataFrame:
    """Placement, link, split, latency and throughput of points."""
    names = ["placement", "link", "split", LATENCY, THROUGHPUT]
    return pd.DataFrame(rows, columns=names).assign(
        **{name: value for name, value in SAME.items() if name not in names}
    )


def test_the_split_that_is_never_far_from_the_best_is_named() -> None:
    table = points(
        [
            ("pi>server", "fast", "@last", 10, 50),
            ("pi>server", "fast", "a", 12, 45),
            ("pi>server", "fast", "@first", 30, 20),
            ("pi>server", "slow", "@last", 90, 5),
            ("pi>server", "slow", "a", 33, 18),
            ("pi>server", "slow", "@first", 30, 20),
        ]
    )
    by = {each["objective"]: each for each in across_links(table)}
    assert (by[LATENCY]["split"], by[LATENCY]["link"]) == ("a", "fast")
    assert by[LATENCY]["regret"] == pytest.approx(0.2)
    assert by[THROUGHPUT]["split"] == "a"
    assert by[THROUGHPUT]["regret"] == pytest.approx(50 / 45 - 1)
    # Without the slow link there is nothing to choose between links.
    assert across_links(table[table["link"] == "fast"]) == []
    # A split that is not known over every link is not compared.
    off = table.assign(link_certified=(table["split"] != "a") | (table["link"] != "slow"))
    assert {each["split"] for each in across_links(off)} == {"all on pi"}


def test_a_host_is_worth_what_the_best_split_loses_without_it() -> None:
    table = points(
        [
            ("pi>hub>server", "none", "a+b", 40, 30),
            ("pi>hub>server", "none", "a+a", 35, 20),
            ("pi>hub>server", "none", "@last+@last", 50, 10),
            ("pi>hub>server", "none", "@first+@first", 100, 5),
        ]
    )
    by = {(each["host"], each["objective"]): each for each in worth(table)}
    assert by["hub", THROUGHPUT]["gain"] == pytest.approx(0.5)
    assert by["hub", LATENCY]["gain"] == 0
    assert by["pi", LATENCY]["gain"] == pytest.approx(50 / 35 - 1)
    assert by["server", THROUGHPUT]["without"] == 5
    assert worth(table[table["split"] != "a+b"]) == []  # nothing is computed on the hub
