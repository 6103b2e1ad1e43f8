"""How the stages of these tests are started."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers import forked, sessions


@pytest.fixture(scope="module", autouse=True)
def stages(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have stages begin as copies of one process, where their times are not what is tested."""
    if request.node.get_closest_marker("alone"):
        yield
        return
    forked.prepare(sessions.ENVIRONMENT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions, "start_stage", forked.start)
        yield
