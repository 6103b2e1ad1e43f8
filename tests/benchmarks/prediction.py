"""How close predictions come to what a sweep measured, and what a front of them is worth.

Predictions rest on each session's profile and on the endpoints alone, or on all points but the one
that is predicted (leave-one-out). Beside them stands what is usual: the sum and the maximum of
parts measured once, on the link that asks least; and how well a replicate repeats the others, which
no prediction can surpass by much. Of a front that was predicted the measured values
count: its hypervolume over that of the measured front, with the worst measured values of the group
as the reference point, and by how much the split that was predicted to be the fastest is slower
than the fastest one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import moocore  # type: ignore[import-untyped]
import numpy as np
import pandas as pd

from analysis.measures.replicates import replicates
from analysis.prediction.observed import POOL, pool_of
from analysis.prediction.parts import Parts, group_of
from analysis.prediction.predicting import predicted, predictions
from analysis.run import Run, read
from analysis.tables.front import is_nondominated
from paretopipe_worker.cuts import FIRST, LAST
from paretopipe_worker.plan.labels import split_label
from paretopipe_worker.plan.predict import WIRE_PER_PAYLOAD
from tests.benchmarks.report import Check, Rows, parser, show

LATENCY, THROUGHPUT = "latency_median_ms", "throughput_images_s"
FOUND = {LATENCY: "predicted_latency_ms", THROUGHPUT: "predicted_throughput_images_s"}
WAYS = ("profile and endpoints", "leave-one-out", "sums and maxima", "another replicate")
_DIRECTIONS = ("min", "max")


@dataclass(frozen=True)
class Limits:
    """What errors are to keep, in per cent, and what fronts are to reach."""

    latency: tuple[float, float] = (3.0, 10.0)
    throughput: tuple[float, float] = (1.0, 5.0)
    hypervolume: float = 0.97
    regret: float = 5.0


def measure(runs: Sequence[Path]) -> tuple[Rows, Sequence[Check]]:
    """Compare predictions with measurements, run by run; the checks are about all of them."""
    parts = [_compared(read(path)) for path in runs]
    table = pd.concat(parts, ignore_index=True)
    rows = [row for way in WAYS for row in _rows(table, way)]
    return rows, [check for way in WAYS[:2] for check in _checks(table, way)]


def _compared(run: Run) -> pd.DataFrame:
    """Every measured point with what each way predicts of it."""
    measured = replicates(run)
    counted = measured[measured["status"] == "ok"]
    means = _means(counted)
    points = run.plan.points
    inner = {point.id for point in points if not {*point.split} <= {FIRST, LAST}}
    ways: dict[str, Callable[[], pd.DataFrame]] = {
        WAYS[0]: lambda: predicted(Parts(run, measured), points, inner),
        WAYS[1]: lambda: predictions(run, measured),
        WAYS[2]: lambda: _naive(run, measured),
    }
    labels = {point.id: group_of(point) | {"run": run.plan.run} for point in points}
    told = pd.DataFrame.from_dict(labels, orient="index").rename_axis("point").reset_index()
    found = [
        way().assign(way=name)[["point", "way", *FOUND.values()]] for name, way in ways.items()
    ]
    compared = pd.concat(found).merge(means, on="point")
    return pd.concat([compared, _repeated(counted)]).merge(told, on="point")


def _means(counted: pd.DataFrame) -> pd.DataFrame:
    """What was measured of each point: means over its replicates."""
    return counted.groupby("point")[[LATENCY, THROUGHPUT]].mean().dropna().reset_index()


def _repeated(counted: pd.DataFrame) -> pd.DataFrame:
    """The first replicate of each point in place of a prediction of the others."""
    first = counted["replicate"] == counted.groupby("point")["replicate"].transform("min")
    once = _means(counted[first]).rename(columns=FOUND)
    return once.merge(_means(counted[~first]), on="point").assign(way=WAYS[3])


def _naive(run: Run, measured: pd.DataFrame) -> pd.DataFrame:
    """Sums and maxima of stages as they were measured on the first link, and of bare wires."""
    parts = Parts(run, measured)
    labels = {p.id: (p.link, split_label(p.split)) for p in run.plan.points}
    stages = parts.observed.stages
    stages = stages.assign(split=stages["point"].map({id: each[1] for id, each in labels.items()}))
    first = run.plan.experiment.links[0].name
    opened = stages[stages["point"].map({id: each[0] == first for id, each in labels.items()})]
    times = opened.groupby(["split", *POOL])[["waiting_ms", "busy_ms"]].mean()
    found = times.to_dict("index")
    rows = []
    for point in run.plan.points:
        ranks = [
            (labels[point.id][1], *pool_of(point, rank).values()) for rank in point.active_ranks
        ]
        path = run.plan.link(point.link).forward_path(len(point.hops))
        sent = [each for each in zip(path, point.message_sizes, strict=True) if each[1][-1]]
        wire = [
            8e-3 * WIRE_PER_PAYLOAD * size[-1] / (way.rate_mbit or np.inf) for way, size in sent
        ]
        if all(key in found for key in ranks):
            latency = sum(found[key]["waiting_ms"] for key in ranks) + sum(wire)
            latency += sum(way.delay_ms for way, _ in sent)
            period = max([*(found[key]["busy_ms"] for key in ranks), *wire])
            rows.append((point.id, latency, 1e3 * point.batch / period))
    return pd.DataFrame(rows, columns=["point", *FOUND.values()])


def _errors(table: pd.DataFrame, column: str) -> pd.Series:
    """Relative errors in per cent; a point without a prediction is as far off as can be."""
    return ((table[FOUND[column]] / table[column] - 1).abs() * 100).fillna(np.inf)


def _rows(table: pd.DataFrame, way: str) -> Iterator[dict[str, Any]]:
    """A row for each group of one way."""
    groups = ["run", *(name for name in table.columns if table[name].nunique() > 1)]
    shared = [name for name in dict.fromkeys(groups) if name in _LABELS]
    for key, part in table[table["way"] == way].groupby(shared, sort=False):
        row: dict[str, Any] = {"way": way} | dict(zip(shared, key, strict=True))
        row["points"] = len(part)
        for name, column in (("latency", LATENCY), ("throughput", THROUGHPUT)):
            errors = _errors(part, column)
            row[f"{name}_median_percent"] = _percentile(errors, 50)
            row[f"{name}_p95_percent"] = _percentile(errors, 95)
        yield row


_LABELS = ("run", "model", "placement", "link", "backend", "batch", "dtype", "runtimes", "wire")


def _checks(table: pd.DataFrame, way: str) -> Iterator[Check]:
    """What the issue asks of one way, over all points and groups."""
    limits, part = Limits(), table[table["way"] == way]
    for name, column, (middle, most) in (
        ("latency", LATENCY, limits.latency),
        ("throughput", THROUGHPUT, limits.throughput),
    ):
        errors = _errors(part, column)
        words = f"{way}: {name}'s error, per cent,"
        yield Check(f"{words} median", _percentile(errors, 50), middle, "lower")
        yield Check(f"{words} 95th percentile", _percentile(errors, 95), most, "lower")
    groups = [name for name in part.columns if name in (*_LABELS, "window", "busy", "sources")]
    fronts = [_front(group) for _, group in part.groupby(groups, sort=False)]
    volumes, regrets = zip(*fronts, strict=True)
    volume = f"{way}: hypervolume of the predicted front over the measured one's, least"
    yield Check(volume, min(volumes), limits.hypervolume, "higher")
    regret = f"{way}: regret of the split predicted to be fastest, per cent, most"
    yield Check(regret, max(regrets), limits.regret, "lower")


def _front(group: pd.DataFrame) -> tuple[float, float]:
    """Share of the hypervolume that the predicted front reaches, and the regret in per cent."""
    measured = group[[LATENCY, THROUGHPUT]].to_numpy(np.float64)
    chosen = is_nondominated(group[list(FOUND.values())], _DIRECTIONS)
    worst = np.array([measured[:, 0].max(), measured[:, 1].min()])
    volumes = [
        float(moocore.hypervolume(values, ref=worst, maximise=[False, True]))
        for values in (measured[chosen], measured)
    ]
    share = volumes[0] / volumes[1] if volumes[1] else 1.0
    best = group[LATENCY].to_numpy()[group[FOUND[LATENCY]].fillna(np.inf).argmin()]
    return share, 100 * float(best / group[LATENCY].min() - 1)


def _percentile(errors: pd.Series, percent: float) -> float:
    """A percentile, interpolated linearly."""
    return float(np.percentile(errors, percent))


if __name__ == "__main__":
    options_of = parser("prediction", __doc__)
    options_of.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="results/RUN")
    options = options_of.parse_args()
    show("prediction", options, *measure(options.runs))
