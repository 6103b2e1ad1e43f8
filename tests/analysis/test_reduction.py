"""How the values of replicates become one, rule by rule."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.column import (
    ALL,
    ANY,
    FEWEST,
    LEAST,
    MEAN,
    MOST,
    TOGETHER,
    TOTAL,
    UNION,
    Column,
    Over,
    interval,
    worst,
)
from analysis.measures.reduction import reduced
from analysis.tables import columns, load_curve, stages


def reduce(values: list[object], over: Over) -> object:
    """One column of one group, reduced."""
    frame = pd.DataFrame({"group": 0, "name": pd.Series(values, dtype="object")})
    return reduced(frame, ["group"], [Column("name", "", "", over=over)])["name"].iloc[0]


@pytest.mark.parametrize(
    ("over", "values", "expected"),
    [
        (MEAN, [1.0, 2.0], 1.5),
        (MEAN, [1.0, None], None),
        (LEAST, [2.0, 1.0, None], 1.0),
        (MOST, [2.0, 1.0, None], 2.0),
        (FEWEST, [3, 2], 2),
        (TOTAL, [3, 2], 5),
        (TOTAL, [3, None], None),
        (ANY, [False, True], True),
        (ALL, [False, True], False),
        (ALL, [True, None], None),
        (worst("exact", "close", "unchecked"), ["close", "exact"], "close"),
        (TOGETHER, ["b", None, "a", "b"], "b; a"),
        (TOGETHER, [None, None], None),
        (UNION, ["no", "hot, throttled", "hot"], "hot, throttled"),
        (UNION, ["no", None], "no"),
        (UNION, [None], None),
    ],
)
def test_each_rule(over: Over, values: list[object], expected: object) -> None:
    found = reduce(values, over)
    assert pd.isna(found) if expected is None else found == expected


def test_the_interval_is_students_of_the_mean_and_needs_three_values() -> None:
    frame = pd.DataFrame({"group": [0, 0, 0, 1, 1], "ms": [1.0, 2.0, 4.0, 5.0, 5.0]})
    asked = [Column("ms", "", "", over=MEAN), *interval("ms_{}", "", "ms")]
    table = reduced(frame, ["group"], asked).set_index("group")
    ends = stats.t.interval(0.95, 2, 7 / 3, stats.sem([1, 2, 4]))
    assert table.loc[0, ["ms_low", "ms_high"]].tolist() == pytest.approx(list(ends))
    assert table.loc[1, "ms"] == 5 and np.isnan(table.loc[1, "ms_low"])


def test_no_rows_give_no_rows_with_the_dtypes_of_some() -> None:
    described = [*columns.COLUMNS, *stages.COLUMNS, *load_curve.COLUMNS]
    asked = list({column.name: column for column in described if column.over}.values())
    names = ["group", *(column.name for column in asked)]
    empty = reduced(pd.DataFrame(columns=names), ["group"], asked)
    assert empty.empty and set(empty.columns) == set(names)
    for column in asked:
        assert column.over is not None and str(empty[column.name].dtype) == column.over.dtype


def test_groups_come_in_the_order_of_their_first_rows() -> None:
    frame = pd.DataFrame({"group": ["b", "a", "b"], "ms": [1.0, 2.0, 3.0]})
    assert reduced(frame, ["group"], [Column("ms", "", "", over=MEAN)])["group"].tolist() == [
        "b",
        "a",
    ]
