"""Sessions of stages that wait for known times, and how their numbers are held against theory."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from paretopipe_worker.plan import window
from paretopipe_worker.records.lines import Item, LegEnd, PointEnd
from tests.helpers.sessions import Finished

WITHIN = 0.02
_TRIES, _QUIET_CORES = 3, 0.5
# Stages that wait use no core: what their wall time has over it says nothing here.
PHASES = {"min_items": 12, "min_s": 0, "max_s": 30, "retries": 0}


def undisturbed(run: Callable[[], Finished]) -> Finished:
    """Run a session, again where something else used the machine, as a disturbed leg would be."""
    for _ in range(_TRIES):
        found = run()
        if _quiet(found):
            break
    return found


def _quiet(found: Finished) -> bool:
    """Whether nothing but the session used the machine: stages that wait use hardly any of it."""
    healths = [leg.health for leg in found.of(LegEnd)]
    return all(health and (health.others_cpu or 0) < _QUIET_CORES for health in healths)


def went_well(found: Finished) -> None:
    """No point may have failed."""
    assert {end.status for end in found.of(PointEnd)} == {"ok"}


def seconds(items: Sequence[Item], end: str, begin: str) -> list[float]:
    """Differences of two times of each item."""
    return [(getattr(item, end) - getattr(item, begin)) / 1e9 for item in items]


def quartile(values: Sequence[float]) -> float:
    """The lower quartile: what else runs on this machine makes messages late, never early.

    So of probes, taken at one time, and items, at another, those are compared that fared best.
    """
    return statistics.quantiles(values, n=4)[0]


def throughput(items: Sequence[Item], in_flight: int) -> float:
    """Completions per second."""
    rate = window.rate_per_s([item.done_ns or 0 for item in items], in_flight)
    assert rate is not None
    return rate
