"""A made-up table of the segments of a trace, for pages; no number in it was measured."""

from __future__ import annotations

import pandas as pd

from analysis.column import OBJECTIVES
from analysis.tables.trace_segments import COLUMNS

SLOWER = (1.0, 4.0, 2.0, 1.0)
"""How many times slower each segment is than the point itself; of the third nothing is known."""

UNKNOWN = 2
LASTS_S = 30.0


def segments(points: pd.DataFrame) -> pd.DataFrame:
    """The table ``segments.csv`` of points whose link follows a trace of four segments."""
    parts = []
    for number, slower in enumerate(SLOWER):
        part = points[["point", "model", "split", "link", "backend", "window"]].assign(
            segment=number,
            certified_as=number,
            start_s=LASTS_S * number,
            duration_s=LASTS_S,
            asked=f"{20 / slower:g} Mbit/s",
            round_trip_before_ms=10.0 * slower,
            round_trip_after_ms=10.0 * slower,
            goodput_before_mbit=19.0 / slower,
            goodput_after_mbit=19.0 / slower,
            latency_items=20,
            throughput_items=20,
        )
        for name, direction in OBJECTIVES.items():
            figure = points[name] * (slower if direction == "min" else 1 / slower)
            part[name] = figure.mask(pd.Series(number == UNKNOWN, points.index))
        parts.append(part)
    names = [column.name for column in COLUMNS]
    return pd.concat(parts, ignore_index=True)[names].astype({"segment": "Int64"})
