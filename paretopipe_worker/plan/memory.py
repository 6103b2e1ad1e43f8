"""What memory stages need, and the points at which that is more than a host has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from paretopipe_worker.cuts import PLAIN, CutTable, TensorSpec, payload_bytes
from paretopipe_worker.plan.fleet import Host
from paretopipe_worker.plan.plan import Plan, Point, message_sizes
from paretopipe_worker.plan.refusals import Refusal

_MB = 1_000_000


def needed(
    table: CutTable,
    split: Sequence[str],
    hops: Sequence[tuple[TensorSpec, ...]],
    window: int,
    wire: str = PLAIN,
) -> tuple[int, ...]:
    """Bytes that each stage of a point needs, by rank: an upper bound of what is counted.

    That is the tensors that the stage holds, the peak of its values, the W+1 receive buffers of
    inbound messages, and W-1 results that wait to be sent. Where messages are packed, the buffers
    hold the largest packed ones, and in place of results W+1 packed ones wait. Python and torch
    themselves are not counted, nor what operators need inside for themselves, nor the inputs and
    references that the source keeps.

    Parameters
    ----------
    split
        The k-1 cuts of the whole placement.
    hops
        The tensors of each message, one for each rank of the point's ring, the way back last.
    window
        Batches in flight, W.
    wire
        Format in which tensors cross on their way forward.

    Returns
    -------
    One number per rank of the ring; none where the table of an earlier version does not tell.
    """
    footprint = table.footprint
    if footprint is None:
        return ()
    sizes = [each[-1] for each in message_sizes(wire, hops)]
    found = []
    for rank, size in enumerate(sizes):
        parts = table.parts(split, rank)
        # A stage without operations passes on what it was given, which needs no memory of its own.
        waiting = (window - 1) * size if parts else 0
        if wire != PLAIN and hops[0] and rank < len(hops) - 1 and (parts or rank == 0):
            # Values are also copied to one place before they are compressed, or rounded.
            waiting = (window + 1) * size + payload_bytes(hops[rank])
        buffers = (window + 1) * sizes[rank - 1] + waiting
        found.append(footprint.held_bytes(parts) + footprint.peak_bytes(parts) + buffers)
    return tuple(found)


@dataclass(frozen=True)
class TooLarge(Refusal):
    """A stage of a point does not fit on its host: `allowed` says how much may be, and why."""

    need_bytes: int
    allowed: str

    @property
    def cause(self) -> str:
        """The limit: stages that need more differ in how much that is."""
        return self.allowed

    def together(self, others: Sequence[Refusal]) -> str:
        """Why all points of its cause are not measured: stages need so much to so much."""
        needs = [each.need_bytes for each in others if isinstance(each, TooLarge)]
        return f"the stage there needs {_range(needs)} MB of memory; {self.allowed}"


def refused(plan: Plan, available: Mapping[str, int | None]) -> dict[str, Refusal]:
    """Points with a stage that cannot fit on its host, by id, each with the first such stage.

    Parameters
    ----------
    available
        Bytes of memory that each host has for new processes, by name; None where it cannot tell.
    """
    limits = {host.name: _limit(host, available.get(host.name)) for host in plan.hosts}
    found = ((point, _first(point, limits)) for point in plan.points)
    return {point.id: refusal for point, refusal in found if refusal}


def _first(point: Point, limits: Mapping[str, tuple[int, str] | None]) -> TooLarge | None:
    """The first stage of a point that does not fit."""
    for rank, need_bytes in enumerate(point.memory_bytes):
        host = point.placement[rank]
        limit = limits[host]
        if limit and need_bytes > limit[0]:
            allowed = f"allowed are {_mb(limit[0])} MB, {limit[1]}"
            why = f"its stage needs {_mb(need_bytes)} MB of memory; {allowed}"
            return TooLarge(f"{host}, rank {rank}", why, need_bytes, allowed)
    return None


def _limit(host: Host, available: int | None) -> tuple[int, str] | None:
    """The most bytes that a stage may take on a host, and what says so; None where nothing does."""
    limits = []
    if host.memory_mb is not None:
        limits.append((round(host.memory_mb * _MB), "as memory_mb in the inventory says"))
    if available is not None:
        limits.append((available, "what the host had free when it was prepared"))
    return min(limits, default=None)


def _range(sizes: Sequence[int]) -> str:
    """Sizes in MB, from the least to the most."""
    ends = [_mb(min(sizes)), _mb(max(sizes))]
    return " to ".join(dict.fromkeys(ends))


def _mb(size: int) -> str:
    """Bytes as a number of MB, with three digits and at least all before the point."""
    mb = size / _MB
    return f"{mb:.0f}" if mb >= 100 else f"{mb:.3g}"
