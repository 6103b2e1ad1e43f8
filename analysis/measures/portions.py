"""Portions of a run whose items are few enough to be taken at the same time.

Nothing that is measured of an attempt at a session depends on other sessions, but for those that
were launched together. So the copies of items that measures make need not be as large as the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pandas as pd

from analysis.run import Run
from paretopipe_worker.plan.plan import Plan

MOST_ITEMS = 200_000
"""Items of a portion, unless sessions that were launched together have more."""


def portions(items: pd.DataFrame, plan: Plan) -> Iterator[list[str]]:
    """Sessions by portion of the items, at least one portion, in the order of the plan."""
    counts = items["session"].value_counts().to_dict()
    portion: list[str] = []
    size = 0
    for group in plan.groups:
        names = [session.id for session in group]
        own = sum(counts.get(name, 0) for name in names)
        if size and own and size + own > MOST_ITEMS:
            yield portion
            portion, size = [], 0
        portion += names
        size += own
    yield portion


def parts(run: Run) -> Iterator[Run]:
    """The run with the items, legs and points of one portion of its sessions after the other."""
    frames = {name: getattr(run, name) for name in ("items", "legs", "points")}
    for sessions in portions(run.items, run.plan):
        own = {name: frame[frame["session"].isin(sessions)] for name, frame in frames.items()}
        yield replace(run, **own)
