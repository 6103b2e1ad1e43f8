"""What the analysis finds of the segments of a trace."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.tables.trace_segments import throughput


def test_items_between_segments_end_a_stretch_and_count_for_none() -> None:
    ms = 1_000_000
    places = [0] * 5 + [None] + [1] * 6 + [None] + [0] * 4
    done_ns = [10 * n * ms for n in range(6)]
    done_ns += [(50 + 40 * n) * ms for n in range(1, 7)]
    done_ns += [(300 + 10 * n) * ms for n in range(5)]
    items = pd.DataFrame(
        {
            "session": "s",
            "attempt": 1,
            "point": "p",
            "phase": "throughput",
            "seq": range(len(places)),
            "segment": pd.array(places, dtype="Int64"),
            # One each 10 ms in segment 0, one each 40 ms in segment 1.
            "done_ns": done_ns,
            "latency_ns": 20 * ms,
            "window": 1,
        }
    )
    found = throughput(items, {"p": 2}).reset_index().set_index("segment")
    assert list(found["throughput_items"]) == [9, 6]
    assert list(found["throughput_images_s"]) == pytest.approx([200, 50])
    # Two windows of three: of segment 0 one in each stretch, of segment 1 one alone.
    found = throughput(items.assign(window=3), {"p": 2}).reset_index().set_index("segment")
    assert list(found["throughput_images_s"]) == pytest.approx([200, np.nan], nan_ok=True)


def test_bursts_that_a_segment_cuts_short_do_not_bias_its_throughput() -> None:
    ms = 1_000_000
    # Three at once each 100 ms; the stretch ends with the first of a burst.
    items = pd.DataFrame(
        {
            "session": "s",
            "attempt": 1,
            "point": "p",
            "phase": "throughput",
            "seq": range(10),
            "segment": pd.array([0] * 10, dtype="Int64"),
            "done_ns": [(n // 3 * 100 + n % 3) * ms for n in range(10)],
            "latency_ns": 100 * ms,
            "window": 3,
        }
    )
    found = throughput(items.iloc[:9], {"p": 1})
    assert list(found["throughput_images_s"]) == pytest.approx([30])
