"""Guided sweeps replayed: an oracle that has measured everything answers in place of hosts."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import moocore  # type: ignore[import-untyped]
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.column import OBJECTIVES
from analysis.guiding.candidates import Predictor
from analysis.guiding.deciding import decide
from analysis.run import Run
from analysis.tables.front import GROUP
from analysis.tables.points import planned
from paretopipe_worker.plan.generations import Generation, History, Line
from paretopipe_worker.plan.plan import Plan
from paretopipe_worker.plan.strategy import GuideSpec


@dataclass(frozen=True)
class Replayed:
    """What a guided sweep would have decided."""

    lines: tuple[Line, ...]

    @property
    def generations(self) -> list[list[str]]:
        """The points of each generation."""
        return [
            [each.point for each in line.measure]
            for line in self.lines
            if isinstance(line, Generation)
        ]

    @property
    def points(self) -> list[str]:
        """The points that were measured, in their order."""
        return [point for points in self.generations for point in points]


def replay(
    run: Run, measured: pd.DataFrame, predictor: Predictor, spec: GuideSpec | None = None
) -> Replayed:
    """Decide generation by generation, by nothing but what the earlier ones measured.

    Parameters
    ----------
    run, measured
        A run of all points, and its replicates.
    """
    lines: tuple[Line, ...] = ()
    while True:
        done = Replayed(lines).points
        seen = only(run, done), masked(measured, done)
        history = History(lines)
        lines += (decide(*seen, history, spec or GuideSpec(), predictor, 0.0),)
        if not isinstance(lines[-1], Generation):
            return Replayed(lines)


def only(run: Run, points: Collection[str]) -> Run:
    """The run with the raw records of these points alone."""
    frames = {
        name: frame[frame["point"].isin(points)]
        for name, frame in vars(run).items()
        if isinstance(frame, pd.DataFrame) and "point" in frame
    }
    return replace(run, **frames)


def masked(measured: pd.DataFrame, points: Collection[str]) -> pd.DataFrame:
    """Replicates without what was measured of any other point."""
    unseen = ~measured["point"].isin(points)
    hidden = measured.columns.difference(["session", "replicate", "point"])
    seen = measured.assign(**{name: measured[name].mask(unseen) for name in hidden})
    return seen.assign(status=measured["status"].mask(unseen, "missing"))


def figures(plan: Plan, measured: pd.DataFrame) -> pd.DataFrame:
    """Means of the objectives of each point that has them, with the columns of its group."""
    means = measured[measured["status"] == "ok"].groupby("point")[list(OBJECTIVES)].mean()
    return planned(plan).merge(means.dropna(), left_on="point", right_index=True)


@dataclass(frozen=True)
class Fronts:
    """What all points of a run measured, group by group of comparable ones."""

    groups: tuple[tuple[NDArray[np.str_], NDArray[np.float64]], ...]

    @classmethod
    def of(cls, table: pd.DataFrame) -> Fronts:
        """The fronts of what :func:`figures` returns."""
        return cls(
            tuple(
                (
                    group["point"].to_numpy(dtype=np.str_),
                    np.log(group[list(OBJECTIVES)].to_numpy(dtype=np.float64)),
                )
                for _, group in table.groupby(list(GROUP), sort=False)
            )
        )

    def worse_by(self, points: Collection[str]) -> float:
        """By what share the front of some points is worse than that of all, in the worst group.

        It is the additive epsilon indicator of logarithms (Zitzler et al., "Performance assessment
        of multiobjective optimizers", IEEE Trans. Evol. Comp. 7, 2003).
        """
        shares = [0.0]
        for names, values in self.groups:
            found = values[np.isin(names, list(points))]
            if not len(found):
                return float("inf")
            indicator = moocore.epsilon_additive(found, ref=values, maximise=[False, True])
            shares.append(float(np.expm1(indicator)))
        return max(shares)


def worse_by(table: pd.DataFrame, points: Collection[str]) -> float:
    """The same, of the table that :func:`figures` returns."""
    return Fronts.of(table).worse_by(points)
