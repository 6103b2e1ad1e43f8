"""The table ``load.csv``: latency of items that arrive at random, by their rate of arrival."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from analysis.column import ANY, FEWEST, MEAN, PERCENTILE_ITEMS, WHOLE, Column
from analysis.column import percentiles as percentile_columns
from analysis.measures import completions
from analysis.measures.legs import TRY, of_last_legs
from analysis.measures.reduction import reduced
from analysis.measures.replicates import percentiles
from analysis.run import Run
from paretopipe_worker.plan.arrivals import (
    KEEPS_UP,
    KNEE_LATENCY,
    MOST_TREND,
    beyond_knee,
    trend,
)
from paretopipe_worker.plan.experiment import MIN_ITEMS

_POINT = (
    *("point", "model", "split", "position", "placement", "link", "backend"),
    *("batch", "window", "dtype", "runtimes", "wire", "busy", "sources", "on_front"),
)
_STEP = [*TRY, "step"]


def load_curve(run: Run, points: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """Latency against offered load, for the points that have legs of offered load.

    Parameters
    ----------
    run
        The run.
    points
        The table ``points.csv``; the result has its order.
    measured
        The run's replicates, see :func:`analysis.measures.replicates.replicates`. The knee is
        judged against their latency with one item in flight.

    Returns
    -------
    The columns :data:`NAMES`, one row per point and step. Steps number the offered rates from the
    lowest to the highest. The rates are shares of each replicate's own throughput, so that they
    differ between replicates.
    """
    empty = pd.DataFrame({name: pd.Series(dtype="object") for name in NAMES})
    if not (run.legs["phase"] == "load").any():
        return empty
    complete = measured.loc[measured["status"] == "ok", [*TRY, "latency_median_ms"]]
    steps = _steps(run.legs.merge(complete, on=TRY))
    if steps.empty:
        return empty
    source = run.items[(run.items["rank"] == 0) & (run.items["phase"] == "load")]
    batches = points.set_index("point")["batch"]
    source = source.merge(steps, on=[*TRY, "phase", "leg"])
    figures = figures_of(source.assign(batch=source["point"].map(batches)))
    rows = steps.merge(figures, on=_STEP, how="left")
    rows["offered_images_s"] = rows["offered_per_s"] * rows["point"].map(batches)
    table = points[list(_POINT)].merge(_by_step(rows), on="point")
    return table[list(NAMES)]


def _steps(ends: pd.DataFrame) -> pd.DataFrame:
    """The source's legs of offered load that count, numbered by rising rate."""
    legs = of_last_legs(ends, ends)
    legs = legs[legs["phase"] == "load"]
    disturbed = legs.assign(disturbed=legs["disturbed"].map(bool)).groupby([*TRY, "leg"])
    legs = legs[legs["rank"] == 0].drop(columns="disturbed")
    legs = legs.merge(disturbed["disturbed"].any().reset_index(), on=[*TRY, "leg"])
    step = legs.groupby(TRY)["offered_per_s"].rank(method="first").astype("int64")
    kept = [*TRY, "phase", "leg", "window", "offered_per_s", "disturbed", "latency_median_ms"]
    return (
        legs[kept].assign(step=step).rename(columns={"latency_median_ms": "idle_latency_median_ms"})
    )


def figures_of(source: pd.DataFrame) -> pd.DataFrame:
    """Latency and completions of each step of each try.

    Parameters
    ----------
    source
        The source's items of load legs that count, with the columns step, batch, window and
        ``idle_latency_median_ms``.
    """
    both = source.dropna(subset=["latency_ns", "done_ns"])
    both = both.assign(
        ms=both["latency_ns"].astype("float64") / 1e6,
        # Latency counts from the moment at which the item was to arrive.
        arrived_ns=(both["done_ns"] - both["latency_ns"]).astype("int64"),
        done_ns=both["done_ns"].astype("int64"),
    )
    groups = both.groupby(_STEP)
    table = percentiles(groups["ms"]).rename(columns=lambda name: f"{name}_ms")
    table.insert(0, "items", groups.size())
    enough = table["items"] >= MIN_ITEMS
    table["median_ms"] = table["median_ms"].where(enough)
    rate = completions.rates(completions.whole_windows(both, _STEP))
    table["achieved_images_s"] = groups["batch"].first() * rate
    judged = [_judged(part.sort_values("done_ns")) for _, part in groups]
    knee = pd.DataFrame(judged, columns=["beyond_knee", *_TREND], index=table.index)
    table = table.join(knee.where(enough))
    table["beyond_knee"] = table["beyond_knee"].astype("boolean")
    names = {f"{name}_ms": f"latency_{name}_ms" for name in _LATENCIES}
    return table.rename(columns=names).reset_index()


def _judged(items: pd.DataFrame) -> tuple[bool, float, float, float]:
    """Whether a leg was beyond the knee, by the rule that the source goes by, and the trend."""
    times = items["arrived_ns"].tolist(), items["done_ns"].tolist()
    idle_ns = items["idle_latency_median_ms"].iloc[0] * 1e6
    return beyond_knee(*times, idle_ns), *trend(*times)


_TREND = ("latency_trend", "latency_trend_low", "latency_trend_high")
_LATENCIES = (
    "median",
    *(f"p{percentile}{end}" for percentile in PERCENTILE_ITEMS for end in ("", "_low", "_high")),
)


def _by_step(rows: pd.DataFrame) -> pd.DataFrame:
    """Steps of a point, reduced from those of its replicates."""
    by = ["point", "step"]
    table = reduced(rows, by, COLUMNS)
    table["replicates"] = rows.groupby(by, sort=False).size().to_numpy()
    # A replicate beyond its knee is offered no more, and the others alone do not make the point.
    table["replicates_ended"] = table.groupby("point")["replicates"].transform("max")
    table["replicates_ended"] -= table["replicates"]
    return table


_FEW = f"a replicate has fewer than {MIN_ITEMS} items"


def _rate_columns() -> Iterator[Column]:
    """What a row is about, and how many images were offered and completed."""
    for name in _POINT:
        yield Column(name, "", f"As `{name}` of points.csv.")
    yield Column("step", "", "Place of the offered rate among those of the point, lowest first: 1.")
    yield Column(
        "replicates", "", "Replicates that offered this step. All figures are computed from these."
    )
    yield Column(
        "replicates_ended",
        "",
        "Replicates that had reached their knee at an earlier step and were offered no more. Where "
        "there are any, the row describes the other replicates only, and the figure leaves the "
        "step out.",
    )
    yield Column(
        "offered_images_s",
        "images/s",
        "Images that were to arrive per second, at random (Poisson): a share of the throughput "
        "that the replicate had just had, mean over replicates.",
        over=MEAN,
    )
    yield Column(
        "achieved_images_s",
        "images/s",
        f"Images completed per second: {WHOLE}, then the mean over replicates.",
        "a replicate has fewer than two whole windows",
        over=MEAN,
    )
    yield Column(
        "items", "items", "Items of the leg, in the replicate that has fewest.", over=FEWEST
    )


def _latency_columns() -> Iterator[Column]:
    """Latency, how it changed over the leg, and whether the rate is beyond the knee."""
    yield Column(
        "latency_median_ms",
        "ms",
        "Latency at the source, from the moment at which the item was to arrive to its output "
        "received: median of the items, then the mean over replicates.",
        _FEW,
        over=MEAN,
    )
    yield from percentile_columns("that latency")
    yield Column(
        "latency_trend",
        "s/s",
        "How fast latency grew over the leg: the slope of a line through the means of its ten "
        "parts, then the mean over replicates. For a pipeline that does not keep up it is the rate "
        "of arrivals divided by that of completions, less 1.",
        _FEW,
        over=MEAN,
    )
    for end in ("low", "high"):
        yield Column(
            f"latency_trend_{end}",
            "s/s",
            f"{end.capitalize()} end of its 99 % t-interval, mean over replicates.",
            _FEW,
            over=MEAN,
        )
    yield Column(
        "beyond_knee",
        "",
        f"Whether, in any replicate, the median was above {KNEE_LATENCY:g} times the response "
        "latency (for M/M/1 that is where throughput over latency is largest: Kleinrock, ICC "
        f"1979), or the whole interval of the trend was above {MOST_TREND:.3f}. In the latter case "
        f"items left at less than {KEEPS_UP:g} of the rate at which they arrived, and the latency "
        "depends on how long they were offered.",
        _FEW,
        over=ANY,
    )
    yield Column(
        "disturbed",
        "",
        "Whether a host was outside its band in the leg that counts, in any replicate.",
        over=ANY,
    )


COLUMNS: tuple[Column, ...] = (*_rate_columns(), *_latency_columns())
NAMES: tuple[str, ...] = tuple(column.name for column in COLUMNS)
"""Columns of ``load.csv`` in order."""
