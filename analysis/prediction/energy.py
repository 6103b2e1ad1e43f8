"""What energy a split is expected to take: power at rest all the time, and more while computing.

Of each host the power at rest is what it measured before its sessions' points, and what computing
takes beside that is found from the throughput legs of points, by least squares. A host that told
its energy and not its power at rest has both found from its legs.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from analysis.measures.energy import by_rank
from analysis.measures.legs import TRY, that_count
from analysis.prediction.observed import Observed, by_pool, pool_of
from analysis.run import Run
from paretopipe_worker.plan.plan import Point

_SHARED = ("host", "busy")


@dataclass(frozen=True)
class Power:
    """Watts of a host at rest, and those that computing takes beside."""

    rest_w: float
    more_w: float


class Powers:
    """The powers of a run's hosts.

    Parameters
    ----------
    run
        The run.
    observed
        What was observed of its stages.
    """

    def __init__(self, run: Run, observed: Observed) -> None:
        _, ends = that_count(run, observed.tries[TRY])
        told = by_rank(ends, run.plan, run.rests)[
            [*TRY, "rank", "energy_j_per_image", "energy_above_idle_j_per_image", "idle_w"]
        ]
        rows = observed.stages.merge(told, on=[*TRY, "rank"]).dropna(subset="energy_j_per_image")
        batch = rows["batch"].astype("float64")
        rows = rows.assign(
            joules=rows["energy_j_per_image"] * batch,
            above=rows["energy_above_idle_j_per_image"] * batch,
            busy_s=rows["busy_ms"] / 1e3,
            period_s=rows["period_ms"] / 1e3,
        )
        self._rows = by_pool(rows, _SHARED)
        stages = run.stages
        # The kernel draws this id as it starts, and hosts that are one computer share it.
        self._boots: dict[str, frozenset[str]] = {}
        for host, facts in zip(stages["host"], stages["facts"], strict=True):
            boot = {facts["boot_id"]} if facts.get("boot_id") else set()
            self._boots[host] = self._boots.get(host, frozenset()) | boot

    def of(self, point: Point, rank: int, left_out: Collection[str]) -> Power | None:
        """The power of the host of a rank, without what points tell; None where it is not known."""
        about = pool_of(point, rank)
        rows = self._rows.get(tuple(about[name] for name in _SHARED), self._rows[()])
        rows = rows[~rows["point"].isin(left_out)]
        rested = rows.dropna(subset=["above", "idle_w"])
        if len(rested):
            busy_s, above = (rested[name].to_numpy(np.float64) for name in ("busy_s", "above"))
            squares = float(busy_s @ busy_s)
            return Power(rested["idle_w"].mean(), float(busy_s @ above) / squares if squares else 0)
        if len(rows) < 3:
            return None
        design = rows[["period_s", "busy_s"]].to_numpy(np.float64)
        found, *_ = np.linalg.lstsq(design, rows["joules"].to_numpy(np.float64))
        return Power(*map(float, found))

    def apart(self, point: Point) -> bool:
        """Whether the hosts that take part run on computers of their own, so that powers add up."""
        hosts = [point.placement[rank] for rank in point.active_ranks]
        boots = [self._boots.get(host, frozenset()) for host in hosts]
        known = all(boots)
        return len(hosts) == 1 or (known and len(frozenset().union(*boots)) == sum(map(len, boots)))

    def joules(
        self, point: Point, period_ms: float, busy_ms: Collection[float], left_out: Collection[str]
    ) -> float:
        """Energy of an image; null where a host that takes part does not tell its own.

        Parameters
        ----------
        period_ms
            Time from item to item.
        busy_ms
            For how long each rank of the placement computes an item.
        left_out
            Points that nothing rests on.
        """
        if not self.apart(point):
            return float("nan")
        total, computing = 0.0, list(busy_ms)
        for rank in point.active_ranks:
            power = self.of(point, rank, left_out)
            if power is None:
                return float("nan")
            total += power.rest_w * period_ms + power.more_w * computing[rank]
        return total / 1e3 / point.batch
