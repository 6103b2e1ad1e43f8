"""How long each stage computes an item, and on how much CPU time."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from analysis.column import MEAN, UNMEASURED, Column
from analysis.measures.legs import TRY
from paretopipe_worker.plan.attempts import MEASURED

_SHORTEST_NS = 10_000
"""CPU time of an item below which its ratio says nothing: at `@last` the source computes next to
nothing."""

_PREFIXES = {"latency": "", "throughput": "loaded_"}


def computing(items: pd.DataFrame) -> pd.DataFrame:
    """Measure the computation of each stage in each try.

    Parameters
    ----------
    items
        Items of the legs that count, of all ranks.

    Returns
    -------
    One row per try and rank: the columns of :data:`analysis.measures.legs.TRY`, rank, and those of
    :func:`columns`.
    """
    counted = items[items["phase"].isin(MEASURED)]
    cpu = counted["cpu_ns"].where(counted["cpu_ns"] >= _SHORTEST_NS)
    values = pd.DataFrame(
        {
            "compute_ms": (counted["computed_ns"] - counted["start_ns"]) / 1e6,
            "cpu_ms": counted["cpu_ns"] / 1e6,
            "wall_over_cpu": counted["compute_ns"] / cpu,
        }
    )
    groups = [*TRY, "rank", "phase"]
    table = pd.concat([counted[groups], values], axis=1).groupby(groups).median()
    # Throughput depends on the sum over all items: a median does not show four slow ones in ten.
    sums = counted.assign(cpu_ns=cpu)[cpu.notna()].groupby(groups)[["compute_ns", "cpu_ns"]].sum()
    loaded = table.index.get_level_values("phase") == "throughput"
    table["wall_over_cpu"] = table["wall_over_cpu"].mask(
        loaded, sums["compute_ns"] / sums["cpu_ns"]
    )
    phases = table.index.get_level_values("phase")
    by_phase = [
        table[phases == phase].droplevel("phase").add_prefix(prefix)
        for phase, prefix in _PREFIXES.items()
    ]
    return by_phase[0].join(by_phase[1], how="outer").reset_index()


def columns() -> Iterator[Column]:
    """The columns that :func:`computing` measures."""
    for phase, prefix in _PREFIXES.items():
        ratio = "over all items together" if prefix else "median of the items"
        yield Column(
            f"{prefix}compute_ms",
            "ms",
            f"Computation of the rank's stage in the {phase} phase, stretching included: median of "
            "the items, then the mean over replicates.",
            UNMEASURED,
            over=MEAN,
        )
        yield Column(
            f"{prefix}cpu_ms",
            "ms",
            "CPU time of the computing thread for the same, without stretching.",
            UNMEASURED,
            over=MEAN,
        )
        yield Column(
            f"{prefix}wall_over_cpu",
            "",
            "Wall time of the computation, without stretching, divided by that CPU time: "
            f"{ratio}. Above about 1.05 with one thread, something else had the CPU.",
            f"{UNMEASURED}, or the CPU time is below 0.01 ms",
            over=MEAN,
        )
