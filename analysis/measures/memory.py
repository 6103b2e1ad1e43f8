"""What memory the stages of a point took: the most of any rank."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.column import MOST, UNMEASURED, Column
from analysis.measures.legs import TRY
from paretopipe_worker.plan.attempts import MEASURED

COLUMNS = (
    Column(
        "peak_rss_bytes",
        "bytes",
        "Peak resident memory of a stage's process, of the rank that took most in the latency and "
        "throughput legs that count, all replicates; stages.csv has it by rank.",
        f"the host of a rank that takes part does not tell, or {UNMEASURED}",
        front=True,
        over=MOST,
    ),
)
"""Columns of ``points.csv``."""


def by_point(counted: pd.DataFrame) -> pd.DataFrame:
    """The most memory of any rank in each try.

    Parameters
    ----------
    counted
        Ends of the legs that count; a try that counts has them of every rank that takes part.

    Returns
    -------
    One row per try: the columns of :data:`analysis.measures.legs.TRY` and :data:`COLUMNS`.
    """
    ends = counted[counted["phase"].isin(MEASURED)]
    peaks = [_peak(health) for health in ends["health"]]
    told = ends[TRY].assign(peak_rss_bytes=pd.Series(peaks, index=ends.index, dtype="float64"))
    by_try = told.groupby(TRY)["peak_rss_bytes"]
    # What one rank does not tell may have been the most.
    return by_try.max().where(by_try.count() == by_try.size()).reset_index()


def _peak(health: Any) -> float | None:
    """The peak of one leg, null where the host does not tell."""
    return None if health is None else health.peak_rss_bytes
