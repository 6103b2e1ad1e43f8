"""The table ``points.csv``: one row per point of the plan, its replicates reduced to one."""

from __future__ import annotations

import pandas as pd

from analysis.measures.certificate import asked_of
from analysis.measures.reduction import reduced
from analysis.measures.replicates import replicates
from analysis.run import Run
from analysis.tables import front
from analysis.tables.columns import COLUMNS, POINTS
from paretopipe_worker.cuts import FIRST, LAST
from paretopipe_worker.plan.labels import placement_label, split_label
from paretopipe_worker.plan.plan import Plan


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
        The run's replicates, if they are known already, see
        :func:`analysis.measures.replicates.replicates`.

    Returns
    -------
    The columns :data:`analysis.tables.columns.POINTS`, sorted as the experiment lists models,
    placements, links, backends, batches, windows, and then along the model.
    """
    measured = replicates(run) if measured is None else measured
    table = planned(run.plan).merge(outcomes(measured), on="point")
    means = reduced(measured[measured["status"] == "ok"], ["point"], COLUMNS)
    table = table.merge(means, on="point", how="left")
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
            "split": split_label(point.split),
            "position": order.index(point.split[0]),
            "placement": placement_label(point.placement),
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
    """Status of each point, its replicates that count, its tries, and why others do not count.

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
