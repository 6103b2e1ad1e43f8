"""How many bytes an item has on its way forward, as its tensors were packed."""

from __future__ import annotations

import pandas as pd

from analysis.column import MEAN, UNMEASURED, Column
from analysis.measures.legs import TRY
from paretopipe_worker.plan.plan import Plan

WIRE_BYTES = Column(
    "wire_bytes",
    "bytes",
    "What the tensors of one item had on their way forward as they were packed in the format "
    "`wire`, added over hops: mean over all items of all legs, then over replicates. It is "
    "`payload_bytes` where nothing is packed; headers are not in it.",
    UNMEASURED,
    front=True,
    over=MEAN,
)


def packed_bytes(legs: pd.DataFrame, items: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """Mean bytes per item of each try, over the ranks that send forward.

    Parameters
    ----------
    legs, items
        Ends of all legs, and the source's items of all phases, of tries that count.

    Returns
    -------
    Columns session, attempt, point, wire_bytes.
    """
    sinks = {point.id: len(point.hops) - 1 for point in plan.points}
    forward = legs[legs["rank"] < legs["point"].map(sinks).astype("float64")]
    table = pd.DataFrame(
        {
            "sent": forward.groupby(TRY)["payload_sent_bytes"].sum(),
            "items": items[items["rank"] == 0].groupby(TRY).size(),
        }
    )
    table["wire_bytes"] = table["sent"] / table["items"]
    return table[["wire_bytes"]].reset_index()
