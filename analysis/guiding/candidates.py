"""What is known of each point of a guided sweep: measured figures, or bounds by prediction."""

from __future__ import annotations

from typing import Protocol, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis.column import OBJECTIVES
from analysis.guiding.residuals import Beliefs, Places, Residuals
from analysis.measures import marks
from analysis.run import Run
from analysis.tables.front import GROUP
from analysis.tables.points import planned
from paretopipe_worker.plan.plan import Plan

Array: TypeAlias = NDArray[np.float64]

SURE = 0.975
"""Probability with which each end of a predicted box holds."""
_MEASURED_SURE = 0.975
"""The same of a measured value, by its replicates."""

_ERROR, _IGNORANCE = 0.05, 1.0
"""Standard deviations, of logarithms, that are expected before anything is known of them: that of
predictions from their measurements, and that of points of which nothing predicts anything."""
_JUMPS = 0.2
"""Least standard deviation where nothing is predicted: between two cuts figures may jump, as the
bytes that cross do, and what was measured beside a jump does not tell."""

_COMPUTING = ("model", "placement", "batch", "dtype", "runtimes", "busy", "sources")
"""What points share whose stages compute the same at equal splits."""

_PREDICTED = ("predicted_latency_ms", "predicted_throughput_images_s")


class Predictor(Protocol):
    """Predicts every point of a plan by what was measured of others."""

    def __call__(self, run: Run, measured: pd.DataFrame) -> pd.DataFrame:
        """One row per point, see :func:`analysis.prediction.predicting.predictions`."""
        ...


def known(run: Run, measured: pd.DataFrame, predictor: Predictor) -> pd.DataFrame:
    """What is known of every point of a plan.

    Parameters
    ----------
    measured
        See :func:`analysis.measures.replicates.replicates`.

    Returns
    -------
    One row per point: what identifies it; ``state``: ``measured``, ``failed`` or ``open``;
    ``counts``, whether it is measured and its link was as asked for; ``group``, a number of points
    that are comparable; ``latency`` and ``rate``, what was measured, and ``latency_error`` and
    ``rate_error``, its standard error where replicates tell it; ``base_latency`` and ``base_rate``,
    what was predicted, and ``predicted``, whether that is so of all points of the group;
    ``family``, a number of points that compute the same. Figures are natural logarithms; `rate` is
    that of the time per image, so that less is better.
    """
    table = planned(run.plan)
    table = table.assign(
        group=table.groupby(list(GROUP), sort=False).ngroup(),
    )
    tried = measured.groupby("point")["status"].agg(set)
    states = {point: _state(statuses) for point, statuses in tried.items()}
    table["state"] = table["point"].map(states)
    complete = measured[measured["status"] == "ok"]
    complete = marks.counted(complete, all_links=False).dropna(subset=list(OBJECTIVES))
    means = complete.groupby("point")[list(OBJECTIVES)].mean()
    figures = _logarithms(means, ("latency", "rate"))
    table = table.merge(figures, left_on="point", right_index=True, how="left")
    table["counts"] = table["latency"].notna()
    table = table.merge(_spreads(complete, table), left_on="point", right_index=True, how="left")
    predicted = predictor(run, measured).set_index("point")
    base = _logarithms(predicted[list(_PREDICTED)], ("base_latency", "base_rate"))
    table = table.merge(base, left_on="point", right_index=True, how="left")
    unknown = table[["base_latency", "base_rate"]].isna().any(axis=1) & (table["state"] != "failed")
    # Where one point of a group is not predicted, none is taken to be.
    table["predicted"] = ~unknown.groupby(table["group"]).transform("any")
    keys = [*_COMPUTING, "predicted"]
    return table.assign(family=table.groupby(keys, sort=False).ngroup())


def _state(statuses: set[str]) -> str:
    """Whether a point has figures, failed, or has still to be measured."""
    return "measured" if "ok" in statuses else "failed" if "failed" in statuses else "open"


def _logarithms(values: pd.DataFrame, names: tuple[str, str]) -> pd.DataFrame:
    """Latencies and throughputs as logarithms of which less is better, null where there is none."""
    latency, rate = (values[column].astype("float64") for column in values.columns)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = pd.DataFrame({names[0]: np.log(latency), names[1]: -np.log(rate)})
    return found.where(np.isfinite(found))


def _spreads(complete: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Standard errors of measured means by point, from the spread of replicates in each group.

    What all points of a replicate have in common is taken out. They are 0 where there are too few
    replicates or points to tell: then a measured figure counts as it is.
    """
    found = []
    if complete["replicate"].nunique() < 2:
        return pd.DataFrame(columns=["latency_error", "rate_error"])
    for _, points in complete.merge(table[["point", "group"]], on="point").groupby("group"):
        by_point = {
            name: points.pivot(index="point", columns="replicate", values=column)
            for name, column in zip(("latency_error", "rate_error"), OBJECTIVES, strict=True)
        }
        errors = {
            name: _standard_error(np.log(each.to_numpy(np.float64)))
            for name, each in by_point.items()
        }
        found.append(pd.DataFrame(errors, index=by_point["latency_error"].index))
    return pd.concat(found) if found else pd.DataFrame(columns=["latency_error", "rate_error"])


def _standard_error(values: Array) -> Array:
    """Standard error of the mean of each row, with one spread for all rows, taken wide.

    It is multiplied so that twice of it is the half-width of a 95 % interval.
    """
    count = np.isfinite(values).sum(axis=1)
    left = values - np.nanmean(values, axis=1, keepdims=True)
    left = left - np.nanmean(left, axis=0, keepdims=True)
    degrees = (len(values) - 1) * (values.shape[1] - 1) - int(np.isnan(values).sum())
    if degrees < 1:
        return np.zeros(len(values))
    spread = np.sqrt(np.nansum(left**2) / degrees)
    wide: Array = spread / np.sqrt(count) * stats.t.ppf(_MEASURED_SURE, degrees) / 2
    return wide


class Bounded:
    """The open points of a family, with the box of each by what was measured in the family.

    Parameters
    ----------
    plan
        Says where the cuts of points are.
    family
        Rows of :func:`known`, those that compute the same.
    """

    def __init__(self, plan: Plan, family: pd.DataFrame) -> None:
        self.open = family[family["state"] == "open"]
        self._predicted = bool(family["predicted"].all())
        self.measured = family[family["counts"]]
        there, wanted = (_places(plan, rows, family) for rows in (self.measured, self.open))
        self.groups = wanted.groups
        boxes, self._beliefs = [], []
        for name in ("latency", "rate"):
            residuals, base = self._residuals(name, there)
            missed, scale = residuals.at(wanted)
            scale = scale if self._predicted else np.hypot(scale, _JUMPS)
            reach = scale * stats.t.ppf(SURE, residuals.degrees)
            mean = base + missed
            boxes.append((mean - reach, mean, mean + reach))
            self._beliefs.append((residuals, wanted))
        self.low, self.mean, self.high = (
            np.stack([box[end] for box in boxes], axis=1) for end in range(3)
        )

    def _residuals(self, name: str, there: Places) -> tuple[Residuals, Array]:
        """What predictions of one objective miss, and what they are of the open points.

        Where nothing is predicted, the mean of what was measured is in its place.
        """
        values = self.measured[name].to_numpy(np.float64)
        bases = [rows[f"base_{name}"].to_numpy(np.float64) for rows in (self.measured, self.open)]
        scale = _ERROR
        if not self._predicted:
            middle = float(values.mean()) if len(values) else 0.0
            bases = [np.full(len(base), middle) for base in bases]
            scale = _IGNORANCE
        return Residuals(there, values - bases[0], scale), bases[1]

    def beliefs(self) -> tuple[Beliefs, Beliefs]:
        """How certain the open points become, for latency and for throughput."""
        latency, rate = (residuals.believing(wanted) for residuals, wanted in self._beliefs)
        return latency, rate

    def worst(self) -> Array:
        """The worst that the true values of measured points may be, as an array (m, 2)."""
        columns = [
            self.measured[name] + 2 * self.measured[f"{name}_error"].fillna(0.0)
            for name in ("latency", "rate")
        ]
        return np.stack([column.to_numpy(np.float64) for column in columns], axis=1)


def _places(plan: Plan, rows: pd.DataFrame, family: pd.DataFrame) -> Places:
    """Places of points: those of their cuts, how much crosses, and whether anything does."""
    width = len(plan.point(family["point"].iloc[0]).split) + 2
    features = []
    for point in map(plan.point, rows["point"]):
        order = plan.table(point.model, point.batch, point.dtype).order
        places = [order.index(cut) / (len(order) - 1) for cut in point.split]
        sent = sum(point.hop_bytes[:-1])
        features.append([*places, np.log1p(sent) / 20, float(point.crosses)])
    array = np.array(features, dtype=np.float64).reshape(len(features), width)
    return Places(array, rows["group"].to_numpy(np.int64))
