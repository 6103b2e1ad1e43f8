"""``python -m tests.benchmarks.exact``: how long exact fronts of made-up pipelines take.

Beside the search for the front stand looking at every split, where there are few enough, and a
scheduler that minimises the period alone and knows neither delay nor way back, as that of PipeEdge
does (Hu et al., "PipeEdge: pipeline parallelism for large-scale model inference on heterogeneous
edge devices", DSD 2022). All three are our own, in Python.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from analysis.prediction.costs import Array, Costs, Hop
from analysis.prediction.exact import Choice, Fleet, front, front_of_orders
from analysis.tables.front import is_nondominated
from tests.benchmarks.report import Check, Rows, main

CUTS = 100
WINDOW = 8
_MOST_SPLITS = 200_000
_LIMIT_S = 1.0


def measure(quick: bool) -> tuple[Rows, Sequence[Check]]:
    """Rows by number of hosts and whether their order is free; checks for four hosts."""
    cuts, times = (20, 1) if quick else (CUTS, 5)
    rows = [_in_order(_pipeline(hosts, cuts), times) for hosts in (2, 3, 4, 6, 8)]
    rows += [_in_any_order(_pipeline(hosts, cuts), times) for hosts in (3, 4)]
    checks = [
        Check(
            f"four hosts, {cuts} cuts, {row['order']} order: s", row["front_s"], _LIMIT_S, "lower"
        )
        for row in rows
        if row["hosts"] == 4
    ]
    same = [row["same"] for row in rows if row["same"] is not None]
    return rows, [
        *checks,
        Check("fronts that all splits have, too", sum(same), len(same), "higher"),
    ]


def _pipeline(hosts: int, cuts: int) -> Costs:
    """A made-up pipeline: unequal layers and payloads, hosts of unequal speed, one link."""
    draw = np.random.default_rng(hosts)
    layers = draw.gamma(1.0, 1.0, cuts + 1)
    speeds = draw.uniform(0.3, 2.0, hosts)
    times = layers * speeds[:, None] * draw.uniform(0.9, 1.1, (hosts, cuts + 1))
    prefix = np.pad(np.cumsum(times, axis=1), ((0, 0), (1, 0)))
    hop = Hop(delay_ms=5.0, ms_per_byte=8 / 20_000)
    return Costs(
        tuple(map(str, range(cuts + 2))),
        tuple(f"host{number}" for number in range(hosts)),
        prefix,
        0.95 * prefix,
        np.append(draw.lognormal(11.0, 1.0, cuts + 1), 0.0),
        4000.0,
        (hop,) * (hosts - 1),
        (None, *(hop,) * (hosts - 1)),
    )


def _in_order(costs: Costs, times: int) -> dict[str, Any]:
    """The row of hosts in a given order."""
    splits = math.comb(len(costs.places) + len(costs.hops) - 1, len(costs.hops))
    seconds, choices = _timed(lambda: front(costs, WINDOW), times)
    all_s, same = None, None
    if splits <= _MOST_SPLITS:
        all_s, best = _timed(lambda: _by_looking_at_all(costs), times)
        same = best == {(each.latency_ms, each.throughput_per_s) for each in choices}
    period_s, period = _timed(lambda: _least_period(costs, any_order=False), times)
    return _row(costs, "given", seconds, choices, period_s, period) | {
        "splits": splits,
        "all_splits_s": all_s,
        "same": same,
    }


def _in_any_order(costs: Costs, times: int) -> dict[str, Any]:
    """The row of hosts in any order, of which any may be the source."""
    hosts, hop = len(costs.hosts), costs.hops[0]
    fleet = Fleet(
        costs.places,
        costs.hosts,
        (1,) * hosts,
        costs.waiting_ms,
        costs.busy_ms,
        (0.0,) * hosts,
        costs.forward_bytes,
        costs.return_bytes,
        hop=lambda one, other: hop,
        back=lambda one, source: hop,
        sources=tuple(range(hosts)),
    )
    seconds, choices = _timed(lambda: front_of_orders(fleet, WINDOW), times)
    period_s, period = _timed(lambda: _least_period(costs, any_order=True), times)
    return _row(costs, "any", seconds, choices, period_s, period) | {
        "splits": None,
        "all_splits_s": None,
        "same": None,
    }


def _row(
    costs: Costs, order: str, seconds: float, choices: list[Choice], period_s: float, period: float
) -> dict[str, Any]:
    """What every row has."""
    return {
        "hosts": len(costs.hosts),
        "order": order,
        "cuts": len(costs.places) - 2,
        "on_front": len(choices),
        "front_s": seconds,
        "least_period_s": period_s,
        "least_period_per_s": 1000 / period,
        "best_of_front_per_s": max(each.throughput_per_s for each in choices),
    }


def _timed(function: Callable[[], Any], times: int) -> tuple[float, Any]:
    """The median seconds of several calls, and what they return."""
    seconds, found = [], None
    for _ in range(times):
        start = time.perf_counter()
        found = function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), found


def _by_looking_at_all(costs: Costs) -> set[tuple[float, float]]:
    """The front's pairs of objectives, from those of all splits."""
    places = range(len(costs.places))
    splits = np.array(list(itertools.combinations_with_replacement(places, len(costs.hops))))
    values = np.column_stack((costs.latency_ms(splits), costs.throughput_per_s(splits, WINDOW)))
    return set(map(tuple, values[is_nondominated(values, ["min", "max"])].tolist()))


def _least_period(costs: Costs, *, any_order: bool) -> float:
    """The least time of the busiest part, milliseconds, of hosts that each compute something.

    Its states are the layers that are done, the hosts that are used, and the host that is next.
    In a given order hosts may be left out, as PipeEdge's may.
    """
    hosts, last = range(len(costs.hosts)), len(costs.places) - 1
    # Sends to a host go at the slower of both ends' rates; here all are alike.
    sending = costs.hops[0].busy_ms(costs.forward_bytes)
    least: dict[tuple[int, int], Array] = {
        (0, host): np.array([0.0, *[np.inf] * last]) for host in hosts
    }
    best = np.inf
    for used in range(2 ** len(hosts)):
        for host in hosts:
            so_far = least.get((used, host))
            if so_far is None or used >> host & 1:
                continue
            stage = costs.busy_ms[host][None, :] - costs.busy_ms[host][:, None]
            stage = np.where(np.triu(np.ones_like(stage), 1) > 0, stage, np.inf)
            done = np.maximum(so_far[:, None], stage).min(axis=0)
            best = min(best, float(done[last]))
            for other in hosts:
                if not used >> other & 1 and other != host and (any_order or other > host):
                    key = (used | 1 << host, other)
                    value = np.maximum(done, sending)
                    least[key] = np.minimum(least.get(key, np.inf), value)
    return best


if __name__ == "__main__":
    main("exact", measure, "How long exact fronts take, beside other ways.")
