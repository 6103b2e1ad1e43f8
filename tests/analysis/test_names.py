"""Names of any kind are carried through tables, figures and pages as they are, and do nothing."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
import pytest

from analysis import pareto
from analysis.tables.latex import latex
from paretopipe_worker.cuts import Cut, TensorSpec
from paretopipe_worker.plan.labels import split_label
from tests.helpers.fake_plan import make, table
from tests.helpers.fake_run import FakeRun

pytestmark = pytest.mark.slow

MODEL = "Größe_сеть.δίκτυο:Netz_ñ"
CUTS = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "a 'quoted' \"cut\"",
    "$(touch pwned) `touch pwned`; touch pwned",
    "\\input{/etc/passwd} 50 % of $x_1^2$ & {so} ~ on",
    "=HYPERLINK(1),2",
    "$\\frac{1}{$ unbalanced",
    "заголовок στρώμα",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose folder, model and cuts have such names, analysed."""
    path = tmp_path_factory.mktemp("names") / "Ergebnisse für 'Ada' $(touch pwned)" / "run"
    cuts = tuple(Cut(name, (TensorSpec((1, 8, 8, 8), "float32"),)) for name in CUTS)
    FakeRun(path, make(table(cuts, model=MODEL)), items=8).all_sessions()
    assert pareto.main([str(path)]) == 0
    return path


def test_tables_hold_them_as_they_are(folder: Path) -> None:
    points = pd.read_csv(folder / "points.csv")
    assert set(points["model"]) == {MODEL}
    assert {split_label([name]) for name in CUTS} < set(points["split"])
    with (folder / "points.csv").open(encoding="utf-8", newline="") as file:
        assert len({len(row) for row in csv.reader(file)}) == 1, "a cell was split"


def test_figures_are_drawn_and_named_after_the_model(folder: Path) -> None:
    name = MODEL.replace(":", ".")
    names = {path.name for path in (folder / "figures").iterdir()}
    assert {f"front-{name}.png", f"front-{name}.svg"} <= names
    svg = (folder / f"figures/front-{name}.svg").read_text(encoding="utf-8")
    assert "<script" not in svg


def test_the_report_shows_them_as_text(folder: Path) -> None:
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page and "<img src=x" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page, "it is not shown"
    assert MODEL in page


def test_latex_prints_them_and_runs_nothing(folder: Path) -> None:
    points = pareto_points(folder)
    text = latex(points)
    assert r"\input" not in text
    assert r"\textbackslash{}input\{/etc/passwd\} 50 \% of \$x\_1" in text
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({line.replace(r"\&", "").count("&") for line in body}) == 1, "a cell was split"


def pareto_points(folder: Path) -> pd.DataFrame:
    """The points of a run as figures and tables take them."""
    points = pd.read_csv(folder / "points.csv")
    points["on_front"] = points["on_front"].astype(bool)
    return points


def test_no_name_was_run(folder: Path) -> None:
    there = [path.name for path in (*folder.parent.parent.rglob("*"), *Path.cwd().iterdir())]
    assert "pwned" not in there
