"""Growth is told from noise (:mod:`tests.helpers.trends`)."""

from __future__ import annotations

import random

import pytest

from tests.helpers.trends import trend


def test_a_line_grows_by_what_it_grows() -> None:
    found = trend([5 + 0.02 * number for number in range(1000)])
    assert found.grown == pytest.approx(0.02 * 900)
    assert (found.low, found.high) == pytest.approx((found.grown, found.grown), abs=1e-6)
    assert (found.first, found.last) == pytest.approx((5 + 0.02 * 49.5, 5 + 0.02 * 949.5))


def test_the_interval_holds_the_true_growth_in_about_95_of_100_runs() -> None:
    held = 0
    for seed in range(400):
        drawn = random.Random(seed)
        found = trend([0.01 * number + drawn.gauss(0, 3) for number in range(200)])
        held += found.low <= 0.01 * 180 <= found.high
    assert 0.91 <= held / 400 <= 0.98, held


def test_few_values_are_parts_of_their_own() -> None:
    found = trend([1.0, 2.0, 3.0])
    assert (found.first, found.last, found.ratio) == (1.0, 3.0, 3.0)
    with pytest.raises(AssertionError, match="2 values, of which 3 are needed"):
        trend([1.0, 2.0])
