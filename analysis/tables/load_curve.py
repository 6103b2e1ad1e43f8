"""The table ``load.csv``: latency where items arrive at random, by the rate at which they do."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from analysis.column import PERCENTILE_ITEMS, WHOLE, Column
from analysis.column import percentiles as percentile_columns
from analysis.measures import completions
from analysis.measures.legs import TRY, of_last_legs
from analysis.measures.replicates import percentiles
from analysis.run import Run
from paretopipe_worker.plan.arrivals import KEEPS_UP, KNEE_LATENCY, beyond_knee, trend
from paretopipe_worker.plan.experiment import MIN_ITEMS

_POINT = (
    *("point", "model", "split", "position", "placement", "link", "backend"),
    *("batch", "window", "dtype", "on_front"),
)
_STEP = [*TRY, "step"]


def load_curve(run: Run, points: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """Latency against offered load, for the points that have legs of it.

    Parameters
    ----------
    run
        The run.
    points
        The table ``points.csv``, whose order is taken.
    measured
        The run's replicates, see :func:`analysis.measures.replicates.replicates`, whose latency
        with one item in flight is taken.

    Returns
    -------
    The columns :data:`NAMES`, a row per point and step: steps are the offered rates from the lowest
    to the highest, which are shares of what each replicate could do, so that each replicate has
    rates of its own.
    """
    empty = pd.DataFrame({name: pd.Series(dtype="object") for name in NAMES})
    if not (run.phases["phase"] == "load").any():
        return empty
    complete = measured.loc[measured["status"] == "ok", [*TRY, "latency_median_ms"]]
    steps = _steps(run.phases.merge(complete, on=TRY))
    if steps.empty:
        return empty
    source = run.items[(run.items["rank"] == 0) & (run.items["phase"] == "load")]
    batches = points.set_index("point")["batch"]
    source = source.merge(steps, on=[*TRY, "phase", "leg"])
    figures = figures_of(source.assign(batch=source["point"].map(batches)))
    rows = steps.merge(figures, on=_STEP, how="left")
    rows["offered_images_s"] = rows["offered_per_s"] * rows["point"].map(batches)
    table = points[list(_POINT)].merge(_means(rows), on="point")
    # The order of `points` stays.
    return table[list(NAMES)]


def _steps(phases: pd.DataFrame) -> pd.DataFrame:
    """The legs of offered load that count, as the source saw them, numbered by rising rate."""
    legs = of_last_legs(phases, phases)
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
    """Whether a leg was beyond the knee, by the rule that ended its point's legs, and the trend."""
    times = items["arrived_ns"].tolist(), items["done_ns"].tolist()
    idle_ns = items["idle_latency_median_ms"].iloc[0] * 1e6
    return beyond_knee(*times, idle_ns), *trend(*times)


_TREND = ("latency_trend", "latency_trend_low", "latency_trend_high")
_LATENCIES = (
    "median",
    *(f"p{percentile}{end}" for percentile in PERCENTILE_ITEMS for end in ("", "_low", "_high")),
)


def _means(rows: pd.DataFrame) -> pd.DataFrame:
    """Steps of a point from those of its replicates: means, null where one of them is."""
    groups = rows.groupby(["point", "step"], sort=False)
    table = pd.DataFrame({"replicates": groups.size(), "items": groups["items"].min()})
    # A replicate that came to its knee is offered no more: the others alone are not the point.
    table["replicates_ended"] = table["replicates"].groupby("point").transform("max")
    table["replicates_ended"] -= table["replicates"]
    for name in _MEANS:
        table[name] = groups[name].agg(lambda part: part.astype("float64").mean(skipna=False))
    # Null where it is in a replicate.
    table["beyond_knee"] = groups["beyond_knee"].agg(
        lambda part: part.astype("float64").max(skipna=False)
    )
    table["disturbed"] = groups["disturbed"].any()
    table["beyond_knee"] = table["beyond_knee"].astype("Int64").astype("boolean")
    return table.reset_index().astype({"items": "Int64"})


_MEANS = (
    *("offered_images_s", "achieved_images_s", *_TREND),
    *(f"latency_{name}_ms" for name in _LATENCIES),
)


def _columns() -> Iterator[Column]:
    """The columns of the table."""
    for name in _POINT:
        yield Column(name, "", f"As `{name}` of points.csv.")
    yield Column("step", "", "Place of the offered rate among those of the point, lowest first: 1.")
    yield Column("replicates", "", "Replicates that offered this step, of which all figures are.")
    yield Column(
        "replicates_ended",
        "",
        "Replicates that had come to their knee before, and offered no more: where there are any, "
        "the figures are of the rest alone, and the figure leaves the step out.",
    )
    yield Column(
        "offered_images_s",
        "images/s",
        "Images that were to arrive per second, at random (Poisson): a share of the throughput the "
        "replicate had just had, mean over replicates.",
    )
    few = f"a replicate has fewer than {MIN_ITEMS} items"
    yield Column(
        "achieved_images_s",
        "images/s",
        f"Images completed per second: {WHOLE}, then the mean over replicates.",
        "a replicate has fewer than two whole windows",
    )
    yield Column("items", "items", "Items of the leg, in the replicate that has fewest.")
    yield Column(
        "latency_median_ms",
        "ms",
        "Latency at the source, from the moment at which the item was to arrive to its output "
        "received: median of the items, then the mean over replicates.",
        few,
    )
    yield from percentile_columns("the same")
    yield Column(
        "latency_trend",
        "s/s",
        "By how much latency grew with time over the leg: the slope of a line through the means of "
        "its ten parts, then the mean over replicates. A pipeline that does not keep up has one of "
        "the rate of arrivals over that of completions, less 1.",
        few,
    )
    for end in ("low", "high"):
        yield Column(
            f"latency_trend_{end}",
            "s/s",
            f"{end.capitalize()} end of its 99 % t-interval, mean over replicates.",
            few,
        )
    yield Column(
        "beyond_knee",
        "",
        f"Whether, in any replicate, the median was above {KNEE_LATENCY:g} times the response "
        "latency (for M/M/1 that is where throughput over latency is largest: Kleinrock, ICC 1979) "
        f"or the whole interval of the trend above {1 / KEEPS_UP - 1:.3f}: then items left at less "
        f"than {KEEPS_UP:g} of the rate at which they arrived, and latency tells only for how long "
        "they were offered.",
        few,
    )
    yield Column("disturbed", "", "Whether a host was outside its band in the leg that counts.")


COLUMNS: tuple[Column, ...] = tuple(_columns())
NAMES: tuple[str, ...] = tuple(column.name for column in COLUMNS)
"""Columns of ``load.csv`` in order."""
