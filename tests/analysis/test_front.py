"""Dominance against a slow, obvious twin."""

from __future__ import annotations

import doctest
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from analysis.figures import labels
from analysis.tables import front

DIRECTION = st.sampled_from(["min", "max"])


def nondominated_twin(values: np.ndarray, directions: Sequence[str]) -> list[bool]:
    """The definition, word by word, in O(n²)."""

    def better(a: float, b: float, direction: str) -> bool:
        return a < b if direction == "min" else a > b

    def dominates(a: np.ndarray, b: np.ndarray) -> bool:
        pairs = list(zip(a, b, directions, strict=True))
        no_worse = all(x == y or better(x, y, direction) for x, y, direction in pairs)
        return no_worse and any(better(x, y, direction) for x, y, direction in pairs)

    whole = [not any(np.isnan(row)) for row in values]
    return [
        whole[i]
        and not any(whole[j] and dominates(values[j], values[i]) for j in range(len(values)))
        for i in range(len(values))
    ]


@st.composite
def point_sets(draw: st.DrawFn) -> tuple[np.ndarray, list[str]]:
    objectives = draw(st.integers(1, 4))
    # Few different values, so that ties and duplicates are common.
    element = st.sampled_from([0.0, 1.0, 2.0, 3.0, -1.5, float("inf"), float("nan")])
    values = draw(
        arrays.arrays(np.float64, (draw(st.integers(0, 12)), objectives), elements=element)
    )
    return values, draw(st.lists(DIRECTION, min_size=objectives, max_size=objectives))


@given(point_sets())
def test_the_front_is_what_the_definition_says(drawn: tuple[np.ndarray, list[str]]) -> None:
    values, directions = drawn
    assert front.is_nondominated(values, directions).tolist() == nondominated_twin(
        values, directions
    )


def test_equal_points_all_stay() -> None:
    assert front.is_nondominated([[1, 2], [1, 2], [1, 1]], ["min", "max"]).tolist() == [
        True,
        True,
        False,
    ]


def test_a_point_without_a_figure_is_not_on_the_front_and_beats_nothing() -> None:
    values = [[0.0, np.nan], [1, 1]]
    assert front.is_nondominated(values, ["min", "max"]).tolist() == [False, True]


@pytest.mark.parametrize(
    ("values", "directions"),
    [([[1, 2]], ["min"]), ([1, 2], ["min", "max"]), ([[1]], ["least"]), ([[]], [])],
)
def test_shapes_and_directions_that_do_not_fit_are_refused(
    values: list[float], directions: list[str]
) -> None:
    with pytest.raises(ValueError, match=r"must have shape|allowed are"):
        front.is_nondominated(values, directions)


def test_each_group_has_a_front_of_its_own() -> None:
    rows = [
        {"link": link, "latency_median_ms": latency, "throughput_images_s": rate}
        for link, latency, rate in [
            ("none", 10.0, 50.0),
            ("none", 20.0, 40.0),
            ("slow", 90.0, 5.0),
            ("slow", 80.0, 4.0),
            ("slow", np.nan, np.nan),
        ]
    ]
    same = {"model": "m", "placement": "a>b", "backend": "tcp"}
    same |= {"batch": 1, "window": 3, "dtype": "float32", "link_certified": True}
    same |= {"link_late": False, "runtimes": "eager", "wire": "fp32", "busy": False, "sources": 1}
    table = front.mark(pd.DataFrame(rows).assign(**same))
    assert table["on_front"].tolist() == [True, False, True, True, False]


@pytest.mark.parametrize("module", [front, labels])
def test_the_examples_in_the_documentation_hold(module: object) -> None:
    result = doctest.testmod(module)  # type: ignore[arg-type]
    assert result.attempted and not result.failed
