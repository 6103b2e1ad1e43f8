"""Legs of offered load."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest

from paretopipe_worker.plan import arrivals
from paretopipe_worker.plan.experiment import LoadSpec
from paretopipe_worker.plan.window import rate_per_s
from paretopipe_worker.records.lines import Item, LegEnd, PointEnd
from tests.helpers.sessions import Finished, lab, only

pytestmark = pytest.mark.alone

SECOND = 1_000_000_000
PHASES = {"min_items": 20, "min_s": 0, "max_s": 30, "retries": 0}


def run(folder: Path, model: str, **phases: Any) -> Finished:
    """Measure the point at which two waiting stages are cut apart."""
    experiment = {"models": [model], "phases": PHASES | phases, "splits": {"cuts": ["0"]}}
    made = lab(folder, experiment)
    found = made.run(only(made, "0"))
    assert [end.status for end in found.of(PointEnd)] == ["ok"]
    return found


def load_legs(found: Finished, rank: int = 0) -> list[tuple[LegEnd, list[Item]]]:
    """Legs of offered load with their counted items."""
    items = found.items(rank, "0", "load")
    return [
        (leg, [item for item in items if item.leg == leg.leg])
        for leg in found.legs(rank, "0", "load")
    ]


def test_load_is_offered_at_its_rate_until_the_knee(tmp_path: Path) -> None:
    load = {"shares": [0.2, 0.6, 1.6, 1.8], "min_items": 60, "min_s": 0}
    found = run(tmp_path, "tests.helpers.synthetic:two_of_5_ms", load=load)
    seed_of_plan, replicate = found.lab.plan.experiment.seed, found.session.replicate
    [throughput] = found.legs(0, "0", "throughput")
    rate = rate_per_s([item.done_ns or 0 for item in found.items(0, "0", "throughput")], 3)
    assert rate is not None
    legs = load_legs(found)
    # Nobody keeps up with 1.6 of what is possible, so 1.8 is not offered.
    assert 1 <= len(legs) <= 3
    medians = []
    for (end, items), share in zip(legs, load["shares"], strict=False):
        assert end.offered_per_s == pytest.approx(share * rate)
        assert (end.window, end.items) == (throughput.window, len(items)) == (3, 60)
        # As drawn beforehand, to the nanosecond: no completion has moved an arrival.
        seed = f"{seed_of_plan} {replicate} {found.point('0')} {share}"
        drawn = arrivals.poisson(
            seed, end.offered_per_s, LoadSpec(min_items=60, min_s=0), end.window
        )
        offsets = [item.ready_ns - items[0].ready_ns for item in items]
        assert offsets == [time - drawn[3] for time in drawn[3:]]
        for item in items:
            assert item.latency_ns == (item.done_ns or 0) - item.ready_ns
            assert item.start_ns >= item.ready_ns, "sent before it arrived"
        medians.append(statistics.median(item.latency_ns or 0 for item in items))
    # Behind the knee the queue grows as long as it is offered: no noise on this machine does that.
    assert len(medians) >= 2
    assert medians[-1] == max(medians) > 1.2 * medians[0]


def test_a_window_bounds_what_is_in_flight_and_no_leg_is_measured_again(
    tmp_path: Path,
) -> None:
    load = {"shares": [2.0], "min_items": 60, "min_s": 0}
    found = run(tmp_path, "tests.helpers.synthetic:two_of_5_ms", load=load)
    # No leg is measured again, since `retries` is 0.
    ends = [(leg.phase, leg.leg) for leg in found.of(LegEnd)]
    assert ends == [("latency", 0), ("throughput", 1), ("load", 2)]
    [(_, items)] = load_legs(found)
    for item in items:
        flying = [o for o in items if o.start_ns <= item.start_ns < (o.done_ns or 0)]
        assert 1 <= len(flying) <= 3
    waiting = [(item.start_ns - item.ready_ns) / 1e6 for item in items]
    # Half of what arrives cannot be served: the last of 60 has waited for about 30 times 5 ms.
    assert waiting[-1] > 75


def test_a_stall_shows_in_the_latency_of_all_that_was_to_arrive_meanwhile(tmp_path: Path) -> None:
    load = {"shares": [0.5], "min_items": 150, "min_s": 0}
    found = run(tmp_path, "tests.helpers.synthetic:stalling", load=load)
    [(end, items)], [(_, theirs)] = load_legs(found), load_legs(found, rank=1)
    stalls = [item for item in theirs if item.compute_ns >= 0.29 * SECOND]
    assert stalls, "every 100th item stalls, and there are 150"
    for stall in stalls:
        meanwhile = [i for i in items if stall.start_ns <= i.ready_ns < stall.computed_ns]
        # Of about 20 that were to arrive, a source that waited for answers would have sent 3.
        assert len(meanwhile) > end.window
        for item in meanwhile:
            assert (item.latency_ns or 0) >= stall.computed_ns - item.ready_ns
