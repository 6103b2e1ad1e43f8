"""What one item costs in each part of a pipeline, and what splits of it cost therefore.

The latency of an item is the sum of what its parts take: each stage's computation, and each
message on its hop. Items in flight use the parts at the same time, so one more is done each time
the busiest part is done with one; and no more than a window of them are in flight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Places: TypeAlias = NDArray[np.int64]


_WAIT_MS = 20.0


def waited(gap_ms: Array) -> Array:
    """How much a wait of so many milliseconds counts: about as the logarithm of long ones."""
    found: Array = np.log1p(np.maximum(gap_ms, 0.0) / _WAIT_MS)
    return found


@dataclass(frozen=True)
class Hop:
    """What a message of n bytes takes from one host to another.

    Parameters
    ----------
    delay_ms
        One-way delay, milliseconds.
    ms_per_byte
        Time that the wire is busy with a byte of tensor data, headers of packets included.
    message_ms
        What every message takes beside these, whatever its size, milliseconds.
    byte_ms
        What the software at both ends takes for a byte, while the wire is not busy with it.
    """

    delay_ms: float
    ms_per_byte: float
    message_ms: float = 0.0
    byte_ms: float = 0.0

    def busy_ms(self, sent: Array) -> Array:
        """For how long the wire is busy with messages of so many bytes; none is sent for 0."""
        return np.where(sent > 0, sent * self.ms_per_byte, 0.0)

    def crossing_ms(self, sent: Array) -> Array:
        """How long messages of so many bytes take from end to end; none is sent for 0."""
        software_ms = self.message_ms + sent * self.byte_ms
        return np.where(sent > 0, self.delay_ms + software_ms, 0.0) + self.busy_ms(sent)


@dataclass(frozen=True)
class Costs:
    """The parts of a pipeline of k hosts and of a model that has m places to be cut.

    Place 0 is before the whole model (``@last``), place m-1 behind it (``@first``). A split is k-1
    places that do not fall: rank r computes what lies between the places r-1 and r.

    Parameters
    ----------
    places
        Names of the cuts in the order of the data, ``@last`` first and ``@first`` last, length m.
    hosts
        By rank, source first, length k.
    waiting_ms, busy_ms
        Arrays (k, m): what a host takes for everything before each place, where it waits between
        items, as with one item in flight, and where items follow each other. Milliseconds.
    forward_bytes
        What crosses at each place on its way forward, as it is packed, length m; 0 at the last.
    return_bytes
        What crosses on its way back.
    hops
        From each rank to the next, length k-1.
    back
        From each rank to rank 0, length k; that of rank 0 itself is None.
    item_ms
        What each rank that computes takes for an item beside its computation, while items follow
        each other: it hands over messages and keeps records. Length k, or empty for none.
    slowing
        By what share each host computes more slowly for each unit of :func:`waited`, beyond
        `waiting_ms`. Length k, or empty for none.
    """

    places: tuple[str, ...]
    hosts: tuple[str, ...]
    waiting_ms: Array
    busy_ms: Array
    forward_bytes: Array
    return_bytes: float
    hops: tuple[Hop, ...]
    back: tuple[Hop | None, ...]
    item_ms: tuple[float, ...] = ()
    slowing: tuple[float, ...] = ()

    def index(self, splits: Sequence[Sequence[str]]) -> Places:
        """The places of splits by the names of their cuts, as an array (n, k-1)."""
        order = {name: place for place, name in enumerate(self.places)}
        found = [[order[cut] for cut in split] for split in splits]
        return np.array(found, dtype=np.int64).reshape(len(found), len(self.hosts) - 1)

    def latency_ms(self, splits: Places) -> Array:
        """Response latency with one item in flight: the sum of all parts.

        Parameters
        ----------
        splits
            Array (n, k-1) of places.
        """
        crossing = [hop.crossing_ms(sent) for hop, sent in self._messages(splits)]
        computing = self._computing(self.waiting_ms, splits)
        latency: Array = computing.sum(axis=1) + np.sum(crossing, axis=0)
        if self.slowing:
            slower = computing * self.slowing * waited(latency[:, None] - computing)
            latency = latency + slower.sum(axis=1)
        return latency

    def with_usual_waits(self, splits: Places) -> Costs:
        """The same with the slowing of a usual wait in `waiting_ms`, so that parts only add up.

        Parameters
        ----------
        splits
            Array (n, k-1) of places: for each host the median of their waits is the usual one.
        """
        if not self.slowing:
            return self
        computing = self._computing(self.waiting_ms, splits)
        plain = replace(self, slowing=())
        waits = np.median(waited(plain.latency_ms(splits)[:, None] - computing), axis=0)
        slower = self.waiting_ms * (1 + np.array(self.slowing) * waits)[:, None]
        return replace(plain, waiting_ms=slower)

    def throughput_per_s(self, splits: Places, window: int) -> Array:
        """Items per second in steady state, with so many in flight.

        Parameters
        ----------
        splits
            Array (n, k-1) of places.
        window
            Items in flight, at least 1.
        """
        period_ms = np.maximum(self.busiest_ms(splits), self.latency_ms(splits) / window)
        throughput: Array = 1000.0 / period_ms
        return throughput

    def busiest_ms(self, splits: Places) -> Array:
        """For how long the busiest stage or wire is busy with one item: the maximum of all parts.

        Parameters
        ----------
        splits
            Array (n, k-1) of places.
        """
        computing = self._computing(self.busy_ms, splits)
        beside = np.array(self.item_ms or np.zeros(len(self.hosts)))
        parts = [*np.where(computing > 0, computing + beside, 0.0).T]
        parts += [hop.busy_ms(sent) for hop, sent in self._messages(splits)]
        busiest: Array = np.max(parts, axis=0)
        return busiest

    def stages_ms(self, splits: Places) -> Array:
        """For how long each rank computes an item, while others follow, as an array (n, k)."""
        return self._computing(self.busy_ms, splits)

    def _computing(self, prefix_ms: Array, splits: Places) -> Array:
        """What each rank computes for one item, as an array (n, k)."""
        last = len(self.places) - 1
        ends = np.pad(splits, ((0, 0), (0, 1)), constant_values=last)
        begins = np.pad(splits, ((0, 0), (1, 0)), constant_values=0)
        ranks = np.arange(len(self.hosts))
        computing: Array = prefix_ms[ranks, ends] - prefix_ms[ranks, begins]
        return computing

    def _messages(self, splits: Places) -> list[tuple[Hop, Array]]:
        """The hops and the bytes that each split sends over them, the way back included.

        The ring ends at the last rank that computes: behind it nothing crosses, and the way back
        begins there.
        """
        last = len(self.places) - 1
        sent = self.forward_bytes[splits] * (splits < last)
        found = [(hop, sent[:, rank]) for rank, hop in enumerate(self.hops)]
        sink = (splits < last).sum(axis=1)
        for rank, hop in enumerate(self.back):
            if hop is not None:
                found.append((hop, np.where(sink == rank, self.return_bytes, 0.0)))
        return found
