"""What all parts of a stage process share during one session."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from paretopipe_worker.link.counters import RelayCounters
from paretopipe_worker.link.state import LinkState
from paretopipe_worker.model.partition import Partitioned
from paretopipe_worker.plan.fleet import Host
from paretopipe_worker.plan.lanes import hosts_of
from paretopipe_worker.plan.plan import Plan, Point, Session
from paretopipe_worker.records.files import Writer
from paretopipe_worker.records.lines import SHARES
from paretopipe_worker.records.probes import Probe
from paretopipe_worker.session.meeting import Lane
from paretopipe_worker.transport.api import Counters, Transport

_LATE = 0.99


class Shares:
    """Where a process's time goes, by kind: :data:`paretopipe_worker.records.lines.SHARES`."""

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


@dataclass(frozen=True)
class Sent:
    """What this rank had sent at one moment, as counted by the transport and, if any, the relay."""

    wire: Counters
    relay: RelayCounters | None

    def since(self, before: Sent) -> dict[str, Any]:
        """What was sent since an earlier moment, as fields of a :class:`LegEnd`."""
        again, earlier = self.wire.retransmitted_bytes, before.wire.retransmitted_bytes
        relay = self.relay - before.relay if self.relay and before.relay else None
        return {
            "wire_sent_bytes": self.wire.sent_bytes - before.wire.sent_bytes,
            "wire_counter": self.wire.counter,
            "retransmitted_bytes": None if again is None or earlier is None else again - earlier,
            "relay_late_p99_ns": relay and relay.late_ns(_LATE),
            "relay_forwarded": relay and relay.forwarded,
            "relay_dropped": relay and relay.lost + relay.overflowed,
        }


@dataclass
class Context:
    """One rank of one session: its plan, its model, its links and its record file.

    `transport` moves the items' tensors; `path` is the transport that probes use, which for backend
    `tcp` is the same one. On the source, `probe` is the latest measurement of the path. There,
    `references` is what the whole model returns for each input, by batch size, as the controller
    found it; it is empty where the source has the whole model. `images` are what the source sends
    in place of drawn inputs, see :func:`paretopipe_worker.model.inputs.items`. `programs` is the
    folder of the files that this host was sent, `others` the way to the other sources that share
    the sink's host.
    """

    plan: Plan
    session: Session
    rank: int
    host: Host
    models: Mapping[tuple[int, str], Partitioned]
    numerics: str
    transport: Transport
    path: Transport
    link: LinkState
    writer: Writer
    shares: Shares
    references: Mapping[int, list[tuple[torch.Tensor, ...]]] = field(default_factory=dict)
    probe: Probe | None = None
    images: torch.Tensor | None = None
    programs: Path = Path()
    others: Lane = field(default_factory=Lane)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Data address and port of every rank."""
        hosts = hosts_of(self.plan, self.session)
        return [(host.data_address, host.data_port) for host in hosts]

    @property
    def shared(self) -> bool:
        """Whether the stages of several sources share this rank's host."""
        return self.session.sources > 1 and self.rank == len(self.session.placement) - 1

    def ready(self, point: Point, *, window: int, overlap: bool) -> None:
        """Have the transport ready for a leg of a point in which this rank takes part."""
        self.transport.configure(
            point.hops[self.rank - 1],
            point.hops[self.rank],
            window=window,
            deadline_s=point.deadline_s,
        )
        self.transport.begin(overlap=overlap)

    def replay(self) -> None:
        """Start the link's trace again from its beginning, if the link follows one."""
        if self.link.replay:
            self.link.replay.run()

    def position(self) -> int | None:
        """Position in the link's trace; None where it follows none."""
        return self.link.replay.position if self.link.replay else None

    def segment(self, since: int | None, from_ns: int) -> int | None:
        """The segment of the link's trace that was in force all the time since an item was ready.

        Parameters
        ----------
        since
            Position that was read when the item was sent.
        from_ns
            When the item was ready, which may be earlier.

        Returns
        -------
        int or None
            None where the segment changed meanwhile, or the link follows no trace.
        """
        replay = self.link.replay
        return None if replay is None or since is None else replay.segment(since, from_ns)

    def sent(self) -> Sent:
        """What this rank has sent so far."""
        return Sent(self.transport.counters(), self.link.relayed())

    def model(self, point: Point) -> Partitioned:
        """The program for the point's batch size and dtype."""
        return self.models[point.batch, point.dtype]
