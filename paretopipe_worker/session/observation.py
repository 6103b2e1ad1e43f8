"""What a rank observes of itself and its host during a leg, and the record it makes of that."""

from __future__ import annotations

import gc
import statistics
from typing import Literal, TypeAlias

import torch

from paretopipe_worker.execution.api import Computed
from paretopipe_worker.host.energy import Meter
from paretopipe_worker.host.health import Watch, disturbances
from paretopipe_worker.plan.plan import Point
from paretopipe_worker.records.lines import LegEnd
from paretopipe_worker.session.context import Context

LegPhase: TypeAlias = Literal["latency", "throughput", "load"]
"""A phase that is measured in legs."""


class Observation:
    """One leg as one rank sees it, from the moment at which the rank is ready for it.

    Parameters
    ----------
    leg
        Number of the leg within the point.
    window
        Batches in flight at most.
    """

    def __init__(
        self, context: Context, point: Point, phase: LegPhase, leg: int, window: int
    ) -> None:
        self.context = context
        self.point = point
        self.phase = phase
        self.leg = leg
        self.window = window
        self._busy_ns: list[int] = []
        gc.collect()
        # A latency is one item's; throughput and latency under load depend on all items together.
        self._watch = Watch(by_sums=phase != "latency")
        self._sent_before = context.sent()
        self._meter = Meter()

    def add(self, computed: Computed) -> None:
        """Count the computation of an item that counts."""
        self._busy_ns.append(computed.computed_ns - computed.start_ns)
        self._watch.add(
            computed.compute_ns, computed.cpu_ns, computed.asked_ns, computed.overslept_ns
        )

    @property
    def busy_ns(self) -> float:
        """Median time that an item was computed here, stretching included; 0 without items."""
        return statistics.median(self._busy_ns) if self._busy_ns else 0

    def end(self, messages: int, start_ns: int, end_ns: int) -> LegEnd:
        """End the leg, when nothing is in flight any more.

        Parameters
        ----------
        messages
            Items that this rank handled, those of the warm-up and the drain included.
        start_ns, end_ns
            When the first counted item began and the last one ended here.

        Returns
        -------
        LegEnd
            What every rank records; what only the source knows is left at its default.
        """
        energy = self._meter.end(messages)
        sent, health = self.context.sent(), self._watch.end()
        return LegEnd(
            point=self.point.id,
            phase=self.phase,
            items=len(self._busy_ns),
            start_ns=start_ns,
            end_ns=end_ns,
            ended_by=None,
            payload_sent_bytes=messages * self.point.hop_bytes[self.context.rank],
            **sent.since(self._sent_before),
            leg=self.leg,
            window=self.window,
            health=health,
            disturbed=disturbances(health, torch.get_num_threads(), shared=self.context.shared),
            energy=energy,
        )
