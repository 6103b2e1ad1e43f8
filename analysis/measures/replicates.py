"""What each replicate of a point measured: one row per point and replicate, from raw frames."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.column import PERCENTILE_CONFIDENCE, PERCENTILE_ITEMS
from analysis.measures import completions, energy, memory
from analysis.measures.attribution import totals
from analysis.measures.certificate import certificates
from analysis.measures.clocks import comparisons
from analysis.measures.forward import forward
from analysis.measures.legs import TRY as _TRY
from analysis.measures.legs import (
    crossing,
    disturbances,
    endings,
    lateness,
    that_count,
)
from analysis.measures.packed import packed_bytes
from analysis.measures.portions import parts
from analysis.measures.sharing import sharing
from analysis.run import Run
from paretopipe_worker.plan.attempts import MEASURED, outcomes


def replicates(run: Run, clocks: pd.DataFrame | None = None) -> pd.DataFrame:
    """Compute what every replicate of every point measured.

    Parameters
    ----------
    clocks
        What :func:`analysis.measures.clocks.comparisons` returns, where it is known already.

    Returns
    -------
    One row per point and replicate of the plan: ``status`` (``ok``, ``failed``, ``missing``),
    ``reason``, ``tries``, and the values that belong to a point (those to a rank are in
    :mod:`analysis.tables.stages`), null where the replicate has none.
    """
    chosen = choose(tries(run))
    complete = chosen.loc[chosen["status"] == "ok", _TRY]
    clocks = comparisons(run) if clocks is None else clocks
    portion = [_figures(part, complete, clocks) for part in parts(run)]
    for alike in zip(*portion, strict=True):
        figure = pd.concat(alike, ignore_index=True)
        chosen = chosen.merge(figure, on=_TRY, how="left")
    chosen = chosen.merge(certificates(run), on=_TRY, how="left")
    own = ["session", "replicate", "point", "attempt", "tries", "status", "reason"]
    measured = chosen.columns.difference(own)
    chosen[measured] = chosen[measured].where(chosen["status"] == "ok")
    return chosen


def _figures(run: Run, complete: pd.DataFrame, compared: pd.DataFrame) -> tuple[pd.DataFrame, ...]:
    """What the tries that count measured: frames with the columns of a try."""
    legs = run.legs.merge(complete, on=_TRY)
    items, counted = that_count(run, complete)
    source = items[items["rank"] == 0]
    batches = {point.id: point.batch for point in run.plan.points}
    return (
        latency(source),
        throughput(source, counted, batches),
        energy.by_point(counted, run),
        memory.by_point(counted),
        totals(items),
        forward(items[items["phase"] == "latency"], compared, run.plan.points),
        endings(counted, run.plan.experiment.phases.min_items),
        crossing(legs),
        packed_bytes(legs, run.items.merge(complete, on=_TRY), run.plan),
        lateness(counted),
        disturbances(legs),
        outputs(run.points.merge(complete, on=_TRY)),
        sharing(run, counted),
    )


def outputs(points: pd.DataFrame) -> pd.DataFrame:
    """How each try's outputs compare with the model's.

    Parameters
    ----------
    points
        Ends of points of tries that count.
    """
    exact = points["output"] == "exact"  # records of before have no error then
    error = points["max_relative_error"].mask(exact, 0.0)
    return points.assign(max_relative_error=error)[
        [*_TRY, "gate", "output", "max_relative_error", "top1_agreement"]
    ]


def tries(run: Run) -> pd.DataFrame:
    """List every attempt at every replicate of a point, and why it is not complete.

    An attempt at a session is an attempt at each point that the headers of its files list.

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
    """Keep the latest complete attempt at each replicate of a point, or else the latest one.

    The result also has the column ``tries``, the number of attempts.
    """
    tried = tried.assign(tries=tried.groupby(["session", "point"])["attempt"].transform("count"))
    ranked = tried.assign(complete=tried["status"] == "ok").sort_values(
        ["complete", "attempt"], kind="stable"
    )
    last = ranked.drop_duplicates(["session", "point"], keep="last")
    return last.sort_index().drop(columns="complete").reset_index(drop=True)


def latency(source: pd.DataFrame) -> pd.DataFrame:
    """Response latency of each try, and its latency with the window full.

    Parameters
    ----------
    source
        The source's items of legs that count.
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
    """Median and percentiles of a grouped series; a percentile is null where items are too few.

    Returns
    -------
    Column ``median`` and, for each percentile, ``p90`` and the ends of its interval, ``p90_low``
    and ``p90_high``.
    """
    table, sizes = pd.DataFrame({"median": groups.median()}), groups.size()
    numbered = pd.DataFrame({"group": groups.ngroup(), "value": groups.obj}).dropna()
    ordered = numbered.sort_values(["group", "value"])["value"].to_numpy(np.float64)
    begins = (sizes.cumsum() - sizes).to_numpy()
    for percentile, needed in PERCENTILE_ITEMS.items():
        table[f"p{percentile}"] = groups.quantile(percentile / 100).where(sizes >= needed)
        ranks = [
            _order_statistics(size, percentile / 100) if size >= needed else (np.nan, np.nan)
            for size in sizes
        ]
        for place, end in enumerate(("low", "high")):
            rank = np.array([pair[place] for pair in ranks], np.float64)
            known = ~np.isnan(rank)
            values = np.full(len(sizes), np.nan)
            values[known] = ordered[begins[known] + rank[known].astype(np.int64)]
            table[f"p{percentile}_{end}"] = values
    return table


@cache
def _order_statistics(count: int, quantile: float) -> tuple[float, float]:
    """Places among `count` sorted values between which a quantile lies with a given confidence.

    They hold for any distribution, and come from the binomial test (W. Conover, "Practical
    nonparametric statistics", 3.2).
    """
    found = stats.quantile_test(np.arange(count, dtype=np.float64), p=quantile)
    ends: Any = found.confidence_interval(PERCENTILE_CONFIDENCE)
    return float(ends.low), float(ends.high)


def throughput(
    source: pd.DataFrame, counted: pd.DataFrame, batches: dict[str, int]
) -> pd.DataFrame:
    """Images per second of each try, from the completions at the source in phase `throughput`.

    Parameters
    ----------
    source, counted
        The source's items, and all ends, of legs that count.
    batches
        Images in an item of each point.
    """
    legs = counted.loc[counted["rank"] == 0, [*_TRY, "phase", "window"]]
    items = source.merge(legs[legs["phase"] == "throughput"], on=[*_TRY, "phase"])
    windows = completions.whole_windows(items, _TRY)
    images = windows.index.get_level_values("point").map(batches).to_numpy(np.float64)
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
