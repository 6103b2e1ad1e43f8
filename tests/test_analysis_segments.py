"""What the analysis finds of the segments of a trace."""

from __future__ import annotations

import pandas as pd
import pytest

from analysis.segments import throughput


def test_items_between_segments_end_a_stretch_and_count_for_none() -> None:
    ms = 1_000_000
    places = [0] * 5 + [None] + [1] * 6 + [None] + [0] * 4
    items = pd.DataFrame(
        {
            "session": "s",
            "attempt": 1,
            "point": "p",
            "phase": "throughput",
            "seq": range(len(places)),
            "segment": pd.array(places, dtype="Int64"),
            # One each 10 ms in segment 0, one each 40 ms in segment 1.
            "done_ns": [10 * n * ms for n in range(6)]
            + [(50 + 40 * n) * ms for n in range(1, 7)]
            + [(300 + 10 * n) * ms for n in range(5)],
        }
    )
    found = throughput(items, {"p": 2}).reset_index().set_index("segment")
    assert list(found["throughput_items"]) == [9, 6]
    assert list(found["throughput_images_s"]) == pytest.approx([200, 50])
