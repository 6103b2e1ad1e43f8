"""What the relay of a shaped link counts, in a file that the stages of this host read meanwhile.

A map of 64-bit numbers in this machine's byte order, written in place and without a lock: each
number is whole at any time, the numbers of one read may be a packet apart.
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
"""The first holds what is below 1 us, the last what is above a second."""
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
        Packets forwarded by how much later than due they were handed to the interface; see
        `late_ns`. How long a packet waited to be read does not show, but it is the same process
        that is late.
    """

    forwarded: int
    lost: int
    overflowed: int
    late: tuple[int, ...]

    @classmethod
    def read(cls, path: Path) -> RelayCounters | None:
        """Read the file; None where there is none, hence no relay."""
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        forwarded, lost, overflowed, *late = memoryview(data).cast("Q").tolist()
        return cls(forwarded, lost, overflowed, tuple(late))

    def __sub__(self, earlier: RelayCounters) -> RelayCounters:
        """What was counted since."""
        return RelayCounters(
            self.forwarded - earlier.forwarded,
            self.lost - earlier.lost,
            self.overflowed - earlier.overflowed,
            tuple(now - then for now, then in zip(self.late, earlier.late, strict=True)),
        )

    def late_ns(self, quantile: float) -> int | None:
        """Nanoseconds that this share of packets was late at most, up to 15 % above; None if none.

        Parameters
        ----------
        quantile
            Above 0, at most 1.
        """
        rank = math.ceil(quantile * sum(self.late))
        if not rank:
            return None
        bucket = next(i for i, upto in enumerate(accumulate(self.late)) if upto >= rank)
        return round(_FIRST_NS * 2 ** (bucket / _PER_OCTAVE))


class CountersFile:
    """The relay's side of the file: made anew, all zero."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)  # whoever still maps an old one keeps its numbers
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
