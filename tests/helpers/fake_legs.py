"""Legs of made-up points: when each item is where, by the source's clock."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from paretopipe_worker.records.lines import Phase

WARMUP = 2
"""Items of a leg's warm-up."""


@dataclass(frozen=True)
class Step:
    """One item on its way through all stages, by the source's clock.

    At the first stage it arrives as soon as it is ready.
    """

    seq: int
    arrived_ns: tuple[int, ...]
    start_ns: tuple[int, ...]
    computed_ns: tuple[int, ...]
    done_ns: int

    @property
    def ready_ns(self) -> int:
        """When the input was ready."""
        return self.arrived_ns[0]


@dataclass
class Leg:
    """One leg of a point by the source's clock; `spoilt` if it was disturbed and not the last."""

    phase: Phase
    number: int
    window: int
    offered_per_s: float | None
    spoilt: bool
    start_ns: int = 0
    end_ns: int = 0
    warmup: list[Step] = field(default_factory=list)
    items: list[Step] = field(default_factory=list)

    def run(
        self,
        now: int,
        computing: Sequence[list[float]],
        wire: Sequence[float],
        random_ms: random.Random,
    ) -> None:
        """Send the items on their way: one by one, as the window allows, or as they arrive."""
        self.start_ns = arrived = free = now
        for seq, stage in enumerate(computing):
            alone, period = sum(stage) + sum(wire), period_ms(stage, wire, self.window)
            if self.phase == "latency":
                ready, taken, free = free, alone, free + int(alone * 1e6)
            elif self.phase == "throughput":
                ready, taken, free = free, period * self.window, free + int(period * 1e6)
            else:
                # A queue before the slowest part, whose time it takes from one item to the next.
                assert self.offered_per_s is not None
                arrived += int(random_ms.expovariate(self.offered_per_s) * 1e9)
                ready, begun = arrived, max(arrived, free)
                taken, free = alone + (begun - ready) / 1e6, begun + int(period * 1e6)
            step = _step(seq, ready, stage, wire, taken)
            (self.warmup if seq < WARMUP else self.items).append(step)
        self.end_ns = max(free, self.items[-1].done_ns)


def _step(
    seq: int, ready: int, stage: Sequence[float], wire: Sequence[float], taken: float
) -> Step:
    """One item that takes `taken` ms; what it waits, it waits before the last stage."""
    done = ready + int(taken * 1e6)
    # The item waits for the first stage where that is the slowest, else before the last.
    arrived, start, computed = [ready], [ready], [ready + int(stage[0] * 1e6)]
    for compute, hop in zip(stage[1:], wire, strict=False):
        arrived.append(computed[-1] + int(hop * 1e6))
        start.append(arrived[-1])
        computed.append(start[-1] + int(compute * 1e6))
    last = done - int(wire[-1] * 1e6)
    start[-1] = max(arrived[-1], last - int(stage[-1] * 1e6))
    computed[-1] = max(last, start[-1])
    return Step(seq, tuple(arrived), tuple(start), tuple(computed), done)


def shares_of(legs: Sequence[Leg]) -> dict[str, int]:
    """Nanoseconds that a stage spent in each kind of time, with its start-up."""
    shares = {"startup": 2_500_000_000}
    for leg in legs:
        warm = leg.items[0].ready_ns - leg.start_ns
        shares["warmup"] = shares.get("warmup", 0) + warm
        spent = leg.end_ns - leg.start_ns - warm
        shares[leg.phase] = shares.get(leg.phase, 0) + spent
    return shares


def period_ms(stage: Sequence[float], wire: Sequence[float], window: int) -> float:
    """Time from one completion to the next with `window` items in flight."""
    return max(*stage, *wire, (sum(stage) + sum(wire)) / window)
