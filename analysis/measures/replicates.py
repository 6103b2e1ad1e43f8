"""What each replicate of each point measured: raw frames to one row per point and replicate."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.column import PERCENTILE_CONFIDENCE, PERCENTILE_ITEMS, STAGES
from analysis.measures import completions
from analysis.measures.attribution import totals
from analysis.measures.certificate import certificates
from analysis.measures.clocks import comparisons
from analysis.measures.forward import forward
from analysis.measures.legs import TRY as _TRY
from analysis.measures.legs import (
    crossing,
    disturbances,
    endings,
    hosts,
    lateness,
    of_last_legs,
)
from analysis.run import Run
from paretopipe_worker.plan.attempts import MEASURED, outcomes

_SHORTEST_NS = 10_000
"""CPU time below which its ratio says nothing: `@last` leaves the source next to no computation."""


def replicates(run: Run) -> pd.DataFrame:
    """Measure every replicate of every point.

    Returns
    -------
    One row per point and replicate of the plan: ``status`` (``ok``, ``failed``, ``missing``),
    ``reason``, ``tries``, and the figures of that replicate, null where it has none.
    """
    chosen = choose(tries(run))
    complete = chosen.loc[chosen["status"] == "ok", _TRY]
    phases = run.legs.merge(complete, on=_TRY)
    items = of_last_legs(run.items, phases)
    counted = of_last_legs(phases, phases)
    source = items[items["rank"] == 0]
    batches = {point.id: point.batch for point in run.plan.points}
    figures = (
        latency(source),
        throughput(source, counted, batches),
        stages(items),
        totals(items),
        forward(items[items["phase"] == "latency"], comparisons(run), run.plan.points),
        endings(counted, run.plan.experiment.phases.min_items),
        crossing(phases),
        lateness(counted),
        disturbances(phases),
        hosts(counted),
        run.points.merge(complete, on=_TRY)[[*_TRY, "gate", "output", "max_relative_error"]],
    )
    for figure in figures:
        chosen = chosen.merge(figure, on=_TRY, how="left")
    chosen = chosen.merge(certificates(run), on=_TRY, how="left")
    own = ["session", "replicate", "point", "attempt", "tries", "status", "reason"]
    measured = chosen.columns.difference(own)
    chosen[measured] = chosen[measured].where(chosen["status"] == "ok")
    return chosen


def tries(run: Run) -> pd.DataFrame:
    """List every attempt at every replicate of a point, and why it is not complete.

    An attempt at a session is one at the points that its files' headers list.

    Returns
    -------
    Columns session, replicate, point, attempt (null where nothing was tried), status, reason.
    """
    points = {point.id: point for point in run.plan.points}
    rows: list[tuple[str, int, str, int | None, str, str | None]] = []
    for session in run.plan.sessions:
        for point in session.points:
            about = (session.id, session.replicate, point)
            tried = list(outcomes(run.attempts.of(session.id), points[point]))
            if not tried:
                rows.append((*about, None, "missing", "was not tried yet"))
            for attempt, outcome in tried:
                status = "ok" if outcome.status == "ok" else "failed"
                rows.append((*about, attempt.number, status, outcome.reason))
    columns = ["session", "replicate", "point", "attempt", "status", "reason"]
    frame = pd.DataFrame.from_records(rows, columns=columns)
    return frame.astype({"attempt": "Int64", "status": "str", "reason": "str"})


def choose(tried: pd.DataFrame) -> pd.DataFrame:
    """Keep the latest complete attempt at each replicate of a point, else the latest.

    Adds the column ``tries``: how many attempts there were.
    """
    tried = tried.assign(tries=tried.groupby(["session", "point"])["attempt"].transform("count"))
    ranked = tried.assign(complete=tried["status"] == "ok").sort_values(
        ["complete", "attempt"], kind="stable"
    )
    last = ranked.drop_duplicates(["session", "point"], keep="last")
    return last.sort_index().drop(columns="complete").reset_index(drop=True)


def latency(source: pd.DataFrame) -> pd.DataFrame:
    """Response latency of each try, and the latency under load, from the source's items.

    Like the functions below it takes items of legs that count.
    """
    both = source[source["phase"].isin(MEASURED)].dropna(subset="latency_ns")
    ms = both.assign(ms=both["latency_ns"].astype("float64") / 1e6).groupby([*_TRY, "phase"])["ms"]
    table = percentiles(ms)
    table.insert(0, "items", ms.size())
    table = table.reset_index()
    alone = table[table["phase"] == "latency"].drop(columns="phase")
    loaded = table.loc[table["phase"] == "throughput", [*_TRY, "median"]]
    alone = alone.rename(
        columns={
            name: f"latency_{name}" if name == "items" else f"latency_{name}_ms"
            for name in alone.columns.difference(_TRY)
        }
    )
    return alone.merge(
        loaded.rename(columns={"median": "loaded_latency_median_ms"}), on=_TRY, how="outer"
    )


def percentiles(groups: Any) -> pd.DataFrame:
    """Median and percentiles of a grouped series, null where there are too few items for one.

    Returns
    -------
    Columns ``median``, and of each percentile ``p90`` and so on with the ends of its interval,
    ``p90_low`` and ``p90_high``.
    """
    table, sizes = pd.DataFrame({"median": groups.median()}), groups.size()
    for percentile, needed in PERCENTILE_ITEMS.items():
        table[f"p{percentile}"] = groups.quantile(percentile / 100).where(sizes >= needed)
        ends = [_quantile_ends(part, percentile / 100, needed) for _, part in groups]
        for place, end in enumerate(("low", "high")):
            values = pd.Series([pair[place] for pair in ends], index=table.index, dtype="float64")
            table[f"p{percentile}_{end}"] = values
    return table


def _quantile_ends(values: pd.Series, quantile: float, needed: int) -> tuple[float, float]:
    """Order statistics between which a quantile lies with a confidence, whatever its distribution.

    They are those of the binomial test (W. Conover, "Practical nonparametric statistics", 3.2).
    """
    if len(values) < needed:
        return np.nan, np.nan
    found = stats.quantile_test(values.to_numpy(dtype=np.float64), p=quantile)
    ends: Any = found.confidence_interval(PERCENTILE_CONFIDENCE)
    return float(ends.low), float(ends.high)


def throughput(
    source: pd.DataFrame, counted: pd.DataFrame, batches: dict[str, int]
) -> pd.DataFrame:
    """Images per second of each try, by completions at the source in phase `throughput`.

    Parameters
    ----------
    source, counted
        The source's items and all phase ends, of legs that count.
    batches
        Images in an item of each point.
    """
    legs = counted.loc[counted["rank"] == 0, [*_TRY, "phase", "window"]]
    items = source.merge(legs[legs["phase"] == "throughput"], on=[*_TRY, "phase"])
    windows = completions.whole_windows(items, _TRY)
    images = windows.index.get_level_values("point").map(batches).to_numpy()
    return pd.DataFrame(
        {
            "throughput_items": windows["items"],
            "throughput_images_s": images * completions.rates(windows),
            "throughput_note": completions.notes(windows),
            "loaded_latency_mean_ms": windows["mean_latency_ms"],
            "little_ratio": completions.little(windows),
            "little_off": completions.off(windows),
        }
    ).reset_index()


def stages(items: pd.DataFrame) -> pd.DataFrame:
    """Computation, CPU time and their ratio of each stage in each try, columns by rank."""
    counted = items[items["phase"].isin(MEASURED)]
    cpu = counted["cpu_ns"].where(counted["cpu_ns"] >= _SHORTEST_NS)
    values = pd.DataFrame(
        {
            "compute_ms": (counted["computed_ns"] - counted["start_ns"]) / 1e6,
            "cpu_ms": counted["cpu_ns"] / 1e6,
            "wall_over_cpu": counted["compute_ns"] / cpu,
        }
    )
    medians = pd.concat([counted[[*_TRY, "rank", "phase"]], values], axis=1)
    groups = [*_TRY, "rank", "phase"]
    table = medians.groupby(groups)[list(values)].median()
    # Throughput depends on all items together: of four in ten that are slow a median tells nothing.
    sums = counted.assign(cpu_ns=cpu)[cpu.notna()].groupby(groups)[["compute_ns", "cpu_ns"]].sum()
    loaded = table.index.get_level_values("phase") == "throughput"
    together = sums["compute_ns"] / sums["cpu_ns"]
    table["wall_over_cpu"] = table["wall_over_cpu"].mask(loaded, together)
    table = table.reset_index()
    prefix = {"latency": "", "throughput": "loaded_"}
    wide = medians[_TRY].drop_duplicates()
    for rank, (phase, start) in itertools.product(range(STAGES), prefix.items()):
        part = table[(table["rank"] == rank) & (table["phase"] == phase)]
        part = part.drop(columns=["rank", "phase"]).set_index(_TRY)
        wide = wide.join(part.add_prefix(f"stage{rank}_{start}"), on=_TRY)
    return wide
