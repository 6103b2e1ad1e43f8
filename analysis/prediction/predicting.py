"""The table ``predictions.csv``: what every point is expected to measure, by all the others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.column import Column
from analysis.prediction.costs import Costs
from analysis.prediction.parts import NOBODY, Parts, PredictionError, group_of
from analysis.run import Run
from paretopipe_worker.plan.plan import Point
from paretopipe_worker.plan.window import filling

_FOLDS, _MANY, _FEW_FOLDS = 64, 2000, 16
"""Most groups of points that are left out in turn: up to so many points, each is left out alone.
Of very many points there are fewer groups, to save time."""

_UNKNOWN = "it follows a trace, or a host of its placement was not measured without the point"

COLUMNS = (
    Column("point", "", "Id of the point, as in points.csv."),
    Column(
        "predicted_latency_ms",
        "ms",
        "Response latency that is expected from the parts of its pipeline: the sum of its stages "
        "and messages. Nothing that was measured of the point itself has a part in it.",
        f"its link {_UNKNOWN}",
    ),
    Column(
        "predicted_throughput_images_s",
        "images/s",
        "Throughput that is expected: by the busiest stage or wire, or by the window.",
        f"its link {_UNKNOWN}",
    ),
    Column(
        "predicted_energy_j_per_image",
        "J",
        "Energy per image that is expected in the throughput phase: of each host that takes part "
        "its power at rest all the time, and what computing takes beside while it computes.",
        "a host did not tell its energy at enough other points, two hosts are one computer, or "
        "nothing else is predicted",
    ),
    Column(
        "latency_error",
        "",
        "Root mean square of the differences between the logarithms of measured and predicted "
        "latencies, over all points of its front's group that were measured: 0.03 is 3 %.",
        "no point of the group was both measured and predicted",
    ),
    Column("throughput_error", "", "The same of throughput.", "as before"),
    Column(
        "basis",
        "",
        "What the times of its stages rest on: `profile`, in which each host measured the model "
        "unit by unit, or `stages`, those of other points alone.",
    ),
)


VALUES = tuple(column.name for column in COLUMNS if column.name.startswith("predicted_"))
"""What is predicted of a point."""


def predictions(run: Run, measured: pd.DataFrame, parts: Parts | None = None) -> pd.DataFrame:
    """Predict every point of a run's plan from all other points.

    Parameters
    ----------
    run
        The run.
    measured
        Its replicates, see :func:`analysis.measures.replicates.replicates`.
    parts
        The parts of its pipelines, if they are known already.

    Returns
    -------
    The columns :data:`COLUMNS`, in the order of the plan's points.
    """
    parts, points = parts or Parts(run, measured), run.plan.points
    count = min(len(points), _FOLDS if len(points) <= _MANY else _FEW_FOLDS)
    folds = [points[first::count] for first in range(count)]
    found = pd.concat([predicted(parts, fold, {point.id for point in fold}) for fold in folds])
    order = [point.id for point in points]
    table = found.set_index("point").loc[order].reset_index()
    table["basis"] = ["profile" if parts.profiled(point) else "stages" for point in points]
    errors = _errors(table, points, measured)
    return table.assign(**errors)[[column.name for column in COLUMNS]]


def predicted(parts: Parts, points: Sequence[Point], left_out: Iterable[str]) -> pd.DataFrame:
    """Predict points from others.

    Parameters
    ----------
    parts
        The parts of the run's pipelines.
    points
        Those to predict.
    left_out
        Points that nothing rests on.

    Returns
    -------
    Columns ``point`` and :data:`VALUES`, null where nothing can be predicted.
    """
    without = frozenset(left_out) or NOBODY
    cells: dict[tuple[object, ...], list[Point]] = {}
    for point in points:
        key = (*group_of(point).values(), parts.sessions_of([point]))
        cells.setdefault(key, []).append(point)
    rows = []
    for cell in cells.values():
        try:
            made = parts.costs(cell[0], parts.sessions_of(cell), without)
        except PredictionError:
            values = [(np.nan, np.nan, np.nan)] * len(cell)
        else:
            values = _values(parts, made, cell, without)
        rows += [(point.id, *value) for point, value in zip(cell, values, strict=True)]
    return pd.DataFrame.from_records(rows, columns=["point", *VALUES])


def _values(
    parts: Parts, made: Costs, points: Sequence[Point], left_out: frozenset[str]
) -> list[tuple[float, float, float]]:
    """Latency, throughput and energy of points that share their pipeline's parts."""
    splits = made.index([point.split for point in points])
    latency, busiest = made.latency_ms(splits), made.busiest_ms(splits)
    windows = [
        filling(latency_ms, busiest_ms) if point.window == "auto" else point.window
        for point, latency_ms, busiest_ms in zip(points, latency, busiest, strict=True)
    ]
    period_ms = np.maximum(busiest, latency / np.array(windows))
    images = np.array([point.batch for point in points])
    energy = [
        parts.powers.joules(point, period, computing, left_out)
        for point, period, computing in zip(
            points, period_ms.tolist(), made.stages_ms(splits).tolist(), strict=True
        )
    ]
    return list(zip(latency.tolist(), (1e3 * images / period_ms).tolist(), energy, strict=True))


def _errors(
    table: pd.DataFrame, points: Sequence[Point], measured: pd.DataFrame
) -> Mapping[str, pd.Series]:
    """Root mean square of the log errors of each point's group."""
    counted = measured[measured["status"] == "ok"].groupby("point")
    groups = pd.Series(["\n".join(map(str, group_of(point).values())) for point in points])
    errors = {}
    for name, column in (("latency", "latency_median_ms"), ("throughput", "throughput_images_s")):
        unit = column.removeprefix("latency_median_").removeprefix("throughput_")
        means = table["point"].map(counted[column].mean())
        ratios = table[f"predicted_{name}_{unit}"] / means
        errors[f"{name}_error"] = (
            (ratios.map(math.log) ** 2).groupby(groups).transform("mean").map(math.sqrt)
        )
    return errors
