"""Profiles of made-up runs, by the numbers of :mod:`tests.helpers.fake_plan`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from paretopipe_worker.cuts import EAGER
from paretopipe_worker.plan.plan import Plan, Session
from paretopipe_worker.records.profiles import Profile
from tests.helpers.fake_plan import FORWARD_MS, share_done


def profiles(plan: Plan, session: Session, items: int = 4) -> Iterator[Profile]:
    """What any rank of a session measures of the whole model, unit by unit."""
    for table in plan.tables_of(session.model):
        done = [share_done(place, len(table.order)) for place in range(len(table.order))]
        units = tuple(
            round(1e6 * FORWARD_MS * table.batch * (after - before))
            for before, after in itertools.pairwise(done)
        )
        busy = Profile(table.batch, table.dtype, EAGER, table.order, "busy", 0, (units,) * items)
        yield busy
        yield Profile(
            table.batch, table.dtype, EAGER, table.order, "waiting", 8_000_000, busy.unit_ns
        )
