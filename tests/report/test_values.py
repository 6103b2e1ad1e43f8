"""Figures that are no finite numbers: null in the page's data and in JSON, never an error."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Browser

from analysis import pareto
from analysis.prediction.costs import Costs
from analysis.prediction.parts import Parts
from analysis.prediction.predicting import predictions
from analysis.report.page import embeddable
from analysis.report.values import plain
from analysis.tables.points import points
from tests.helpers.fake_plan import TWO_LINKS, make, tiny_table
from tests.helpers.fake_run import FakeRun
from tests.helpers.pages import Report

BAD = (math.inf, math.nan)


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def test_what_is_not_finite_is_null_at_any_depth() -> None:
    bad = {"python": list(BAD), "numpy": tuple(map(np.float64, BAD)), "array": np.array(BAD)}
    assert plain({"in": [bad]}) == {"in": [dict.fromkeys(bad, [None] * 2)]}
    assert plain({"count": np.int64(3), "share": np.float64(0.5), "is": np.bool_(True)}) == {
        "count": 3,
        "share": 0.5,
        "is": True,
    }
    assert json.loads(embeddable(bad), parse_constant=refuse) == dict.fromkeys(bad, [None] * 2)


@pytest.mark.parametrize("bad", BAD)
def test_a_run_with_figures_that_are_not_finite_has_a_report_that_says_not_known(
    chromium: Browser,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    bad: float,
) -> None:
    fake = FakeRun(tmp_path / "run", make(tiny_table(), links=TWO_LINKS, replicates=3), items=8)
    fake.all_sessions()
    costs = Parts.costs

    def spoilt(*args: Any) -> Costs:
        """The parts of a pipeline, of which one is not known."""
        made = costs(*args)
        made.waiting_ms[:, 1] = bad
        return made

    def lacking(table: pd.DataFrame, rows: pd.Series) -> pd.DataFrame:
        """The table with no figure of these rows."""
        names = table.select_dtypes("float64").columns
        return table.assign(**{name: table[name].mask(rows, bad) for name in names})

    monkeypatch.setattr(Parts, "costs", spoilt)
    monkeypatch.setattr(
        pareto,
        "points",
        lambda *args, **options: lacking(
            table := points(*args, **options), table["split"].eq("body.0")
        ),
    )
    monkeypatch.setattr(
        pareto,
        "predictions",
        lambda *args: lacking(table := predictions(*args), table["point"].notna()),
    )
    assert pareto.main([str(fake.path), "--json"]) == 0
    json.loads(capsys.readouterr().out, parse_constant=refuse)
    with Report.opened(chromium, fake.path / "report.html") as report:
        texts = report.page.locator("main").inner_text()
        assert not re.search(r"\b(NaN|Infinity|inf|nan|null|undefined)\b", texts)
        error = report.page.locator("#whatif-error").inner_text()
        assert "is not known" in error
        row = report.page.locator("#point-table tbody tr").filter(has_text="body.0").first
        assert row.locator("td").nth(1).inner_text() == "\N{EN DASH}"
