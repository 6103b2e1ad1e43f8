"""What a report holds, without a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import pareto
from analysis.prediction.costs import Costs
from analysis.prediction.parts import Parts
from analysis.prediction.predicting import COLUMNS
from analysis.report import html
from analysis.report.embedded import FIGURES
from analysis.tables.points import points
from paretopipe_worker.plan.plan import Plan
from tests.helpers.fake_plan import make, mobilenet_table, tiny_table
from tests.helpers.fake_run import FakeRun


def data_of(page: str) -> dict[str, Any]:
    """What a page's script draws."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert found is not None
    document: dict[str, Any] = json.loads(found[1])
    return document


def rows_of(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Its points by field."""
    return [dict(zip(data["fields"], row, strict=True)) for row in data["points"]]


def written(fake: FakeRun) -> str:
    """The report of a run."""
    return Path(pareto.analyse(fake.path)["report"]).read_text()


def test_a_report_says_first_that_one_replicate_tells_nothing_of_how_sure_it_is(
    tmp_path: Path,
) -> None:
    page = written(FakeRun(tmp_path / "run", make(tiny_table()), items=8).all_sessions())
    wary = page.index("Every point was measured once. Fewer than 3 replicates give no intervals")
    assert wary < page.index('id="answers-title"')
    assert all(row["latency_low"] is None for row in rows_of(data_of(page)))


def test_a_run_of_which_nothing_was_measured_has_a_report_that_says_so(tmp_path: Path) -> None:
    fake = FakeRun(tmp_path / "run", make(tiny_table()), items=8)
    fake.controller_failure(fake.plan.sessions[0], 1, "the server is down")
    page = written(fake)
    assert "No point was measured: there is nothing to compare." in page
    assert "4 of 4 points failed." in page and "the server is down" in page
    assert data_of(page)["scenarios"] == []


def test_the_page_lets_nothing_be_loaded(tmp_path: Path) -> None:
    page = written(FakeRun(tmp_path / "run", make(tiny_table()), items=8).all_sessions())
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert not re.search(r"(src|href)=[\"']?(https?:)?//|@import|url\(['\"]?(http|//)", page)


def test_two_thousand_points_fit_into_two_megabytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeRun(tmp_path / "run", make(mobilenet_table(), replicates=3), items=8)
    fake.all_sessions()
    copies = range(-(-2000 // len(fake.plan.points)))

    def often(table: pd.DataFrame) -> pd.DataFrame:
        """The table once for each copy: over one of eight links, with cuts of its own."""
        parts = []
        for number in copies:
            part = table.assign(point=table["point"] + f"-{number}")
            if "split" in part:
                further = f".{number // 8}" if number >= 8 else ""
                link = f"a-link-with-a-name-{number % 8}"
                part = part.assign(link=link, split=part["split"] + further)
            parts.append(part)
        return pd.concat(parts, ignore_index=True)

    for name in ("points", "stages", "attribution", "predictions"):
        made = getattr(pareto, name)
        monkeypatch.setattr(
            pareto, name, lambda *args, made=made, **kwargs: often(made(*args, **kwargs))
        )
    monkeypatch.setattr(html, "scenarios", lambda *_: [])
    page = written(fake)
    assert len(rows_of(data_of(page))) >= 2000
    assert len(page.encode()) < 2e6


def test_a_skipped_point_has_a_prediction_and_no_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeRun(tmp_path / "run", make(tiny_table()), items=8).all_sessions()

    def skipping(*args: Any, **kwargs: Any) -> pd.DataFrame:
        """The points of the run, of which a guided sweep left one cut out."""
        table = points(*args, **kwargs)
        left_out = table["split"] == "body.0"
        figures = [each for each in FIGURES.values() if each not in ("position", "payload_bytes")]
        table[figures] = table[figures].mask(left_out)
        table["status"] = table["status"].mask(left_out, "skipped")
        return table.assign(on_front=table["on_front"] & ~left_out)

    monkeypatch.setattr(pareto, "points", skipping)
    page = written(fake)
    assert "1 of 4 points was skipped by the guided sweep." in page
    for row in rows_of(data_of(page)):
        if row["status"] == "skipped":
            assert row["latency"] is None and row["throughput"] is None
            assert row["predicted_latency"] > 0 and row["predicted_throughput"] > 0
        else:
            assert row["latency"] > 0
            # What was measured needs no prediction beside it.
            assert row["predicted_latency"] is None


def test_a_split_of_which_a_part_is_not_known_is_not_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Parts.costs

    def lacking(*args: Any) -> Costs:
        """The parts of a pipeline, but for what its hosts take up to the first cut."""
        made = real(*args)
        made.waiting_ms[:, 1] = float("nan")
        return made

    monkeypatch.setattr(Parts, "costs", lacking)
    monkeypatch.setattr(pareto, "predictions", lambda run, *_: unpredicted(run.plan))
    page = written(FakeRun(tmp_path / "run", make(tiny_table()), items=8).all_sessions())
    [scenario] = data_of(page)["scenarios"]
    assert [full for full, _ in scenario["names"]] == ["all on server", "body.1", "all on pi"]
    assert scenario["waiting_ms"][0][1] is None and scenario["latency_error"] is None


def unpredicted(plan: Plan) -> pd.DataFrame:
    """A table of predictions in which nothing is known."""
    names = [column.name for column in COLUMNS]
    return pd.DataFrame({"point": [point.id for point in plan.points]}, columns=names)
