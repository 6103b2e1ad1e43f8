"""What splits cost by the parts of their pipeline, held against a twin that walks the pipeline."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from analysis.prediction.costs import Costs, Hop

HOPS = (Hop(2.0, 1e-5, 0.1), Hop(5.0, 4e-5, 0.2, 1e-6))
THREE = Costs(
    places=("@last", "a", "b", "@first"),
    hosts=("pi", "hub", "server"),
    waiting_ms=np.array([[0, 10, 30, 60], [0, 5, 15, 30], [0, 2, 6, 12.0]]),
    busy_ms=np.array([[0, 9, 27, 54], [0, 5, 14, 28], [0, 2, 5, 11.0]]),
    forward_bytes=np.array([600_000, 200_000, 50_000, 0.0]),
    return_bytes=4000.0,
    hops=HOPS,
    back=(None, Hop(1.0, 2e-5), Hop(3.0, 3e-5)),
    item_ms=(0.4, 0.3, 0.2),
)


def walked(costs: Costs, split: tuple[int, int]) -> tuple[float, float]:
    """Latency and the time of the busiest part: an item is followed from rank to rank."""
    last = len(costs.places) - 1
    total, busiest, begin = 0.0, 0.0, 0
    for rank in range(len(costs.hosts)):
        end = (*split, last)[rank]
        total += costs.waiting_ms[rank, end] - costs.waiting_ms[rank, begin]
        if end > begin:
            busy = costs.busy_ms[rank, end] - costs.busy_ms[rank, begin]
            busiest = max(busiest, busy + costs.item_ms[rank])
        if end == last:
            way, sent = costs.back[rank], costs.return_bytes
        else:
            way, sent = costs.hops[rank], float(costs.forward_bytes[end])
        if way is not None:
            wire = sent * way.ms_per_byte
            total += way.delay_ms + way.message_ms + sent * way.byte_ms + wire
            busiest = max(busiest, wire)
        if end == last:
            break
        begin = end
    return total, busiest


@pytest.mark.parametrize("split", [*itertools.combinations_with_replacement(range(4), 2)])
def test_latency_is_the_sum_of_all_parts_and_the_busiest_decides_throughput(
    split: tuple[int, int],
) -> None:
    places = np.array([split])
    latency, busiest = walked(THREE, split)
    assert THREE.latency_ms(places)[0] == pytest.approx(latency)
    assert THREE.busiest_ms(places)[0] == pytest.approx(busiest)
    for window in (1, 6):
        period = max(busiest, latency / window)
        assert THREE.throughput_per_s(places, window)[0] == pytest.approx(1e3 / period)


def test_a_host_that_waits_longer_computes_more_slowly() -> None:
    slower = replace(THREE, slowing=(0.1, 0.0, 0.0))
    places = np.array([[1, 1]])
    plain = THREE.latency_ms(places)[0]
    waits = np.log1p((plain - 10.0) / 20.0)
    assert slower.latency_ms(places)[0] == pytest.approx(plain + 0.1 * 10.0 * waits)


def test_usual_waits_are_in_the_parts_themselves() -> None:
    places = np.array([[1, 2]])
    slower = replace(THREE, slowing=(0.1, 0.2, 0.05))
    folded = slower.with_usual_waits(places)
    assert folded.slowing == ()
    assert folded.latency_ms(places) == pytest.approx(slower.latency_ms(places))
