"""The band in a figure of fronts that shows how far replicates differ."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from analysis.figures.front_figure import LATENCY, THROUGHPUT, front
from analysis.measures.replicates import replicates
from analysis.run import read
from analysis.tables.attainment import attainment
from analysis.tables.points import points
from analysis.tables.stages import stages
from tests.helpers.fake_plan import TWO_LINKS, make, tiny_table
from tests.helpers.fake_run import FakeRun
from tests.helpers.figures import assert_texts_are_clear, one_page

SAID = "attained by some replicates only"


def drawn(path: Path, count: int) -> tuple[Figure, list[float]]:
    """The figure of a run of so many replicates, and the best latency that any attained."""
    plan = make(tiny_table(), links=TWO_LINKS, replicates=count)
    run = read(FakeRun(path, plan, items=8, noise=0.1).all_sessions().path)
    measured = replicates(run)
    table = points(run, measured=measured)
    surfaces = attainment(table, measured)
    best = surfaces[surfaces["level"] == "best"].groupby("link", sort=False)[LATENCY].min()
    return one_page(front(table, stages(run, measured), surfaces)), best.tolist()


def bands(figure: Figure) -> list[list[PolyCollection]]:
    """The bands of each panel."""
    return [
        [each for each in axes.collections if isinstance(each, PolyCollection)]
        for axes in figure.axes
    ]


def test_the_band_reaches_from_what_one_replicate_attained_to_what_all_did(tmp_path: Path) -> None:
    figure, best = drawn(tmp_path / "run", 3)
    both, *single = bands(figure)
    assert len(both) == 2 and [len(panel) for panel in single] == [1, 1]
    for (band,), axes, least in zip(single, figure.axes[1:], best, strict=True):
        extent = band.get_paths()[0].get_extents()
        assert extent.x0 == pytest.approx(least)
        assert extent.x1 <= axes.get_xlim()[1] and extent.y1 <= axes.get_ylim()[1], THROUGHPUT
    assert SAID in [text.get_text() for text in figure.legends[0].get_texts()]
    assert_texts_are_clear(figure)


def test_two_replicates_have_no_band_and_the_caption_says_why(tmp_path: Path) -> None:
    figure, _ = drawn(tmp_path / "run", 2)
    assert not any(bands(figure))
    assert SAID not in [text.get_text() for text in figure.legends[0].get_texts()]
    texts = " ".join(
        text.get_text().replace("\n", " ")
        for text in figure.findobj(match=None)
        if hasattr(text, "get_text")
    )
    assert "no interval is shown: fewer than 3 replicates" in texts
