"""A browser, and the reports that tests open in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from playwright.sync_api import Browser, sync_playwright

from analysis import backends, pareto
from analysis.figures import of_run
from tests.helpers import figures
from tests.helpers.fake_plan import TWO_LINKS, make, mobilenet_table
from tests.helpers.fake_run import FakeRun
from tests.helpers.pages import Report
from tests.helpers.traced import segments


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """One headless Chromium for these tests, which ends with them: it has a loop of events."""
    found = shutil.which("chromium")
    if found is None:
        pytest.fail(
            "chromium is not installed; `make test` installs it as root (apt-get install chromium)"
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found)
        yield browser
        browser.close()


@pytest.fixture(scope="package", autouse=True)
def undrawn() -> Iterator[None]:
    """Draw no figures."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((of_run, "pages"), (backends, "draw")):
            patch.setattr(module, name, figures.undrawn)
        yield


@pytest.fixture(scope="package")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of MobileNetV2 over two links, in three replicates, of which one host was disturbed.

    Load was offered to every split. Its report has the segments of a trace, too.
    """
    plan = make(mobilenet_table(), links=TWO_LINKS, replicates=3)
    folder = tmp_path_factory.mktemp("report") / "run"
    fake = FakeRun(folder, plan, items=8, loads=(0.3, 0.6, 1.5))
    for session in plan.sessions:
        fake.session(session, disturbed=session.points[:1])
    made = pareto.tables_of

    def with_segments(*args: Any, **options: Any) -> dict[str, pd.DataFrame]:
        tables = made(*args, **options)
        return tables | {"segments.csv": segments(tables["points.csv"])}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pareto, "tables_of", with_segments)
        pareto.analyse(fake.path)
    return fake.path


@pytest.fixture(params=[360, 1280])
def report(run: Path, chromium: Browser, request: pytest.FixtureRequest) -> Iterator[Report]:
    """Its report in a window of either width, which must say nothing and ask for nothing."""
    with Report.opened(chromium, run / "report.html", width=request.param) as opened:
        yield opened
