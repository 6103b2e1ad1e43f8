"""A session of many points; ten thousand are measured by ``python -m tests.benchmarks.long``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.helpers import long_session
from tests.helpers.long_session import Look
from tests.helpers.sessions import Finished, lab

pytestmark = pytest.mark.slow

SETTLED = 40
"""Points after which a stage has met each batch size, wire format and split."""
MOST_BYTES = 12_000
"""What a stage may keep of each point from then on: less than the input of one, 12,288 bytes."""


def test_a_stage_holds_as_much_after_many_points_as_after_few(tmp_path: Path) -> None:
    made = lab(tmp_path, long_session.asked(batches=1, windows=2))
    [session] = made.plan.sessions
    stages = {host: made.start(session, host) for host in session.placement}
    looks = long_session.watch(
        {host: stage.pid for host, stage in stages.items()},
        made.results / "progress-edge.jsonl",
        lambda: any(stage.poll() is None for stage in stages.values()),
        every=10,
    )
    assert [stage.poll() for stage in stages.values()] == [0, 0]
    for host in stages:
        own = [look for look in looks if look.process == host and look.points >= SETTLED]
        assert own[-1].points - own[0].points > 50, looks
        early, late = own[: len(own) // 2], own[len(own) // 2 :]
        # A file is open for a moment now and then: what is open all the time is the least.
        assert least(late, "files") == least(early, "files"), own
        assert least(late, "threads") == least(early, "threads"), own
        grown_mb = least(late, "rss_mb") - least(early, "rss_mb")
        assert 1e6 * grown_mb < MOST_BYTES * (late[0].points - early[0].points), own
    # With all points there, what each took is told apart from the others.
    assert len(long_session.costs(made, session)) == len(session.points) - 1
    assert len(Finished(made, session).lines[1]) > len(session.points)


def least(looks: Sequence[Look], kind: str) -> float:
    """The least that a process held at several looks."""
    return min(getattr(look.usage, kind) for look in looks)
