"""The forward latency: the response latency without the way back, which takes two clocks."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from analysis.column import MEAN, MOST, TOGETHER, UNMEASURED, Column, interval
from analysis.measures.clocks import LEAST_COMPARISONS, MOST_DRIFT_PPM, MOST_STEP_S, ahead
from analysis.measures.legs import TRY
from analysis.measures.reduction import together
from paretopipe_worker.plan.experiment import MIN_ITEMS
from paretopipe_worker.plan.plan import Point

MOST_SHARE = 0.05
"""Largest error of a forward latency that is still reported, as a share of it."""

_OF_CLOCKS = ["clock_offset_before_ms", "clock_offset_after_ms", "clock_drift_ppm"]


def forward(items: pd.DataFrame, compared: pd.DataFrame, points: tuple[Point, ...]) -> pd.DataFrame:
    """Forward latency of each try: from input ready at the source to output computed at the sink.

    Parameters
    ----------
    items
        Items of the latency legs that count, of all ranks.
    compared
        How far each clock is ahead, see :func:`analysis.measures.clocks.comparisons`.
    points
        The plan's points: the last rank with a part in a point is its sink.
    """
    sinks = items["point"].map({point.id: point.active_ranks[-1] for point in points})
    pair = [*TRY, "leg", "seq"]
    source = items.loc[items["rank"] == 0, [*pair, "ready_ns"]]
    sink = items.loc[items["rank"] == sinks, [*pair, "rank", "computed_ns"]]
    both = source.merge(sink, on=pair)
    clock = ahead(both, both["rank"], both["computed_ns"], compared)
    both = both.join(clock.drop(columns="ms"))
    both["ms"] = (both["computed_ns"] - both["ready_ns"]).astype("float64") / 1e6 - clock["ms"]
    groups = both.groupby(TRY)
    table = pd.DataFrame(
        {
            "items": groups.size(),
            "forward_latency_median_ms": groups["ms"].median(),
            "bound_ms": groups["bound_ms"].max(),
            "strayed_ms": groups["strayed_ms"].max(),
            "clock_note": together(groups["clock_note"]),
        }
    )
    table = table.join(groups[_OF_CLOCKS].first()).reset_index()
    return _judged(table).rename(columns={"bound_ms": "forward_latency_bound_ms"})


def _judged(table: pd.DataFrame) -> pd.DataFrame:
    """Remove latencies that the clocks are not exact enough for, and note why."""
    median, bound = table["forward_latency_median_ms"], table["bound_ms"]
    wide = (bound > MOST_SHARE * median) & table["clock_note"].isna()
    texts = map(_too_wide, bound, table["strayed_ms"], median)
    said = pd.Series(list(texts), index=table.index, dtype="object")
    notes = table["clock_note"].astype("object").mask(wide, said)
    known = notes.isna() & (table["items"] >= MIN_ITEMS)
    return table.assign(
        forward_latency_median_ms=median.where(known), clock_note=notes.astype("str")
    ).drop(columns=["items", "strayed_ms"])


def _too_wide(bound_ms: float, strayed_ms: float, value_ms: float) -> str:
    """Why a forward latency is not reported."""
    slewed = strayed_ms > bound_ms / 2
    strayed = f" ({strayed_ms:.3f} of it since one may have been slewed)" if slewed else ""
    return (
        f"the clocks' error of {bound_ms:.3f} ms{strayed} is more than {MOST_SHARE:.0%} of "
        f"{value_ms:.3f} ms"
    )


def columns() -> Iterator[Column]:
    """Columns of forward latency and clocks."""
    single = "one rank does everything, so that there is no second clock"
    yield Column(
        "forward_latency_median_ms",
        "ms",
        "Latency without the way back, from input ready at the source to output computed at the "
        "sink, one item in flight: median of the items, then the mean over replicates. It is a "
        "difference between the clocks of two hosts.",
        "`clock_note` says why, or no replicate was measured",
        front=True,
        over=MEAN,
    )
    yield from interval("forward_latency_median_{}_ms", "ms", "forward_latency_median_ms")
    yield Column(
        "forward_latency_bound_ms",
        "ms",
        "Bound of the error that the clocks cause in it, worst over replicates: half the duration "
        "of the fastest exchange, before or after the point, plus how far the clocks may have "
        "strayed from a straight line in between. The latter is added up over each host's clock "
        "against its raw one and the two raw ones against each other: the difference of its rate "
        "to the rates before and after, times the duration.",
        f"{single}, or clocks were not compared before and after the point",
        front=True,
        over=MOST,
    )
    for when in ("before", "after"):
        yield Column(
            f"clock_offset_{when}_ms",
            "ms",
            f"How far the sink's clock was ahead of the source's {when} the session, mean over "
            "replicates.",
            f"{single}, or it was not compared",
            over=MEAN,
        )
    yield Column(
        "clock_drift_ppm",
        "ppm",
        "By how much the sink's clock was faster than the source's over the session, slewing "
        "included, mean over replicates.",
        f"{single}, or clocks were not compared before and after the session",
        over=MEAN,
    )
    yield Column(
        "clock_note",
        "",
        "Why a replicate has no forward latency: clocks were not compared before and after the "
        f"point, or fewer than {LEAST_COMPARISONS} times in all; between two comparisons the "
        f"offset of the raw clocks moved by more than {MOST_DRIFT_PPM:g} ppm and both errors; a "
        f"host's wall clock was set by more than {MOST_STEP_S:g} s; or the error is more than "
        f"{MOST_SHARE:.0%} of the latency.",
        f"every replicate has one, or {UNMEASURED}",
        over=TOGETHER,
    )
