"""How long a host takes for each unit of a model, found from stages that consist of them.

A unit is what lies between two neighbouring places of a model. A stage from place i to place j
takes what its units take, and a part that every stage takes beside. All are multiplied by a factor
of the session, since processes of one session are faster or slower together by up to a quarter. It
has one for stages that wait between items and one for stages that do not, since hosts that work at
the same time may disturb each other. Another factor grows with how long the stage waited before,
since caches and clocks of a host that waits go cold. Units and factors are least squares of
relative errors, in which outliers count less.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.prediction.costs import Array, waited

_NOISE, _LEAST_MS = 0.02, 0.005
"""Standard deviation of a stage's time: a share of it, and at least so many milliseconds."""

_PROFILED, _PAUSED = 5.0, 2.0
"""How much larger that of a single unit of a profile is, and that of an item's between two waits.
"""

_FACTOR = 0.1
"""Standard deviation of a session's factor around what is known of it without its points."""

_SLOWING = 0.05
"""How much slower a stage may become each time its wait is multiplied by e."""

_UNIT, _BESIDE = 2.0, 1.0
"""What units and the part beside may differ by from the mean unit and from 0, in mean units."""

_OUTLIER = 2.0
"""Residuals above so many standard deviations count less (Huber, 1964)."""

_ROUNDS = 6


Duty: TypeAlias = Literal["waiting", "busy"]
"""Whether a stage waits between items, as with one in flight, or items follow each other."""


@dataclass(frozen=True)
class Solved:
    """What a host takes for a model.

    Parameters
    ----------
    prefix_ms
        Time of everything before each place, length m, without waits and where the factor is 1.
    beside_ms
        What every stage takes beside its units.
    slowing
        By what share a stage is slower for each unit of :func:`waited`.
    factors
        Of each session and duty.
    """

    prefix_ms: Array
    beside_ms: float
    slowing: float
    factors: dict[tuple[str, Duty], float]

    def factor(self, sessions: Collection[str], duty: Duty) -> float:
        """Mean factor of sessions; 1 for one of which nothing is known."""
        return float(np.mean([self.factors.get((name, duty), 1.0) for name in sessions] or [1.0]))


class UnitTimes:
    """Times of stages of one model on one host.

    Parameters
    ----------
    rows
        One row per stage that was timed: ``point``, ``session``, ``duty``, ``begin`` and ``end``,
        the places between which it lies, ``ms``, ``gap_ms``, for which it waited before,
        ``weight``, and ``whole``, whether it has the part that every stage takes. Of a profile a
        row has no point (null), and is one unit or all between two waits.
    places
        How many places the model has.
    """

    def __init__(self, rows: pd.DataFrame, places: int) -> None:
        rows = rows[(rows["end"] > rows["begin"]) & (rows["ms"] > 0) & (rows["weight"] > 0)]
        keys: list[tuple[str, Duty]] = list(zip(rows["session"], rows["duty"], strict=True))
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        self._sessions = list(numbers)
        self._number = np.array([numbers[key] for key in keys], dtype=np.int64)
        self._points = pd.Index(rows["point"].astype("str"))
        self._profiled = rows["point"].isna().to_numpy()
        self._ms = rows["ms"].to_numpy(np.float64)
        self._waited = waited(rows["gap_ms"].fillna(0.0).to_numpy(np.float64))
        # Many rows consist of the same units, so that sums over these rows are enough.
        alike = np.column_stack([rows["begin"], rows["end"], rows["whole"]]).astype(np.int64)
        kinds, self._kind = np.unique(alike.reshape(-1, 3), axis=0, return_inverse=True)
        units, (begin, end, whole) = np.arange(places - 1), kinds.T[:, :, None]
        inside = (begin <= units) & (units < end)
        self._design = np.column_stack([inside, whole]).astype(np.float64)
        spread = np.hypot(_NOISE * self._ms, _LEAST_MS)
        wider = np.where(rows["whole"], _PAUSED, _PROFILED)
        spread = np.where(self._profiled, wider * spread, spread)
        self._precision = rows["weight"].to_numpy(np.float64) / spread**2

    @property
    def profiled(self) -> bool:
        """Whether there is a profile."""
        return bool(self._profiled.any())

    def solve(self, left_out: Collection[str] = ()) -> Solved | None:
        """Find the units and the factors, without the stages of some points.

        Returns
        -------
        None where nothing is left.
        """
        kept = ~self._points.isin(list(left_out))
        if not kept.any():
            return None
        count = self._design[:, :-1].sum(axis=1)[self._kind]
        per_unit = self._ms[kept] / np.maximum(count[kept], 1)
        mean_ms = float(np.median(per_unit))
        expected = np.full(self._design.shape[1], mean_ms)
        expected[-1] = 0.0
        prior = np.full(len(expected), (_UNIT * mean_ms) ** -2)
        prior[-1] = (_BESIDE * mean_ms) ** -2
        factors, slowing, units = np.ones(len(self._ms)), 0.0, expected
        precision = np.where(kept, self._precision, 0.0)
        weights = precision
        by_session = np.ones(len(self._sessions))
        for turn in range(_ROUNDS):
            scale = factors * (1 + slowing * self._waited)
            certain, found = (
                np.bincount(self._kind, weights * scale * each, len(self._design))
                for each in (scale, self._ms)
            )
            matrix = np.diag(prior) + (self._design * certain[:, None]).T @ self._design
            units = np.linalg.solve(matrix, prior * expected + self._design.T @ found)
            bare = (self._design @ units)[self._kind]
            slow = 1 + slowing * self._waited
            factors, by_session = self._factors(bare * slow, weights)
            slowing = self._slowing(bare * factors, weights)
            if turn >= 1:
                fitted = bare * factors * (1 + slowing * self._waited)
                off = np.abs(self._ms - fitted) * np.sqrt(self._precision)
                weights = precision * np.minimum(1.0, _OUTLIER / np.maximum(off, 1e-9))
        prefix = np.concatenate([[0.0], np.maximum.accumulate(np.cumsum(units[:-1]))])
        told = dict(zip(self._sessions, by_session.tolist(), strict=True))
        return Solved(np.maximum(prefix, 0.0), float(units[-1]), slowing, told)

    def _factors(self, bare_ms: Array, weights: Array) -> tuple[Array, Array]:
        """The factor of each row, and that of each session's stages.

        Without stages a session's factor is expected to be that of its profile, by as much as
        profiles differ from stages in other sessions.
        """
        count = len(self._sessions)

        def sums(values: Array, rows: NDArray[Any]) -> Array:
            found = np.bincount(self._number[rows], values[rows], minlength=count)
            return found.astype(np.float64)

        stage, profile = ~self._profiled, self._profiled
        own, certain = (sums(weights * bare_ms * by, stage) for by in (self._ms, bare_ms))
        seen, known = (sums(weights * bare_ms * by, profile) for by in (self._ms, bare_ms))
        of_profile = np.divide(seen, known, out=np.ones(count), where=known > 0)
        both = (known > 0) & (certain > 0)
        ratios = own[both] / certain[both] / of_profile[both]
        level = float(np.exp(np.mean(np.log(ratios)))) if both.any() else 1.0
        expected = np.where(known > 0, of_profile * level, 1.0)
        found = (own + expected * _FACTOR**-2) / (certain + _FACTOR**-2)
        # Units and factors are known but for their product.
        mean = float(np.exp(np.mean(np.log(found))))
        found, of_profile = found / mean, of_profile / mean
        return np.where(profile, of_profile[self._number], found[self._number]), found

    def _slowing(self, bare_ms: Array, weights: Array) -> float:
        """How much slower stages are that waited longer."""
        expected = bare_ms * self._waited
        certain = float(np.sum(weights * expected**2)) + _SLOWING**-2
        return max(0.0, float(np.sum(weights * expected * (self._ms - bare_ms))) / certain)
