"""Figures and tables as a paper takes them."""

from __future__ import annotations

import doctest
from pathlib import Path

import pandas as pd
import pytest
from pylatexenc.latexwalker import LatexEnvironmentNode, LatexWalker

from analysis import paper
from analysis.figures.front_figure import columns
from analysis.figures.pages import COLUMN_IN
from analysis.tables import latex as module
from analysis.tables.latex import escaped, latex, quantity
from tests.helpers.fake_plan import TWO_LINKS, make, tiny_table
from tests.helpers.fake_run import FakeRun
from tests.helpers.figures import assert_texts_are_clear


def rows_of(text: str) -> list[list[str]]:
    """The cells of a tabular environment, which must be LaTeX without a fault."""
    nodes, _, _ = LatexWalker(text, tolerant_parsing=False).get_latex_nodes()
    [environment] = [node for node in nodes if isinstance(node, LatexEnvironmentNode)]
    assert environment.environmentname == "tabular"
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    return [[cell.strip() for cell in line.removesuffix(r"\\").split(" & ")] for line in body]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command writes of a run of three replicates over two links."""
    path = tmp_path_factory.mktemp("paper") / "run"
    plan = make(tiny_table(), links=TWO_LINKS, replicates=3)
    FakeRun(path, plan, items=8, noise=0.1).all_sessions()
    assert paper.main([str(path)]) == 0
    return path / "paper"


def test_every_format_is_written(written: Path) -> None:
    names = {file.name for file in written.iterdir()}
    figures = [f"front-tiny-{number}" for number in (1, 2, 3)] + ["breakdown-tiny"]
    assert {f"{name}.{kind}" for name in figures for kind in ("png", "svg", "pdf")} < names
    tables = ("points", "front", "stages", "indicators", "attainment", "attribution")
    assert {f"{name}.{kind}" for name in tables for kind in ("csv", "parquet")} < names
    assert {"front-tiny.tex", "points-tiny.tex", "captions.txt"} < names
    captions = (written / "captions.txt").read_text()
    assert captions.count("front-tiny-") == 3 and "pi (3 times)" in captions


def test_parquet_holds_what_csv_holds(written: Path) -> None:
    for file in written.glob("*.parquet"):
        table, text = pd.read_parquet(file), pd.read_csv(file.with_suffix(".csv"))
        assert list(table.columns) == list(text.columns) and len(table) == len(text) > 0
        for name in text.select_dtypes("float64"):
            assert table[name].to_numpy("float64") == pytest.approx(
                text[name].to_numpy(), rel=1e-6, nan_ok=True
            ), f"{file.name}: {name}"


def test_fonts_are_embedded_in_pdf_and_text_stays_text_in_svg(written: Path) -> None:
    raw = (written / "front-tiny-1.pdf").read_bytes()
    assert b"/FontFile2" in raw and b"/CIDFontType2" in raw and b"/Type3" not in raw
    assert ">Response latency (ms)</text>" in (written / "front-tiny-1.svg").read_text()


def test_the_front_is_a_table_with_units_and_intervals(written: Path) -> None:
    head, *rows = rows_of((written / "front-tiny.tex").read_text())
    assert head == [
        *("Link", "Split", "Latency (ms)", "Throughput (images/s)", "Payload (kB)"),
        "$P$(front)",
    ]
    front = pd.read_csv(written / "front.csv")
    assert len(rows) == len(front)
    assert [row[0] for row in rows if row[0]] == ["none", "rate20"]
    assert all(r" \pm " in row[2] and r" \pm " in row[3] for row in rows)
    value, half = (float(part) for part in rows[0][2].strip("$").split(r"\pm"))
    assert value == pytest.approx(front.loc[0, "latency_median_ms"], abs=half)
    points = rows_of((written / "points-tiny.tex").read_text())
    starred = [row for row in points if "$^*$" in row[1]]
    assert len(points) == 9 and len(starred) == len(front)


def test_without_intervals_the_table_says_so_first(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run", make(tiny_table()), items=8).all_sessions().path
    assert paper.main([str(run), "-o", str(tmp_path), "--formats", "tex"]) == 0
    assert {file.suffix for file in tmp_path.iterdir() if file.is_file()} == {".tex"}
    text = (tmp_path / "points-tiny.tex").read_text()
    assert "% no interval is shown of 4 of 4 points: fewer than 3 replicates" in text
    assert r"\pm" not in text and "$P$" not in text


def test_names_are_escaped(written: Path) -> None:
    points = pd.read_csv(written / "points.csv").assign(
        split=r"a_b & {50 %} $x^2$ ~ # \end{tabular} <>|", link=["e\nvil", *["x_"] * 7]
    )
    head, *rows = rows_of(latex(points))
    assert {len(row) for row in rows} == {len(head)}  # & of the name is no border of a cell
    assert rows[0][0] == "e vil" and rows[1][0] == r"x\_"
    assert escaped("\\") == r"\textbackslash{}"


def test_a_figure_of_a_column_is_as_wide_as_asked_and_can_be_read(
    smoke: pd.DataFrame, stages: pd.DataFrame
) -> None:
    for figure, caption in columns(smoke, stages):
        assert figure.get_figwidth() == COLUMN_IN
        assert_texts_are_clear(figure)
        assert "no interval is shown" in caption and caption.endswith("are better.")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--formats=gif", "allowed are some of png, svg, pdf, csv, parquet, tex; got 'gif'"),
        ("--width=1", "must be 2 to 20 inches; got '1'"),
    ],
)
def test_what_cannot_be_made_is_refused(
    option: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        paper.main(["nowhere", option])
    assert said in capsys.readouterr().err
    assert paper.main(["nowhere"]) == 2


@pytest.mark.parametrize(
    ("value", "half", "said"),
    [
        (9.996, 0.0951, r"$10.0 \pm 0.1$"),
        (1234.5, 99.6, r"$1230 \pm 100$"),
        (0.5, 0.0, "0.500"),
        (float("nan"), 1.0, "--"),
    ],
)
def test_values_are_rounded_to_the_digits_of_their_interval(
    value: float, half: float, said: str
) -> None:
    assert quantity(value, half) == said


def test_examples_in_the_module_are_true() -> None:
    found = doctest.testmod(module)
    assert found.attempted >= 3 and not found.failed
