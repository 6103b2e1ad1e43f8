"""Predictions of how long measuring takes, for the plan's hours and for deadlines."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from paretopipe_worker.cuts import FIRST, LAST, CutTable
from paretopipe_worker.link.conditions import Condition, TcpSettings
from paretopipe_worker.link.profiles import LinkSpec
from paretopipe_worker.plan.experiment import Experiment
from paretopipe_worker.plan.fleet import Host
from paretopipe_worker.plan.warmup import FEWEST
from paretopipe_worker.plan.window import needed

WIRE_PER_PAYLOAD = 1514 / 1448
"""Bytes on the wire per byte of payload in full Ethernet frames with TCP timestamps."""

_UNSHAPED_MBIT = 1000.0
_TCP_PAYLOAD_BYTES = 1448
_LEAST_ROUND_TRIP_S = 1e-3
_LEAST_TIMEOUT_S = 0.2
MOST_LOSS = 0.5
"""Share of lost packets above which TCP makes hardly any progress; predictions do not go beyond."""

_SESSION_S = 20.0
_LEAST_APART = 10
"""Least time between two measurements of the path, in units of the time one takes."""

_GLANCE_S = 1.0
_TRIPS, _TRIP_APART_S = 130, 0.02
_REPEATS, _TRANSFER_BYTES = 3, (8 << 10, 32 << 10, 128 << 10, 512 << 10)
_REST_S, _LONGEST_S = 0.1, 2.5
_RAMP_S, _RAMP_TRIPS = 4.0, 12
_DATAGRAMS_S = 15.0
_BRIEF_TRIPS, _BRIEF_TRANSFER_BYTES, _BRIEF_RAMP_S = 40, (8 << 10, 128 << 10), 2.0
"""What a measurement of the path consists of, roughly: see `paretopipe_worker.session.probe`."""


def expected_s(
    table: CutTable,
    split: Sequence[str],
    sizes: Sequence[int],
    link: LinkSpec,
    tcp: TcpSettings,
    hosts: Sequence[Host],
) -> tuple[float, float]:
    """Rough seconds that a batch takes from end to end, and at the busiest stage or hop.

    The computation is assumed to be spread evenly over the cuts.

    Parameters
    ----------
    sizes
        Bytes of a message on each hop of the point's ring, the way back last.
    hosts
        All hosts of the placement, by rank.
    """
    order = {name: number for number, name in enumerate((LAST, *table.names, FIRST))}
    bounds = [order[name] / (len(order) - 1) for name in (LAST, *split, FIRST)]
    forward_s = table.forward_ns / 1e9
    stage_s = [
        (end - begin) * forward_s * host.speed_hint * host.device_emulated
        for (begin, end), host in zip(itertools.pairwise(bounds), hosts, strict=True)
    ]
    path, trips_s = link.forward_path(len(sizes)), link.round_trips_s(len(sizes))
    used = [each for each in zip(sizes, path, trips_s, strict=True) if each[0]]
    wire_s = [size * 8 / goodput_bit_s(condition, trip_s, tcp) for size, condition, trip_s in used]
    delay_s = sum(condition.delay_ms for _, condition, _ in used) / 1e3
    return sum(stage_s) + sum(wire_s) + delay_s, max(*stage_s, *wire_s)


def goodput_bit_s(condition: Condition, delay_s: float, tcp: TcpSettings) -> float:
    """Upper bound of TCP's goodput on a way of this condition, whose round trips take `delay_s`.

    Loss bounds it by the equation of RFC 5348, section 3.1, with a retransmission time-out of four
    round trips, at least Linux' minimum of 200 ms. The largest allowed socket buffer bounds it to
    one such buffer per round trip.
    """
    round_trip_s = _LEAST_ROUND_TRIP_S + delay_s
    bounds = [(condition.rate_mbit or _UNSHAPED_MBIT) * 1e6 / WIRE_PER_PAYLOAD]
    if tcp.max_buffer_bytes is not None:
        bounds += [tcp.max_buffer_bytes * 8 / round_trip_s]
    if loss := min(condition.mean_loss, MOST_LOSS):
        timeout_s = max(_LEAST_TIMEOUT_S, 4 * round_trip_s)
        waiting_s = timeout_s * 3 * math.sqrt(3 * loss / 8) * loss * (1 + 32 * loss**2)
        bounds += [_TCP_PAYLOAD_BYTES * 8 / (round_trip_s * math.sqrt(2 * loss / 3) + waiting_s)]
    return min(bounds)


def certificate_s(link: LinkSpec, tcp: TcpSettings, ranks: int) -> float:
    """Predicted seconds of one measurement of a session's path, over all certified segments."""
    brief = link.timetable is not None
    return sum(_probe_s(each, tcp, ranks, brief) for each in link.probed.values())


def certified_after(
    experiment: Experiment, link: LinkSpec, ranks: int, points_s: Sequence[float]
) -> tuple[int, ...]:
    """Numbers of points after which a session measures its path: from 0 to all of them.

    Parameters
    ----------
    points_s
        Predicted seconds of each point, in the order in which the points are measured.
    """
    certify = experiment.certify
    apart_s = max(60 * certify.every_min, _LEAST_APART * certificate_s(link, experiment.tcp, ranks))
    places, since_s = [0], 0.0
    for number, point_s in enumerate(points_s[:-1], start=1):
        since_s += point_s
        if since_s >= apart_s or number - places[-1] == certify.every_points:
            places.append(number)
            since_s = 0.0
    return (*places, len(points_s))


def overhead_s(
    experiment: Experiment, link: LinkSpec, ranks: int, points_s: Sequence[float]
) -> float:
    """Predicted seconds of a session without its points; arguments as of `certified_after`."""
    places = certified_after(experiment, link, ranks, points_s)
    return _SESSION_S + len(places) * certificate_s(link, experiment.tcp, ranks)


def _probe_s(link: LinkSpec, tcp: TcpSettings, ranks: int, brief: bool) -> float:
    """Predicted seconds of one probe of a path."""
    path = link.forward_path(ranks)
    if not any(condition.shaped for condition in path):
        return _GLANCE_S
    datagrams_s = _DATAGRAMS_S if any(condition.erratic for condition in path) else 0.0
    if brief and datagrams_s:
        return datagrams_s
    round_trip_s = sum(condition.delay_ms for condition in path) / 1e3
    transfers_s = sum(
        _REST_S + round_trip_s + min(_LONGEST_S, size * 8 / goodput_bit_s(condition, trip_s, tcp))
        for condition, trip_s in zip(path, link.round_trips_s(ranks), strict=True)
        for size in (_BRIEF_TRANSFER_BYTES if brief else _TRANSFER_BYTES)
    )
    return (
        (_BRIEF_TRIPS if brief else _TRIPS) * _TRIP_APART_S
        + _REPEATS * transfers_s
        + len(path) * max(_BRIEF_RAMP_S if brief else _RAMP_S, _RAMP_TRIPS * round_trip_s)
        + datagrams_s
    )


def legs_s(experiment: Experiment, window: int, latency_s: float, busiest_s: float) -> float:
    """Predicted seconds of the legs of one point, warm-up and drain included.

    The prediction assumes that no leg is disturbed and that every rate of an offered load is below
    the knee.

    Parameters
    ----------
    window
        Batches in flight in the throughput leg.
    latency_s, busiest_s
        Seconds that a batch takes from end to end, and at the busiest stage or hop.
    """
    phases = experiment.phases
    period_s = max(busiest_s, latency_s / window)
    warmup_items = min(FEWEST, phases.warmup_items)

    def leg_s(item_s: float, warmup: int, least: int) -> float:
        warmup_s = max(item_s, min(phases.warmup_s, warmup * item_s))
        counted = max(phases.min_items, least)
        return warmup_s + min(phases.max_s, max(phases.min_s, counted * item_s))

    least = needed(window)
    seconds = leg_s(latency_s, warmup_items, 0) + leg_s(period_s, warmup_items + window, least)
    seconds += latency_s
    if load := phases.load:
        for share in load.shares:
            item_s = period_s / share
            counted = max(load.min_items, least)
            counted_s = min(phases.max_s, max(load.min_s, counted * item_s))
            seconds += window * item_s + counted_s + latency_s
    return seconds


def duration(seconds: float) -> str:
    """A rough time in words for people."""
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"
