"""Sessions of stages whose times are known, over loopback addresses."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from paretopipe_worker.plan.window import rate_per_s
from tests.helpers.sessions import experiment, lab, only

pytestmark = pytest.mark.alone


def test_stage_times_and_throughput_are_those_of_a_known_pipeline(tmp_path: Path) -> None:
    """Stages that wait 20 ms each: 40 ms there and back, one batch each 20 ms."""
    made = lab(tmp_path, experiment("tests.helpers.synthetic:wait_20_ms", splits={"cuts": ["2"]}))
    found = made.run(only(made, "2"))
    # Waits may end late on a busy machine, never early.
    latency = [item.latency_ns or 0 for item in found.items(0, "2", "latency")]
    latency_ms = statistics.median(latency) / 1e6
    assert 40 <= min(latency) / 1e6 < 44
    done = [item.done_ns or 0 for item in found.items(0, "2", "throughput")]
    period_ms = 1e3 / (rate_per_s(done, 3) or 0)
    assert 19 <= period_ms < 0.8 * latency_ms, "the stages do not work at the same time"


def test_stretching_makes_a_stage_slower_by_its_factor(tmp_path: Path) -> None:
    made = lab(
        tmp_path,
        experiment("tests.helpers.synthetic:burning", splits={"cuts": ["0"]}),
        edge={"device_emulated": 4.0},
        server={},
    )
    found = made.run(only(made, "0"))
    for rank, factor in enumerate((4, 1)):
        items = found.items(rank, "0", "latency")
        # What others took of the core is not stretched.
        longer = [(i.computed_ns - i.start_ns - i.compute_ns) / i.cpu_ns for i in items]
        assert statistics.median(longer) == pytest.approx(factor - 1, rel=0.05, abs=0.05)
        [health] = [leg.health for leg in found.legs(rank, "0", "latency")]
        assert health
        if factor == 1:
            assert {i.overslept_ns for i in items} == {health.overslept} == {None}
            continue
        over_ns = sum(i.overslept_ns or 0 for i in items)
        lasted_ns = sum(i.computed_ns - i.start_ns for i in items)
        assert health.overslept == pytest.approx(over_ns / (lasted_ns - over_ns))
