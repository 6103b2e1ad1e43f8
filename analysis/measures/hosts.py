"""How each rank's host was during the legs that count: what its stage recorded as its health."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.column import LEAST, MOST, SUM, TOGETHER, UNION, UNMEASURED, Column
from analysis.measures.legs import TRY
from analysis.measures.reduction import reduced
from paretopipe_worker.plan.attempts import MEASURED

_LEGS = "in the latency and throughput legs that count, all replicates"
_UNKNOWN = f"the host does not tell, or {UNMEASURED}"

TOLD = {
    "others_cpu": Column(
        "others_cpu",
        "cores",
        f"Cores that other processes used on average, the worst leg, {_LEGS}.",
        _UNKNOWN,
        over=MOST,
    ),
    "cpu_mhz": Column(
        "cpu_mhz_min",
        "MHz",
        f"Lowest frequency of any core the stage may run on, {_LEGS}.",
        _UNKNOWN,
        over=LEAST,
    ),
    "governor": Column(
        "governor", "", f"How the frequency was chosen, {_LEGS}.", _UNKNOWN, over=TOGETHER
    ),
    "temperature_c": Column(
        "temperature_c_max", "°C", f"Highest temperature, {_LEGS}.", _UNKNOWN, over=MOST
    ),
    "throttled": Column(
        "throttled",
        "",
        f"What the firmware did (`under-voltage`, `throttled` …), or `no`, {_LEGS}.",
        _UNKNOWN,
        over=UNION,
    ),
    "swapped_pages": Column(
        "swapped_pages", "pages", f"Pages swapped in or out, sum, {_LEGS}.", _UNKNOWN, over=SUM
    ),
    "peak_rss_bytes": Column(
        "peak_rss_bytes",
        "bytes",
        f"Peak resident memory of the stage's process, {_LEGS}.",
        _UNKNOWN,
        over=MOST,
    ),
    "overslept": Column(
        "overslept",
        "",
        "Share by which the stretched computation took longer than asked for, because waits ended "
        f"late: sum over sum of the items, the worst leg, {_LEGS}. Above 0.02 the leg is "
        "disturbed.",
        "the computation is not stretched, its items take less than 0.1 ms of CPU time, or "
        f"{UNMEASURED}",
        over=MOST,
    ),
    "slowed": Column(
        "slowed",
        "",
        "Share by which items took more CPU time than the fastest quarter of them (the median in "
        f"latency legs, the mean in throughput legs), the worst leg, {_LEGS}. Above 0.2 the leg is "
        "disturbed, with one thread, a steady clock and no background load.",
        f"a leg has fewer than 8 items, they take less than 1 ms of CPU time each, or {UNMEASURED}",
        over=MOST,
    ),
}
"""Fields of :class:`~paretopipe_worker.records.health.Health` that have a column."""

COLUMNS = tuple(TOLD.values())


def hosts(counted: pd.DataFrame) -> pd.DataFrame:
    """How the hosts were in each try, the legs that count taken together.

    Parameters
    ----------
    counted
        Ends of the legs that count, of all ranks.

    Returns
    -------
    One row per try and rank: the columns of :data:`analysis.measures.legs.TRY`, rank, and
    :data:`COLUMNS`.
    """
    measured = counted[counted["phase"].isin(MEASURED)]
    # Null where the host does not tell.
    told = {
        column.name: [_value(getattr(health, name, None)) for health in measured["health"]]
        for name, column in TOLD.items()
    }
    values = pd.DataFrame(told, index=measured.index)
    by = [*TRY, "rank"]
    return reduced(pd.concat([measured[by], values], axis=1), by, COLUMNS)


def _value(told: Any) -> Any:
    """A field as one value: the lowest of several numbers, which is first, or a list of words."""
    if not isinstance(told, tuple):
        return told
    if told and not isinstance(told[0], str):
        return told[0]
    return ", ".join(told) or "no"
