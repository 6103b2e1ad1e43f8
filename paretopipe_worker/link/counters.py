"""What the relay of a shaped link counts, in a file that the stages of this host read meanwhile.

The file is an array of 64-bit numbers in this machine's byte order, written in place and without a
lock. Each number is whole at any time, but the numbers of one read may be a packet apart.
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

_FIRST_NS = 1_000
_PER_OCTAVE = 5
_BUCKETS = 21 * _PER_OCTAVE + 1
"""Buckets of lateness: the first holds what is below 1 us, the last what is above a second."""
_WORDS = 3 + _BUCKETS


@dataclass(frozen=True)
class RelayCounters:
    """What the relay of this host did to the packets that left it.

    Parameters
    ----------
    forwarded
        Packets sent, duplicates included.
    lost
        Packets dropped because the condition says so.
    overflowed
        Packets dropped because the queue was full or the interface did not take them.
    late
        Number of forwarded packets in each bucket of lateness, which is how much later than due a
        packet was handed to the interface; see `late_ns`. How long a packet waited to be read does
        not show, but the same process would be late in both.
    """

    forwarded: int
    lost: int
    overflowed: int
    late: tuple[int, ...]

    @classmethod
    def read(cls, path: Path) -> RelayCounters | None:
        """Read the file; None if it does not exist, and hence no relay."""
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        forwarded, lost, overflowed, *late = memoryview(data).cast("Q").tolist()
        return cls(forwarded, lost, overflowed, tuple(late))

    def __sub__(self, earlier: RelayCounters) -> RelayCounters:
        """Return what was counted since an earlier read."""
        return RelayCounters(
            self.forwarded - earlier.forwarded,
            self.lost - earlier.lost,
            self.overflowed - earlier.overflowed,
            tuple(now - then for now, then in zip(self.late, earlier.late, strict=True)),
        )

    def late_ns(self, quantile: float) -> int | None:
        """Return a quantile of lateness in nanoseconds, rounded up by at most 15 %.

        None if no packet was forwarded.

        Parameters
        ----------
        quantile
            Share of packets that were no later than this: above 0, at most 1.
        """
        rank = math.ceil(quantile * sum(self.late))
        if not rank:
            return None
        bucket = next(i for i, upto in enumerate(accumulate(self.late)) if upto >= rank)
        return round(_FIRST_NS * 2 ** (bucket / _PER_OCTAVE))


class CountersFile:
    """The relay's side of the file, which is created anew with all numbers zero."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)  # whoever still maps the old file keeps its numbers
        path.write_bytes(bytes(8 * _WORDS))
        path.chmod(0o644)
        with path.open("r+b") as file:
            self._words = memoryview(mmap.mmap(file.fileno(), 8 * _WORDS)).cast("Q")

    def forwarded(self, late_ns: int) -> None:
        """Count a packet that was sent."""
        words = self._words
        words[0] += 1
        bucket = 0
        if late_ns >= _FIRST_NS:
            bucket = min(int(math.log2(late_ns / _FIRST_NS) * _PER_OCTAVE) + 1, _BUCKETS - 1)
        words[3 + bucket] += 1

    def lost(self) -> None:
        """Count a packet that the condition drops."""
        self._words[1] += 1

    def overflowed(self) -> None:
        """Count a packet for which there was no room."""
        self._words[2] += 1
