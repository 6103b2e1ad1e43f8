"""Whether a figure grows over a run: a line through its tenths, with an interval."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scipy import stats

PARTS = 10
LEAST = 3
"""Fewest values through which a line has an interval."""
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Trend:
    """How a figure went over a run.

    Attributes
    ----------
    first, last
        What it was in the first and in the last part of the run.
    grown
        Its growth from the first to the last part, by the straight line through all parts that
        fits best. `low` and `high` are the ends of its interval (95 %, Student's t over the parts).
        They are too close where neighbouring parts are alike for another reason than growth.
    """

    first: float
    last: float
    grown: float
    low: float
    high: float

    @property
    def ratio(self) -> float:
        """The last part over the first."""
        return self.last / self.first if self.first else float("inf") if self.last else 1.0


def trend(
    values: Sequence[float], of_part: Callable[[Sequence[float]], float] = statistics.fmean
) -> Trend:
    """Fit the growth of a figure.

    Parameters
    ----------
    values
        The figure at equal distances, in order: at least :data:`LEAST`.
    of_part
        What stands for the values of one part.
    """
    parts, count = min(PARTS, len(values)), len(values)
    assert parts >= LEAST, f"{count} values, of which {LEAST} are needed"
    found = [
        of_part(values[count * part // parts : count * (part + 1) // parts])
        for part in range(parts)
    ]
    line = stats.linregress(range(parts), found)
    reach = float(stats.t.ppf((1 + _CONFIDENCE) / 2, parts - 2)) * float(line.stderr)
    grown, reach = ((parts - 1) * each for each in (float(line.slope), reach))
    return Trend(found[0], found[-1], grown, grown - reach, grown + reach)
