"""The columns of ``points.csv`` for latency and throughput."""

from __future__ import annotations

from collections.abc import Iterator

from analysis.column import (
    ANY,
    FEWEST,
    MEAN,
    TOGETHER,
    UNMEASURED,
    WHOLE,
    Column,
    interval,
    percentiles,
)
from analysis.measures.completions import LITTLE_OFF


def latency_columns() -> Iterator[Column]:
    """Response latency, with one item in flight, and latency with the window full."""
    yield Column(
        "latency_items",
        "items",
        "Items of the latency phase, in the replicate that has fewest.",
        UNMEASURED,
        over=FEWEST,
    )
    yield Column(
        "latency_median_ms",
        "ms",
        "Response latency at the source, from input ready to output received, one item in flight: "
        "the median of the items, then the mean over replicates.",
        UNMEASURED,
        front=True,
        over=MEAN,
    )
    yield from interval("latency_median_{}_ms", "ms", "latency_median_ms")
    yield from percentiles("the response latency")
    yield Column(
        "loaded_latency_median_ms",
        "ms",
        "Latency with `window` items in flight: median of the throughput phase's items, then the "
        "mean over replicates. It is not comparable with the response latency.",
        UNMEASURED,
        over=MEAN,
    )
    yield Column(
        "loaded_latency_mean_ms",
        "ms",
        "The same, as the mean of the items that `throughput_images_s` counts.",
        UNMEASURED,
        over=MEAN,
    )


def throughput_columns() -> Iterator[Column]:
    """Images per second, and whether Little's law holds for them."""
    yield Column(
        "throughput_items",
        "items",
        "Items of the throughput phase, in the replicate that has fewest.",
        UNMEASURED,
        over=FEWEST,
    )
    yield Column(
        "throughput_images_s",
        "images/s",
        "Images per second in steady state, from completions at the source in the throughput "
        f"phase: {WHOLE}, then the mean over replicates.",
        "a replicate has fewer than two whole windows (see `throughput_note`), or no replicate was "
        "measured",
        front=True,
        over=MEAN,
    )
    yield from interval("throughput_{}_images_s", "images/s", "throughput_images_s")
    yield Column(
        "little_ratio",
        "",
        "Items completed per second times the mean latency of the same items, divided by "
        "`window_used`. In steady state, and with the window always full, it is 1 (Little's law). "
        "Mean over replicates.",
        "there is no throughput",
        over=MEAN,
    )
    yield Column(
        "little_off",
        "",
        f"Whether that ratio differs from 1 by more than {LITTLE_OFF:.0%} in any replicate; "
        "`throughput_note` says what it means.",
        "there is no throughput",
        front=True,
        over=ANY,
    )
    yield Column(
        "throughput_note",
        "",
        "Why a replicate has no throughput, or why its throughput is in doubt: the window was not "
        "always full, for example because the source itself is the slowest stage, or the leg was "
        "not steady.",
        "there is nothing to note",
        front=True,
        over=TOGETHER,
    )
