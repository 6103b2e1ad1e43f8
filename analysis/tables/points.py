"""The table ``points.csv``: one row per point of the plan, with the mean over its replicates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.column import STAGES
from analysis.measures import forward, legs
from analysis.measures.certificate import asked_of
from analysis.measures.legs import together
from analysis.measures.replicates import replicates
from analysis.run import Run
from analysis.tables import front
from analysis.tables.columns import POINTS
from paretopipe_worker.cuts import FIRST, LAST
from paretopipe_worker.plan.plan import Plan

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
    "throughput_note": (together, "str"),
    **legs.OVER_REPLICATES,
    **forward.OVER_REPLICATES,
}
"""How replicates become one figure of a point, and its dtype; what is not named is their mean."""

_WORST: dict[str, tuple[object, ...]] = {
    **legs.WORST,
    "attribution_ok": (True, False),
    "little_off": (False, True),
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
        Whether points whose link was not as asked for may be on a front.
    measured
        The run's replicates where they are known, see
        :func:`analysis.measures.replicates.replicates`.

    Returns
    -------
    The columns :data:`analysis.tables.columns.POINTS`, sorted as the experiment lists models,
    placements, links, backends, batches, windows, and then along the model.
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
        One row per point and replicate, see :func:`analysis.measures.replicates.replicates`.
    """
    several = measured["replicate"].max() > 0
    groups = measured.groupby("point", sort=False)
    table = pd.DataFrame({"status": "missing", "reason": None}, index=groups.size().index)
    for status in ("failed", "ok"):
        table.loc[measured.loc[measured["status"] == status, "point"].unique(), "status"] = status
    lost = measured.loc[measured["status"] != "ok", ["point", "replicate", "reason"]]
    texts = {
        point: "; ".join(
            f"{reason} (replicate {', '.join(map(str, part['replicate']))})"
            if several
            else str(reason)
            for reason, part in group.groupby("reason", sort=False)
        )
        for point, group in lost.groupby("point", sort=False)
    }
    table["reason"] = table.index.map(texts).astype("object").where(table.index.isin(texts), None)
    table["replicates"] = (measured["status"] == "ok").groupby(measured["point"]).sum()
    table["tries"] = groups["tries"].sum().astype("int64")
    return table.reset_index()


def means(measured: pd.DataFrame) -> pd.DataFrame:
    """Figures of each point from those of its replicates, null where one of them lacks it."""
    own = ["session", "replicate", "point", "attempt", "tries", "status", "reason"]
    names = measured.columns.difference(own, sort=False)
    ranks = {
        name: measured[name].map({value: rank for rank, value in enumerate(_WORST[name])})
        for name in names.intersection(list(_WORST), sort=False)
    }
    plain = names.difference([*ranks, *_OVER_REPLICATES], sort=False)
    # All columns at once: a call for each point and column would take most of an analysis' time.
    worst = _grouped(measured, pd.DataFrame(ranks)).max(skipna=False)
    mean = _grouped(measured, measured[plain]).mean(skipna=False)
    groups = measured.groupby("point", sort=False)
    table = {}
    for name in names:
        if name in _WORST:
            table[name] = worst[name].map(dict(enumerate(_WORST[name])))
        elif name in _OVER_REPLICATES:
            how, dtype = _OVER_REPLICATES[name]
            table[name] = groups[name].agg(how).astype(dtype)
        else:
            table[name] = mean[name]
    halves = half_widths(_grouped(measured, measured[list(_INTERVALS)]))
    for name, ends in _INTERVALS.items():
        table[ends.format("low")] = table[name] - halves[name]
        table[ends.format("high")] = table[name] + halves[name]
    points = pd.Index(measured["point"].unique(), name="point")
    return pd.DataFrame(table, index=points).reset_index()


def _grouped(measured: pd.DataFrame, values: pd.DataFrame) -> Any:
    """Columns as numbers, by point."""
    return values.astype("float64").groupby(measured["point"], sort=False)


def half_widths(groups: Any) -> pd.DataFrame:
    """Half of the t-interval of the mean of each group and column; null below two values."""
    count = groups.size()
    quantile = pd.Series(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1), index=count.index)
    halves: pd.DataFrame = groups.std(ddof=1).mul(quantile / np.sqrt(count), axis=0)
    return halves
