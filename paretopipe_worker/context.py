"""What all parts of a stage process share during one session."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from paretopipe_worker.fleet import Host
from paretopipe_worker.partition import TracedModel
from paretopipe_worker.plan import Plan, Point, Session
from paretopipe_worker.records import SHARES, Writer
from paretopipe_worker.transport import Transport


class Shares:
    """Where a process's time goes, by the kinds of :data:`paretopipe_worker.records.SHARES`."""

    def __init__(self) -> None:
        self.ns = dict.fromkeys(SHARES, 0)

    @contextlib.contextmanager
    def kind(self, name: str) -> Iterator[None]:
        """Count the time of the block as `name`."""
        start_ns = time.perf_counter_ns()
        try:
            yield
        finally:
            self.ns[name] += time.perf_counter_ns() - start_ns


@dataclass
class Context:
    """One rank of one session: what it is part of, its model, its links, its record file."""

    plan: Plan
    session: Session
    rank: int
    host: Host
    model: nn.Module
    traces: Mapping[tuple[int, str], TracedModel]
    numerics: str
    transport: Transport
    writer: Writer
    shares: Shares

    def traced(self, point: Point) -> TracedModel:
        """The model traced at the point's batch size and dtype, which a trace depends on."""
        return self.traces[point.batch, point.dtype]
