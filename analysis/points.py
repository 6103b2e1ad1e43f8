"""The table ``points.csv``: one row per point of the plan, with the mean over its replicates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis import clocks, front, phases
from analysis.certificate import asked_of
from analysis.column import STAGES
from analysis.columns import POINTS
from analysis.load import Run
from analysis.phases import together
from analysis.replicates import replicates
from paretopipe_worker.cuts import FIRST, LAST
from paretopipe_worker.plan import Plan

CONFIDENCE = 0.95

_OVER_REPLICATES: dict[str, tuple[Any, str]] = {
    "latency_items": ("min", "Int64"),
    "throughput_items": ("min", "Int64"),
    "payload_sent_bytes": (lambda part: part.sum(skipna=False), "Int64"),
    "wire_sent_bytes": (lambda part: part.sum(skipna=False), "Int64"),
    "max_relative_error": ("max", "float64"),
    "relay_late_p99_ms": ("max", "float64"),
    "link_engine": (together, "str"),
    "link_certificate": (together, "str"),
    **phases.OVER_REPLICATES,
    **clocks.OVER_REPLICATES,
}
"""How replicates become one figure of a point, and its dtype; what is not named is their mean."""

_WORST: dict[str, tuple[object, ...]] = {
    **phases.WORST,
    "attribution_ok": (True, False),
    "output": ("exact", "close", "unchecked"),
    "gate": (True, False),
    "crossed": (True, False),
    "link_emulated": (False, True),
    "link_certified": (True, False),
    "link_late": (False, True),
}
"""Where the worst of the replicates decides: values from best to worst."""

_INTERVALS = {
    "latency_median_ms": "latency_median_{}_ms",
    "forward_latency_median_ms": "forward_latency_median_{}_ms",
    "throughput_images_s": "throughput_{}_images_s",
}


def points(
    run: Run, *, uncertified: bool = False, measured: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Every point of a run's plan, with what was measured of it.

    Parameters
    ----------
    run
        The run.
    uncertified
        Whether points whose link is marked may be on a front, see :func:`analysis.front.marked`.
    measured
        The run's replicates where they are known, see :func:`analysis.replicates.replicates`.

    Returns
    -------
    The columns :data:`analysis.columns.POINTS`, sorted as the experiment lists models, placements,
    links, backends, batches, windows, and then along the model.
    """
    measured = replicates(run) if measured is None else measured
    table = planned(run.plan).merge(outcomes(measured), on="point")
    table = table.merge(means(measured[measured["status"] == "ok"]), on="point", how="left")
    return front.mark(table, uncertified=uncertified)[list(POINTS)]


def planned(plan: Plan) -> pd.DataFrame:
    """What was to be measured, one row per point, in the experiment's order."""
    experiment = plan.experiment
    models = [model.name for model in experiment.models]
    links = [link.name for link in experiment.links]
    placements = list(dict.fromkeys(session.placement for session in plan.sessions))
    rows = []
    for point in plan.points:
        order = (LAST, *plan.table(point.model, point.batch, point.dtype).names, FIRST)
        factors = [plan.host(host).device_emulated for host in point.placement]
        row = {
            "point": point.id,
            "model": point.model,
            "split": "+".join(point.split),
            "position": order.index(point.split[0]),
            "placement": ">".join(point.placement),
            "link": point.link,
            **asked_of(plan.link(point.link), len(point.placement)),
            "backend": point.backend,
            "batch": point.batch,
            "window": point.window,
            "dtype": point.dtype,
            "payload_bytes": sum(point.hop_bytes[:-1]),
            "return_bytes": point.hop_bytes[-1],
            "device_emulated": any(factor != 1 for factor in factors),
        }
        row |= {f"stage{rank}_device_emulated": factors[rank] for rank in range(STAGES)}
        key = (
            models.index(point.model),
            placements.index(point.placement),
            links.index(point.link),
            experiment.backends.index(point.backend),
            experiment.batch.index(point.batch),
            experiment.window.index(point.window),
            row["position"],
        )
        rows.append((key, row))
    return pd.DataFrame([row for _, row in sorted(rows, key=lambda entry: entry[0])]).astype(
        dict.fromkeys(("rate_mbit", "delay_ms", "return_rate_mbit", "return_delay_ms"), "float64")
    )


def outcomes(measured: pd.DataFrame) -> pd.DataFrame:
    """Status of each point, how many replicates count and took how many tries, why others do not.

    Parameters
    ----------
    measured
        One row per point and replicate, see :func:`analysis.replicates.replicates`.
    """
    several = measured["replicate"].max() > 0
    rows = []
    for point, group in measured.groupby("point", sort=False):
        statuses = set(group["status"])
        status = next(name for name in ("ok", "failed", "missing") if name in statuses)
        lost = group.loc[group["status"] != "ok", ["replicate", "reason"]]
        reasons = lost.groupby("reason", sort=False)["replicate"].apply(list)
        text = "; ".join(
            f"{reason} (replicate {', '.join(map(str, numbers))})" if several else str(reason)
            for reason, numbers in reasons.items()
        )
        ok = int((group["status"] == "ok").sum())
        rows.append((point, status, text or None, ok, int(group["tries"].sum())))
    columns = ["point", "status", "reason", "replicates", "tries"]
    return pd.DataFrame.from_records(rows, columns=columns)


def means(measured: pd.DataFrame) -> pd.DataFrame:
    """Figures of each point from those of its replicates, null where one of them lacks it."""
    own = ["session", "replicate", "point", "attempt", "tries", "status", "reason"]
    groups = measured.groupby("point", sort=False)
    table = {}
    for name in measured.columns.difference(own, sort=False):
        if name in _WORST:
            ranks = {value: rank for rank, value in enumerate(_WORST[name])}
            worst = measured[name].map(ranks).groupby(measured["point"]).agg(_maximum)
            table[name] = worst.map(dict(enumerate(_WORST[name])))
        else:
            how, dtype = _OVER_REPLICATES.get(name, (_mean, "float64"))
            table[name] = groups[name].agg(how).astype(dtype)
    table |= dict(_intervals(groups, table))
    points = pd.Index(measured["point"].unique(), name="point")
    return pd.DataFrame(table, index=points).reset_index()


def _intervals(groups: Any, means: dict[str, pd.Series]) -> Iterator[tuple[str, pd.Series]]:
    """Both ends of each interval."""
    for name, ends in _INTERVALS.items():
        half = groups[name].agg(half_width)
        yield ends.format("low"), means[name] - half
        yield ends.format("high"), means[name] + half


def _maximum(part: pd.Series) -> float:
    """The largest, null where one is."""
    return float(part.astype("float64").max(skipna=False))


def _mean(part: pd.Series) -> float:
    """The mean, null where a part is."""
    return float(part.astype("float64").mean(skipna=False))


def half_width(part: pd.Series) -> float:
    """Half of the t-interval of a mean; null for fewer than two values."""
    count = len(part)
    if count < 2:
        return np.nan
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)
    return float(quantile * part.astype("float64").std(ddof=1) / np.sqrt(count))
