"""What tests of the analysis share with pytest."""

from __future__ import annotations

import pandas as pd
import pytest

from analysis import backends
from analysis.figures import of_run
from tests.helpers import figures
from tests.helpers.analysed import mobilenet
from tests.helpers.fake_plan import TWO_LINKS


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no figures, in tests of tables and texts: these take a fraction of the time."""
    for module, name in ((of_run, "pages"), (backends, "draw")):
        monkeypatch.setattr(module, name, figures.undrawn)


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Points and stages of a made-up run of MobileNetV2 over two links."""
    return mobilenet(tmp_path_factory.mktemp("smoke"), TWO_LINKS)


@pytest.fixture(scope="session")
def smoke(tables: tuple[pd.DataFrame, pd.DataFrame]) -> pd.DataFrame:
    """The points of that run."""
    return tables[0]


@pytest.fixture(scope="session")
def stages(tables: tuple[pd.DataFrame, pd.DataFrame]) -> pd.DataFrame:
    """The stages of that run."""
    return tables[1]
