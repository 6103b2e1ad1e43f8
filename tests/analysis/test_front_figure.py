"""The front's figure, and the bars: that they can be read, and show what the tables say."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.figures import front_figure, labels
from analysis.figures.breakdown import breakdown
from analysis.figures.captions import STROKE
from analysis.figures.crowded import NAMED
from analysis.tables.front import mark
from tests.helpers.analysed import mobilenet, tables_of
from tests.helpers.fake_plan import PAPER_LINKS, TWO_LINKS, make, tiny_table
from tests.helpers.fake_run import FakeRun
from tests.helpers.figures import (
    assert_readable,
    assert_texts_are_clear,
    files_of,
    names,
    one_page,
    overlapping,
    shown_texts,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def smoke_front(smoke: pd.DataFrame, stages: pd.DataFrame) -> Figure:
    return one_page(front_figure.front(smoke, stages))


def at(table: pd.DataFrame, latency: object, throughput: object) -> pd.DataFrame:
    """The same points elsewhere."""
    return mark(table.assign(latency_median_ms=latency, throughput_images_s=throughput))


def test_the_default_experiments_front_names_every_point_once(
    smoke: pd.DataFrame, stages: pd.DataFrame
) -> None:
    figure = one_page(front_figure.front(smoke, stages))
    assert_readable(figure, 42 + smoke["on_front"].sum())
    by_panel = [
        [text.get_text() for text in names(figure) if text.axes is axes] for axes in figure.axes
    ]
    assert [len(texts) for texts in by_panel] == [smoke["on_front"].sum(), 21, 21]
    expected = {"all on pi", "all on server", *(f"f.{n}" for n in range(19))}
    assert set(by_panel[1]) == set(by_panel[2]) == expected


def test_all_texts_of_a_figure_are_inside_it_and_clear_of_each_other(
    smoke: pd.DataFrame, stages: pd.DataFrame, smoke_front: Figure
) -> None:
    few = smoke[(smoke["link"] == "none") & smoke["position"].isin([0, 3, 9, 20])]
    narrow = (*front_figure.front(few, stages), *breakdown(few, stages))
    for figure in (smoke_front, *breakdown(smoke, stages), *narrow):
        assert_texts_are_clear(figure)


def test_the_first_panel_shows_how_the_front_moves(
    smoke: pd.DataFrame, smoke_front: Figure
) -> None:
    shown = [text for text in names(smoke_front) if text.axes is smoke_front.axes[0]]
    best = smoke[smoke["on_front"]]
    assert len(shown) == len(best) and len({text.get_color() for text in shown}) == 2
    steps = [line for line in smoke_front.axes[0].lines if line.get_drawstyle() == "steps-post"]
    assert [len(line.get_xdata()) for line in steps] == list(best.groupby("link").size())


def test_names_do_not_cover_markers(smoke: pd.DataFrame, smoke_front: Figure) -> None:
    renderer = FigureCanvasAgg(smoke_front).get_renderer()
    for axes, link in zip(smoke_front.axes[1:], ["none", "rate20"], strict=True):
        table = smoke[smoke["link"] == link]
        spots = axes.transData.transform(table[[front_figure.LATENCY, front_figure.THROUGHPUT]])
        for text in axes.texts:
            box = text.get_window_extent(renderer)
            assert not any(box.contains(x, y) for x, y in spots), text.get_text()


@pytest.mark.parametrize("case", ["one spot", "one line", "two heaps", "nearly one spot"])
def test_crowded_points_stay_readable(smoke: pd.DataFrame, stages: pd.DataFrame, case: str) -> None:
    count = np.arange(len(smoke))
    latency, throughput = {
        "one spot": (50.0, 20.0),
        "one line": (50.0, 20 + count * 0.01),
        "two heaps": (np.where(count % 2, 10.0, 1000.0), np.where(count % 2, 90.0, 1.0)),
        "nearly one spot": (50 + count * 1e-6, 20 - count * 1e-6),
    }[case]
    table = at(smoke, latency, throughput)
    # Where all are on the front, the panel of all links has more than it can name.
    figure = one_page(front_figure.front(table, stages))
    assert_readable(figure, 42 + min(NAMED, table["on_front"].sum()))


def test_long_names_in_one_spot_of_a_full_panel(smoke: pd.DataFrame, stages: pd.DataFrame) -> None:
    table = pd.concat([smoke.iloc[:20], smoke.iloc[:10]], ignore_index=True)
    table["split"] = [f"InceptionAux_{n}_branch_pool_conv_bn" for n in range(NAMED)]
    latency = [50.0] * (NAMED - 2) + [1.0, 5000.0]
    figure = one_page(front_figure.front(at(table, latency, 20.0), stages))
    assert_readable(figure, NAMED)


def test_six_links_have_six_colours_and_readable_panels(tmp_path: Path) -> None:
    links = [*PAPER_LINKS, {"name": "rate20", "rate_mbit": 20}, {"name": "d5", "delay_ms": 5}]
    table, stages = mobilenet(tmp_path, links, count=6)
    figure = one_page(front_figure.front(table, stages))
    assert_readable(figure, 36 + table["on_front"].sum())
    colours = {
        line.get_color()
        for axes in figure.axes[1:]
        for line in axes.lines
        if line.get_drawstyle() == "steps-post"
    }
    assert len(colours) == 6


def test_points_on_one_spot_are_drawn_as_rings_around_each_other(
    smoke: pd.DataFrame, stages: pd.DataFrame
) -> None:
    one = smoke[smoke["link"] == "none"].iloc[:3]
    figure = one_page(front_figure.front(at(one, 50.0, 20.0), stages))
    marks = [line for line in figure.axes[0].lines if line.get_gid() == front_figure.GID]
    assert len({line.get_markersize() for line in marks}) == len(marks) == 3


def test_the_front_is_filled_and_joined_and_the_rest_is_hollow(
    smoke: pd.DataFrame, stages: pd.DataFrame
) -> None:
    link = smoke[smoke["link"] == "none"]
    panel = one_page(front_figure.front(link, stages)).axes[0]
    step = next(line for line in panel.lines if line.get_drawstyle() == "steps-post")
    best = link[link["on_front"]].sort_values("latency_median_ms")
    assert np.allclose(step.get_xdata(), best["latency_median_ms"])
    marks = [line for line in panel.lines if line.get_gid() == front_figure.GID]
    filled = [line for line in marks if line.get_markerfacecolor() == line.get_color()]
    spots = np.concatenate([line.get_xdata() for line in filled])
    assert sorted(spots) == pytest.approx(list(best["latency_median_ms"]))
    assert sum(len(line.get_xdata()) for line in marks) == len(link)


def test_each_backend_has_panels_of_its_own(tmp_path: Path) -> None:
    plan = make(tiny_table(), links=TWO_LINKS, backends=["tcp", "rpc"])
    tables = tables_of(FakeRun(tmp_path / "run", plan, items=8).all_sessions())
    titles = [axes.get_title(loc="left") for axes in one_page(front_figure.front(*tables)).axes]
    assert titles == [
        f"{link}, {backend}"
        for backend in ("tcp", "rpc")
        for link in ("fronts of all links", "none (unshaped)", "rate20 (20 Mbit/s)")
    ]


def test_bars_hold_the_stages_and_the_rest_of_the_latency(
    smoke: pd.DataFrame, stages: pd.DataFrame
) -> None:
    link = smoke[smoke["link"] == "rate20"]
    panel = one_page(breakdown(link, stages)).axes[0]
    heights = np.array([[bar.get_height() for bar in part] for part in panel.containers])
    assert heights.shape == (3, 21)
    last = stages[stages["rank"] == 1].set_index("point")["compute_ms"]
    computed = last.reindex(link["point"])
    assert np.allclose(heights[1], computed.fillna(0))
    assert np.allclose(heights.sum(axis=0), link["latency_median_ms"], rtol=1e-3)
    ticks = [text.get_text() for text in panel.get_xticklabels()]
    assert ticks == ["all on server", *(f"f.{n}" for n in range(19)), "all on pi"]


def test_failed_points_are_told_in_both_figures(smoke: pd.DataFrame, stages: pd.DataFrame) -> None:
    table = smoke.copy()
    lost = table.index[4]
    table.loc[lost, "status"] = "failed"
    table.loc[lost, ["latency_median_ms", "throughput_images_s"]] = np.nan
    table = mark(table)
    front = one_page(front_figure.front(table, stages))
    assert len(names(front)) == 41 + table["on_front"].sum()
    for figure in (front, one_page(breakdown(table, stages))):
        assert "1 of 42 points have no figures" in figure.legends[0].get_title().get_text()


def test_disturbed_points_are_struck_out_and_stay_on_the_front(
    smoke: pd.DataFrame, stages: pd.DataFrame
) -> None:
    link = smoke[smoke["link"] == "none"]
    best = link[link["on_front"]].index[0]
    table = smoke.assign(disturbed=(smoke.index == best) | (smoke.index == link.index[9]))
    figure = one_page(front_figure.front(table, stages))
    struck = [
        [x for line in axes.lines if line.get_marker() is STROKE for x in line.get_xdata()]
        for axes in figure.axes
    ]
    # The front's in the panel of all links too.
    assert [len(spots) for spots in struck] == [1, 2, 0]
    assert struck[0] == [smoke.loc[best, "latency_median_ms"]]
    assert_readable(figure, 42 + smoke["on_front"].sum())
    legend = figure.legends[0]
    assert "host disturbed: 2 of 42 points" in legend.get_title().get_text()
    assert "host disturbed" in [text.get_text() for text in legend.get_texts()]
    texts = shown_texts(figure)
    assert not overlapping(texts, figure)


def test_emulation_and_short_names_are_explained(smoke_front: Figure) -> None:
    text = smoke_front.legends[0].get_title().get_text()
    assert "device_emulated: computation stretched on pi (3 times)" in text
    assert "f.18 stands for features.18" in text


def test_files_are_png_and_svg_with_text_as_text(
    smoke: pd.DataFrame, stages: pd.DataFrame, tmp_path: Path
) -> None:
    files = files_of(smoke, stages, tmp_path)
    assert [file.name for file in files] == [
        f"{figure}-mobilenet_v2.{kind}"
        for figure in ("front", "breakdown")
        for kind in ("png", "svg")
    ]
    texts = {
        "".join(node.itertext()).strip()
        for node in ElementTree.parse(files[1]).iter("{http://www.w3.org/2000/svg}text")
    }
    assert {"f.7", "all on pi", "rate20 (20 Mbit/s)"} <= texts


def test_a_model_without_any_measured_point_has_no_figure(
    smoke: pd.DataFrame, stages: pd.DataFrame, tmp_path: Path
) -> None:
    assert files_of(smoke.assign(status="failed"), stages, tmp_path) == []


def test_short_names_stay_different() -> None:
    given = ["features.0", "features.1", "classifier.0", "avgpool", "layer1.0", "layer2.0"]
    short = labels.shorten(given)
    assert len(set(short.values())) == len(given)
    assert [short[name] for name in given] == [
        "f.0",
        "f.1",
        "c.0",
        "avgpool",
        "layer1.0",
        "layer2.0",
    ]
