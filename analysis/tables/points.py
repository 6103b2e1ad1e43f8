"""The table ``points.csv``: one row per point of the plan, its replicates reduced to one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import cache

import pandas as pd

from analysis.column import OBJECTIVES
from analysis.measures.certificate import asked_of
from analysis.measures.reduction import reduced
from analysis.measures.replicates import replicates
from analysis.run import Run
from analysis.tables import front
from analysis.tables.certainty import certainty
from analysis.tables.columns import COLUMNS, POINTS
from analysis.tables.joint import joint
from paretopipe_worker.cuts import FIRST, LAST
from paretopipe_worker.plan import generations
from paretopipe_worker.plan.labels import placement_label, runtimes_label, split_label
from paretopipe_worker.plan.plan import Plan


def points(
    run: Run,
    *,
    uncertified: bool = False,
    measured: pd.DataFrame | None = None,
    objectives: Mapping[str, str] = OBJECTIVES,
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
    objectives
        Those of the fronts, see :func:`analysis.tables.front.mark`.

    Returns
    -------
    The columns :data:`analysis.tables.columns.POINTS`, sorted by model, placement, link, backend,
    batch, window, dtype, runtimes, wire, busy and sources, most as the experiment and the inventory
    list them, and then along the model.
    """
    measured = replicates(run) if measured is None else measured
    table = planned(run.plan).merge(outcomes(measured), on="point")
    history = generations.of(run.plan, run.path)
    if history is not None:
        table = skipped(table, history.reasons(run.plan))
    counted = measured[measured["status"] == "ok"]
    for figures in (reduced(counted, ["point"], COLUMNS), joint(counted)):
        table = table.merge(figures, on="point", how="left")
    table = front.mark(table, uncertified=uncertified, objectives=objectives)
    return certainty(table, measured, uncertified=uncertified, objectives=objectives)[list(POINTS)]


def planned(plan: Plan) -> pd.DataFrame:
    """What was to be measured, one row per point, in the experiment's order."""
    experiment = plan.experiment
    models = [model.name for model in experiment.models]
    links = [link.name for link in experiment.links]
    hosts = [host.name for host in plan.hosts]
    asked = cache(lambda link, ranks, ring: asked_of(plan.link(link), ranks, ring))
    rows = []
    for point in plan.points:
        order = (LAST, *plan.table(point.model, point.batch, point.dtype).names, FIRST)
        factors = [plan.host(host).device_emulated for host in point.placement]
        row = {
            "point": point.id,
            "model": point.model,
            "split": split_label(point.split),
            "position": position([order.index(cut) for cut in point.split], len(order)),
            "placement": placement_label(point.placement),
            "link": point.link,
            **asked(point.link, len(point.placement), len(point.hops)),
            "backend": point.backend,
            "batch": point.batch,
            "window": point.window,
            "dtype": point.dtype,
            "runtimes": runtimes_label(point.runtimes),
            "wire": point.wire,
            "busy": point.busy,
            "sources": point.sources,
            "payload_bytes": sum(point.hop_bytes[:-1]),
            "return_bytes": point.hop_bytes[-1],
            "device_emulated": any(factor != 1 for factor in factors),
        }
        key = (
            models.index(point.model),
            tuple(map(hosts.index, point.placement)),
            links.index(point.link),
            experiment.backends.index(point.backend),
            experiment.batch.index(point.batch),
            experiment.window.index(point.window),
            experiment.dtype.index(point.dtype),
            (len(set(point.runtimes)), row["runtimes"]),
            experiment.wire.index(point.wire),
            point.busy,
            point.sources,
            row["position"],
        )
        rows.append((key, row))
    return pd.DataFrame([row for _, row in sorted(rows, key=lambda entry: entry[0])]).astype(
        dict.fromkeys(("rate_mbit", "delay_ms", "return_rate_mbit", "return_delay_ms"), "float64")
    )


def position(places: Sequence[int], cuts: int) -> int:
    """Place of a split among all splits into as many stages, in the order of the data.

    Splits are ordered by their first cut, then by the second, and so on.

    Parameters
    ----------
    places
        Place of each cut, not falling, from 0 for ``@last``.
    cuts
        How many cuts there are, both endpoints included.

    Examples
    --------
    >>> [position([place], 3) for place in range(3)]
    [0, 1, 2]
    >>> [position(pair, 3) for pair in [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]]
    [0, 1, 2, 3, 4, 5]
    """
    before = 0
    for number, (least, place) in enumerate(itertools.pairwise((0, *places)), start=1):
        # Those that are cut here before `place`, whatever their later cuts.
        later = len(places) - number
        before += sum(math.comb(cuts - 1 - at + later, later) for at in range(least, place))
    return before


def skipped(table: pd.DataFrame, reasons: Mapping[str, str]) -> pd.DataFrame:
    """Mark the points that a guided sweep left out, of which nothing was tried.

    Parameters
    ----------
    table
        Columns ``point``, ``status``, ``reason``.
    reasons
        Why points are left out, by id.
    """
    told = table["point"].map(reasons)
    left_out = told.notna() & (table["status"] == "missing")
    return table.assign(
        status=table["status"].mask(left_out, "skipped"),
        reason=table["reason"].mask(left_out, told),
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
