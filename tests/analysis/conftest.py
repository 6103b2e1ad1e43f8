"""What tests of the analysis share with pytest."""

from __future__ import annotations

import pytest

from analysis import backends
from analysis.figures import front_figure


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no figures, in tests of tables and texts: these take a fraction of the time."""
    for module in (front_figure, backends):
        monkeypatch.setattr(module, "draw", lambda *_: [])
