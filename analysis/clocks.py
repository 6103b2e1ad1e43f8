"""Clocks of the hosts, and the forward latency, which takes two of them.

Before and after a session the source exchanges messages with every other rank on the control path,
which is never shaped. The fastest exchange shows how far the other clock is ahead, to within half
of its time (Cristian, "Probabilistic clock synchronization", Distributed Computing 3, 1989).
Between both the other clock is taken to drift evenly, so that the error there is at most the larger
of both ends'.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from analysis.column import UNMEASURED, Column, interval
from analysis.load import CONTROLLER, Run
from analysis.phases import TRY, together
from paretopipe_worker.plan import Point
from paretopipe_worker.spec import MIN_ITEMS

MOST_DRIFT_PPM = 200.0
"""Above this, and what the exchanges leave open, no crystal drifts: the clock was set."""

MOST_STEP_S = 1.0
"""By how much a host's wall clock may move against its monotonic one during a session."""

MOST_SHARE = 0.05
"""Largest error of a forward latency that is still reported, as a share of it."""

_ENDS = ("before", "after")


def comparisons(run: Run) -> pd.DataFrame:
    """Compare each rank's clock with the source's, by attempt at a session.

    Returns
    -------
    One row per session, attempt and rank other than 0: ``source_ns`` and ``theirs_ns``, which both
    clocks showed at one moment before; ``clock_offset_before_ms``, ``clock_offset_after_ms``: how
    far the rank's clock was ahead; ``clock_drift_ppm``; ``bound_ms``, the error of offsets in
    between; ``clock_note``: why times of both must not be subtracted, null where they may.
    """
    steps = _steps(run)
    taken = run.clocks[run.clocks["rank"] == 0]
    found = {
        (row["session"], row["attempt"], row["other"], row["when"]): _fastest(row["exchanges"])
        for row in taken.to_dict("records")
        if row["exchanges"]
    }
    stages = run.sessions[run.sessions["rank"] > 0]
    rows = []
    for session, attempt, rank in stages[["session", "attempt", "rank"]].itertuples(index=False):
        ends = [found.get((session, attempt, rank, when)) for when in _ENDS]
        row = {"session": session, "attempt": attempt, "rank": rank} | _compared(*ends)
        row["clock_note"] = row["clock_note"] or steps.get((session, attempt))
        rows.append(row)
    names = ["session", "attempt", "rank", *_compared(None, None)]
    return pd.DataFrame.from_records(rows, columns=names).astype(
        dict.fromkeys(("source_ns", "theirs_ns"), "Int64")
        | {name: "float64" for name in names if name.endswith(("_ms", "_ppm"))}
        | {"clock_note": "str"}
    )


def _fastest(exchanges: list[tuple[int, int, int]]) -> tuple[int, int, float]:
    """The source's clock, the other's at that moment, and the error, by the fastest exchange."""
    sent, theirs, received = min(exchanges, key=lambda exchange: exchange[2] - exchange[0])
    return (sent + received) // 2, theirs, (received - sent) / 2


def _compared(
    before: tuple[int, int, float] | None, after: tuple[int, int, float] | None
) -> dict[str, Any]:
    """Offset and drift of one clock by what both ends of a session showed."""
    row: dict[str, Any] = dict.fromkeys(("source_ns", "theirs_ns", *_MEASURED))
    row["clock_note"] = None
    ends = {"before": before, "after": after}
    for when, end in ends.items():
        if end is not None:
            row[f"clock_offset_{when}_ms"] = (end[1] - end[0]) / 1e6
    if before is None or after is None:
        lacking = next(when for when in _ENDS if ends[when] is None)
        return row | {"clock_note": f"the clocks were not compared {lacking} the session"}
    elapsed_ns = after[0] - before[0]
    moved_ns = (after[1] - before[1]) - elapsed_ns
    row |= {"source_ns": before[0], "theirs_ns": before[1]}
    row["clock_drift_ppm"] = 1e6 * moved_ns / elapsed_ns if elapsed_ns > 0 else np.nan
    row["bound_ms"] = max(before[2], after[2]) / 1e6
    allowed_ns = MOST_DRIFT_PPM * 1e-6 * elapsed_ns + before[2] + after[2]
    if elapsed_ns <= 0 or abs(moved_ns) > allowed_ns:
        row["clock_note"] = (
            f"a clock was set: the offset changed by {moved_ns / 1e6:.3f} ms in "
            f"{elapsed_ns / 1e9:.0f} s, drift allows {allowed_ns / 1e6:.3f}"
        )
    return row


_MEASURED = ("clock_offset_before_ms", "clock_offset_after_ms", "clock_drift_ppm", "bound_ms")


def _steps(run: Run) -> dict[tuple[str, int], str]:
    """Attempts during which a host's wall clock was set, and by how much."""
    stages = run.sessions[run.sessions["rank"] != CONTROLLER]
    seconds = stages["wall_clock_step_ns"].astype("float64") / 1e9
    stepped = stages.assign(step_s=seconds)[seconds.abs() > MOST_STEP_S]
    said: dict[tuple[str, int], str] = {}
    for row in stepped.to_dict("records"):
        text = f"the wall clock of {row['host']} was set by {row['step_s']:+.1f} s"
        key = row["session"], row["attempt"]
        said[key] = f"{said[key]}, {text}" if key in said else text
    return said


def forward(items: pd.DataFrame, compared: pd.DataFrame, points: tuple[Point, ...]) -> pd.DataFrame:
    """Forward latency of each try: from input ready at the source to output computed at the sink.

    Parameters
    ----------
    items
        Items of the latency legs that count, of all ranks.
    compared
        The clocks, see :func:`comparisons`.
    points
        The plan's points: the last rank with a part in a point is its sink.
    """
    sinks = items["point"].map({point.id: point.active_ranks[-1] for point in points})
    pair = [*TRY, "leg", "seq"]
    source = items.loc[items["rank"] == 0, [*pair, "ready_ns"]]
    sink = items.loc[items["rank"] == sinks, [*pair, "rank", "computed_ns"]]
    both = source.merge(sink, on=pair)
    both = both.merge(compared, on=["session", "attempt", "rank"], how="left")
    alone = both["rank"] == 0
    # Differences of whole numbers first: a double does not hold a clock's nanoseconds.
    since_ns = (both["computed_ns"] - both["theirs_ns"]).astype("float64")
    ahead_ns = (both["source_ns"] - both["ready_ns"]).astype("float64")
    two_ns = ahead_ns + since_ns / (1 + both["clock_drift_ppm"] * 1e-6)
    one_ns = (both["computed_ns"] - both["ready_ns"]).astype("float64")
    both["ms"] = two_ns.where(~alone, one_ns) / 1e6
    groups = both.groupby(TRY)
    table = pd.DataFrame(
        {"items": groups.size(), "forward_latency_median_ms": groups["ms"].median()}
    )
    table = table.join(groups[[*_MEASURED, "clock_note"]].first()).reset_index()
    return _judged(table).rename(columns={"bound_ms": "forward_latency_bound_ms"})


def _judged(table: pd.DataFrame) -> pd.DataFrame:
    """Take away what the clocks do not bear, and say why."""
    median, bound = table["forward_latency_median_ms"], table["bound_ms"]
    wide = (bound > MOST_SHARE * median) & table["clock_note"].isna()
    texts = [
        f"the clocks' error of {error:.3f} ms is more than {MOST_SHARE:.0%} of {value:.3f} ms"
        for error, value in zip(bound, median, strict=True)
    ]
    notes = table["clock_note"].astype("object").mask(wide, pd.Series(texts, index=table.index))
    known = notes.isna() & (table["items"] >= MIN_ITEMS)
    return table.assign(
        forward_latency_median_ms=median.where(known), clock_note=notes.astype("str")
    ).drop(columns="items")


def columns() -> Iterator[Column]:
    """Columns of forward latency and clocks."""
    single = "one rank does all, which takes no second clock"
    yield Column(
        "forward_latency_median_ms",
        "ms",
        "Latency without the way back, from input ready at the source to output computed at the "
        "sink, one item in flight: median of the items, then the mean over replicates. It takes "
        "the clocks of two hosts.",
        "`clock_note` says why, or no replicate was measured",
        front=True,
    )
    yield from interval("forward_latency_median_{}_ms", "ms", "`forward_latency_median_ms`")
    yield Column(
        "forward_latency_bound_ms",
        "ms",
        "Largest error of that which the clocks leave open, worst over replicates: half of the "
        "time of the fastest exchange, before or after the session.",
        f"{single}, or clocks were not compared before and after",
        front=True,
    )
    for when in _ENDS:
        yield Column(
            f"clock_offset_{when}_ms",
            "ms",
            f"How far the sink's clock was ahead of the source's {when} the session, mean over "
            "replicates.",
            f"{single}, or it was not compared",
        )
    yield Column(
        "clock_drift_ppm",
        "ppm",
        "By how much the sink's clock went faster than the source's, mean over replicates.",
        f"{single}, or clocks were not compared before and after",
    )
    yield Column(
        "clock_note",
        "",
        "Why a replicate has no forward latency: clocks were not compared before and after the "
        f"session; the offset moved by more than {MOST_DRIFT_PPM:g} ppm and both errors; a host's "
        f"wall clock was set by more than {MOST_STEP_S:g} s; or the error is more than "
        f"{MOST_SHARE:.0%} of the latency.",
        f"nothing was in the way, or {UNMEASURED}",
    )


OVER_REPLICATES: dict[str, tuple[Any, str]] = {
    "forward_latency_bound_ms": ("max", "float64"),
    "clock_note": (together, "str"),
}
"""How replicates become one figure of a point, and its dtype; what is not named is their mean."""
