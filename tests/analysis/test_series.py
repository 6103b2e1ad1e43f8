"""Fronts of wire formats, runtimes and other circumstances: coloured, named, and compared."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis.column import CHOICES, chosen_objectives
from analysis.figures import front_figure
from analysis.figures.series import Series
from analysis.pareto import main
from analysis.report.terminal import text
from analysis.tables import front
from analysis.tables.columns import FRONT
from tests.helpers.analysed import tables_of
from tests.helpers.fake_plan import TWO_LINKS, make, tiny_table
from tests.helpers.fake_run import FakeRun
from tests.helpers.figures import one_page

pytestmark = pytest.mark.slow

ERRORS = {"fp32": None, "int8": 0.0123, "zstd": None}


@pytest.fixture
def tables(tmp_path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Points over two links, each in three wire formats, of which one is faster and rounds."""
    plan = make(tiny_table(), links=TWO_LINKS)
    table, stages = tables_of(FakeRun(tmp_path / "run", plan, items=8).all_sessions())
    parts = []
    for number, (wire, error) in enumerate(ERRORS.items()):
        ids = table["point"] + wire if number else table["point"]
        faster = 0.5 if wire == "int8" else 1 + number / 100
        parts.append(
            table.assign(
                point=ids,
                wire=wire,
                max_relative_error=0.0 if error is None else error,
                latency_median_ms=faster * table["latency_median_ms"],
            )
        )
    return front.mark(pd.concat(parts, ignore_index=True)), stages


def titles(*pages: Figure) -> list[str]:
    """The titles of all panels, whose lines may be broken."""
    panels = [axes for figure in pages for axes in figure.axes]
    return [" ".join(axes.get_title(loc="left").split()) for axes in panels]


def legend(figure: Figure) -> list[str]:
    return [entry.get_text() for entry in figure.legends[0].get_texts()]


def test_wire_formats_have_colours_and_links_rows(
    tables: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    pages = front_figure.front(*tables)
    assert titles(*pages) == [
        f"{panel}, {link}"
        for link in ("none (unshaped)", "rate20 (20 Mbit/s)")
        for panel in ("fronts of all wire formats", *ERRORS)
    ]
    colours = {
        line.get_color()
        for figure in pages
        for axes in figure.axes
        for line in axes.lines
        if line.get_drawstyle() == "steps-post"
    }
    assert len(colours) == len(ERRORS)
    assert "int8 (output off by up to 1.2 % of its largest value)" in legend(pages[0])
    assert {"fp32", "zstd"} <= set(legend(pages[0]))


def test_the_only_link_is_named_in_the_notes(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    table, stages = tables
    figure = one_page(front_figure.front(table[table["link"] == "rate20"], stages))
    assert titles(figure) == ["fronts of all wire formats", *ERRORS]
    assert "link: rate20 (20 Mbit/s)" in figure.legends[0].get_title().get_text()


@pytest.mark.parametrize(
    ("name", "values", "kind"),
    [
        ("runtimes", ["eager", "onnxruntime", "eager>onnxruntime"], "runtimes"),
        ("dtype", ["float32", "bfloat16", "float32"], "number formats"),
        ("sources", [1, 2, 3], "numbers of sources"),
        ("busy", [False, True, False], "loads"),
    ],
)
def test_each_circumstance_that_varies_alone_has_the_colours(
    tables: tuple[pd.DataFrame, pd.DataFrame], name: str, values: list[object], kind: str
) -> None:
    table, _ = tables
    varied = table.assign(**{name: table["wire"].map(dict(zip(ERRORS, values, strict=True)))})
    series = Series(varied.assign(wire="fp32"))
    assert (series.name, series.kind) == (name, kind)
    assert set(series.colours) == set(values)
    assert Series(table.assign(wire="fp32")).name == "link"


def test_what_rounds_competes_only_where_the_error_counts(
    tables: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    table, _ = tables
    apart = table[table["on_front"]]
    assert set(apart["wire"]) == set(ERRORS)
    objectives = chosen_objectives(["latency", "throughput", "error"])
    together = front.fronts(front.mark(table, objectives=objectives), objectives)
    # The faster format is on the front for its speed and the plain one for its error.
    assert set(together["wire"]) == {"fp32", "int8"}
    blind = chosen_objectives(["latency", "throughput"])
    assert set(front.fronts(front.mark(table, objectives=blind), blind)["wire"]) == set(ERRORS)


def test_a_front_of_three_objectives_is_no_line(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    table, stages = tables
    link = table[(table["link"] == "none") & (table["wire"] == "fp32")]
    drawn = one_page(front_figure.front(link.assign(on_front=True), stages)).axes[0]
    assert not [line for line in drawn.lines if line.get_drawstyle() == "steps-post"]


def test_every_objective_is_a_column_of_the_front() -> None:
    assert set(CHOICES.values()) <= set(FRONT)


def test_the_command_takes_objectives_and_says_which_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = FakeRun(tmp_path / "run", make(tiny_table()), items=8).all_sessions().path
    assert main([str(run), "--json", "--objectives", "bytes"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["objectives"] == {"payload_bytes": "min"}
    # Where all is computed on the source nothing crosses.
    assert {row["split"] for row in document["front"]} == {"@first"}
    assert "@first" not in text(document) and "all on pi" in text(document)
    with pytest.raises(SystemExit):
        main([str(run), "--objectives", "latency,joy"])
    said = capsys.readouterr().err
    allowed = "latency, throughput, memory, error, energy, bytes"
    assert f"allowed are some of {allowed}; got 'joy'" in said
