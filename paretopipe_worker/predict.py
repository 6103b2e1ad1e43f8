"""How long a point is thought to take: for the plan's hours and for deadlines, never a result."""

from __future__ import annotations

from collections.abc import Sequence

from paretopipe_worker.cuts import FIRST, LAST, CutTable, TensorSpec, payload_bytes
from paretopipe_worker.fleet import Host
from paretopipe_worker.spec import Experiment, LinkSpec

WIRE_OVERHEAD = 1514 / 1448
"""Bytes on the wire per byte of payload in full Ethernet frames with TCP timestamps."""

_UNSHAPED_MBIT = 1000.0


def expected_s(
    table: CutTable,
    name: str,
    hops: tuple[tuple[TensorSpec, ...], ...],
    link: LinkSpec,
    hosts: Sequence[Host],
) -> tuple[list[float], list[float]]:
    """Rough seconds each stage computes and each hop is on the wire: only for predictions.

    Work is taken to be spread evenly over the cuts.
    """
    order = (LAST, *table.names, FIRST)
    share = order.index(name) / (len(order) - 1)
    forward_s = table.forward_ns / 1e9
    stage_s = [
        part * forward_s * host.speed_hint * host.device_emulated
        for part, host in zip((share, 1 - share), hosts, strict=True)
    ]
    rate = link.rate_mbit or _UNSHAPED_MBIT
    wire_s = [
        link.delay_ms / 1e3 + payload_bytes(hop) * 8 * WIRE_OVERHEAD / (rate * 1e6)
        for hop in hops
        if hop
    ]
    return stage_s, wire_s


def phases_s(experiment: Experiment, window: int, latency_s: float, period_s: float) -> float:
    """Seconds the two legs of one point are thought to take, warm-up and drain included."""
    phases = experiment.phases

    def leg_s(item_s: float, warmup_items: int) -> float:
        warmup_s = min(phases.max_s, warmup_items * item_s)
        return warmup_s + min(phases.max_s, max(phases.min_s, phases.min_items * item_s))

    latency_leg_s = leg_s(latency_s, phases.warmup_items)
    return latency_leg_s + leg_s(period_s, phases.warmup_items + window) + latency_s
