"""Measurements of a made-up link, which is what its profile says."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.measures import chance
from paretopipe_worker.link.conditions import Condition
from paretopipe_worker.plan.plan import Plan, Session
from paretopipe_worker.records.probes import Datagrams, Probe, Transfer
from tests.helpers.fake_plan import WIRE_PER_PAYLOAD


def probe(plan: Plan, session: Session, after_points: int) -> Probe:
    """What a session measures of its path after so many points."""
    path = plan.link(session.link).forward_path(len(session.placement))
    trip_ms = sum(condition.delay_ms for condition in path) + 0.1
    goodput = [(condition.rate_mbit or 9000) / WIRE_PER_PAYLOAD for condition in path]
    transfers = tuple(
        Transfer(hop, size, (int((trip_ms + size * 8 / (rate * 1e3)) * 1e6),) * 3)
        for size in (8 << 10, 512 << 10)
        for hop, rate in enumerate(goodput)
    )
    trips = tuple(int((trip_ms + 0.01 * n) * 1e6) for n in range(5))
    erratic = any(condition.erratic for condition in path)
    sent = datagrams(path) if erratic else None
    return Probe(after_points, trips, tuple(goodput), transfers, sent)


def datagrams(path: Sequence[Condition], count: int = 600) -> Datagrams:
    """As many datagrams as should come, all with the median delay that is expected."""
    interval_ns = 2_000_000
    kept = [count]
    for condition in path:
        kept.append(round(kept[-1] * (1 - condition.mean_loss)))
    median_ms = chance.simulate(path, count, interval_ns / 1e6).round_trip_ms.mean
    times = (int(median_ms * 1e6),) * kept[-1]
    return Datagrams(interval_ns, tuple(kept[:-1]), tuple(kept[1:]), times)
