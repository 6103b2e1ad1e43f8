"""The points of a plan by rank: what identifies a row of the tables that have one for each rank."""

from __future__ import annotations

import pandas as pd

from analysis.column import Column
from paretopipe_worker.plan.labels import placement_label, runtimes_label, split_label
from paretopipe_worker.plan.plan import Plan

_AS_THE_PLAN = ("model", "link", "backend", "batch", "window", "dtype", "wire")

COLUMNS = (
    Column("point", "", "Id of the point, as in points.csv."),
    Column("model", "", "As in points.csv, like the next nine."),
    Column("split", "", ""),
    Column("placement", "", ""),
    Column("link", "", ""),
    Column("backend", "", ""),
    Column("batch", "images", ""),
    Column("window", "items", ""),
    Column("dtype", "", ""),
    Column("wire", "", ""),
    Column("runtimes", "", ""),
)


def ranks_of(plan: Plan) -> pd.DataFrame:
    """Every rank that takes part in a point, in the order of the plan's points.

    Returns
    -------
    The columns of :data:`COLUMNS`, ``rank``, ``host``, ``sends_bytes`` and ``device_emulated``, the
    factor by which the host's computation is stretched.
    """
    rows = [
        {"point": point.id, "split": split_label(point.split)}
        | {name: getattr(point, name) for name in _AS_THE_PLAN}
        | {"placement": placement_label(point.placement), "rank": rank}
        | {"runtimes": runtimes_label(point.runtimes)}
        | {"host": point.placement[rank], "sends_bytes": point.hop_bytes[rank]}
        | {"device_emulated": plan.host(point.placement[rank]).device_emulated}
        for point in plan.points
        for rank in point.active_ranks
    ]
    return pd.DataFrame(rows)
