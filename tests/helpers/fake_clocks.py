"""Clocks of made-up hosts: ahead of each other, faster or slower, set and slewed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from paretopipe_worker.records.clocks import Clock, Exchange, Reading

When: TypeAlias = Literal["before", "between", "after"]


@dataclass(frozen=True)
class Clocks:
    """How the clock of every rank but the source goes: ahead, and faster or slower.

    `exchange_ns` is the time of the fastest exchange between both. At `step_at_ns` of the source's
    clock the other host stands still, and both its clocks jump by `step_ns`. From `slew_at_ns` on
    the monotonic clock of `slewed` goes faster by `slew_ppm`, until it has gained `slew_ns`. Raw
    clocks go faster than monotonic ones by `corrected_ppm`. From `warm_at_ns` on the other host's
    crystal goes faster by `warm_ppm`.
    """

    ahead_ns: int = 5_000_000_000
    drift_ppm: float = -20.0
    exchange_ns: int = 60_000
    step_ns: int = 0
    step_at_ns: int = 0
    slew_ns: int = 0
    slew_at_ns: int = 0
    slew_ppm: float = 400.0
    slewed: Literal["source", "other"] = "other"
    corrected_ppm: float = 7.0
    warm_at_ns: int = 0
    warm_ppm: float = 0.0

    def of(self, rank: int, source_ns: int) -> int:
        """What the clock of `rank` shows when the source's shows `source_ns`."""
        if rank == 0:
            return source_ns
        stepped = self.step_ns if source_ns >= self.step_at_ns else 0
        drifted = round(source_ns * self.drift_ppm * 1e-6)
        drifted += round(max(0, source_ns - self.warm_at_ns) * self.warm_ppm * 1e-6)
        # A clock that the source's gains on stays behind.
        gained = self._gained_ns(source_ns) * (1 if self.slewed == "other" else -1)
        return source_ns + self.ahead_ns + drifted + stepped + gained

    def read(self, rank: int, source_ns: int) -> Reading:
        """What both clocks of `rank` show then."""
        shown = self.of(rank, source_ns)
        gained = (self.slewed == "other") == (rank > 0) and self._gained_ns(source_ns)
        raw = shown - gained + round(source_ns * self.corrected_ppm * 1e-6) + 10**9 * (rank + 1)
        return shown, raw, shown

    def _gained_ns(self, source_ns: int) -> int:
        """What a clock was slewed by until then."""
        return min(self.slew_ns, max(0, round((source_ns - self.slew_at_ns) * self.slew_ppm / 1e6)))

    def record(self, when: When, rank: int, at_ns: int) -> Clock:
        """Exchanges from `at_ns` on, the answer made halfway, some of them slower."""
        exchanges = []
        for number in range(8):
            took_ns = self.exchange_ns + 10_000 * ((number + 3) % 8)
            # Only the fastest is even: the others came late on one way.
            times = (0, at_ns), (rank, at_ns + self.exchange_ns // 2), (0, at_ns + took_ns)
            exchanges.append(Exchange(*(self.read(*time) for time in times)))
            at_ns += 200_000
        return Clock(when, rank, tuple(exchanges))
