"""What became of a point in an attempt: in one lane, and in all that are measured together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from paretopipe_worker.plan.labels import placement_label, readable

_WORSE = ("ok", "lost", "failed")
"""What may become of a point, each worse than the one before."""


@dataclass(frozen=True)
class Outcome:
    """What became of a point in one attempt, and the reason where it does not count.

    An ``ok`` point counts. A ``failed`` one failed by itself and would most likely fail again: it
    is measured again only on request. A ``lost`` one is missing because its session broke or its
    records are incomplete: it is measured again.
    """

    status: Literal["ok", "failed", "lost"]
    reason: str | None = None


def of_lanes(found: Sequence[Outcome], placements: Sequence[Sequence[str]]) -> Outcome:
    """What became of a point of the first lane, where all lanes count together or none does.

    It is the worst of all. The reason names the lane where it is not the first one's own.

    Parameters
    ----------
    found
        What became of the point in each lane by itself.
    placements
        The hosts of each lane by rank.
    """
    own, *_ = found
    worst = max(found, key=lambda outcome: _WORSE.index(outcome.status))
    if own.status == worst.status:
        return own
    lane = readable(placement_label(placements[found.index(worst)]))
    return Outcome(worst.status, f"{lane}: {worst.reason}")
