"""Energy that a host uses during a leg, and at rest.

Counters (:mod:`.counters`) are read just before and just after, so that reading them costs the
measurement nothing. Where a host has none, its power is sampled meanwhile (:mod:`.powers`), if
anything tells that.
"""

from __future__ import annotations

import time
from pathlib import Path

from paretopipe_worker.host.counters import UnknownEnergyError, counters, used_uj
from paretopipe_worker.host.powers import Power, Sampler, joules, power
from paretopipe_worker.records.energy import Energy

REST_S = 3.0
"""How long a host rests while its power is measured: some counters of GPUs stand for a tenth of a
second."""

NOTHING = "the host has no counter of energy, and no sensor of its power"


class Meter:
    """The energy of one host from the moment at which this is made.

    Parameters
    ----------
    root
        Where ``sys``, ``usr`` and ``opt`` are.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._counters = counters(root)
        self._power = None if self._counters else power(root)
        self._sampler = Sampler(self._power) if self._power else None
        self._reason = None if self.able else NOTHING
        self._before: list[int] = []
        try:
            self._before = [counter.read_uj() for counter in self._counters]
        except UnknownEnergyError as error:
            self._reason = str(error)
        self._begin_ns = time.perf_counter_ns()

    @property
    def able(self) -> bool:
        """Whether the host has anything that may tell its energy."""
        return bool(self._counters or self._power)

    def end(self, items: int) -> Energy:
        """Return what was used since this was made.

        Parameters
        ----------
        items
            Items that the stage handled in that time.
        """
        if self._power and self._sampler:
            return self._sampled(self._power, self._sampler, items)
        seconds = (time.perf_counter_ns() - self._begin_ns) / 1e9
        found, reason = None, self._reason
        if reason is None:
            try:
                found = self._used_uj(seconds) / 1e6
            except UnknownEnergyError as error:
                reason = str(error)
        source = " + ".join(counter.source for counter in self._counters) or None
        scope = " + ".join(dict.fromkeys(counter.scope for counter in self._counters)) or None
        return Energy(found, reason, source, seconds, items, scope)

    def _sampled(self, power: Power, sampler: Sampler, items: int) -> Energy:
        """The energy by what a power was at several moments."""
        found, reason, count = None, None, None
        seconds = (time.perf_counter_ns() - self._begin_ns) / 1e9
        try:
            samples = sampler.end()
            seconds, count = (samples[-1][0] - samples[0][0]) / 1e9, len(samples)
            found = joules(power.source, samples)
        except UnknownEnergyError as error:
            reason = str(error)
        return Energy(
            found, reason, power.source, seconds, items, power.scope, power.rate_hz, count
        )

    def _used_uj(self, seconds: float) -> int:
        """What all counters counted; one that does not tell leaves the whole unknown."""
        pairs = zip(self._counters, self._before, strict=True)
        return sum(used_uj(counter, at, counter.read_uj(), seconds) for counter, at in pairs)


def at_rest(root: Path = Path("/")) -> Energy:
    """What the host uses while this process waits; it waits only where the host may tell that."""
    meter = Meter(root)
    if meter.able:
        time.sleep(REST_S)
    return meter.end(0)
