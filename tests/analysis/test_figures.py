"""Figures that can be read: of the size of a page, no two names on top of each other."""

from __future__ import annotations

import doctest
import itertools
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.markers import CARETDOWN
from matplotlib.text import Text

from analysis.figures import front_figure, labels
from analysis.figures import pages as pages_module
from analysis.figures.captions import STROKE
from analysis.figures.crowded import NAMED
from analysis.figures.pages import PAGE_IN
from analysis.figures.style import DPI
from analysis.run import read
from analysis.tables.front import mark
from analysis.tables.points import points
from paretopipe_worker.cuts import FIRST, LAST
from tests.helpers.fake_run import (
    PAPER_LINKS,
    TWO_LINKS,
    FakeRun,
    make,
    mobilenet_table,
    tiny_table,
)


def table_of(tmp_path: Path, links: list[object], count: int = 21) -> pd.DataFrame:
    """Points of a made-up run of MobileNetV2, the first `count` of each link."""
    plan = make(mobilenet_table(), links=links)
    table = points(read(FakeRun(tmp_path / "run", plan, items=8).all_sessions().path))
    return table[table["position"] < count]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return table_of(tmp_path_factory.mktemp("smoke"), TWO_LINKS)


@pytest.fixture(scope="module")
def smoke_front(smoke: pd.DataFrame) -> Figure:
    return one_page(front_figure.front(smoke))


def one_page(pages: list[Figure]) -> Figure:
    """The figure of a run that is small enough for one page."""
    [figure] = pages
    assert_fits_a_page(figure)
    return figure


def assert_fits_a_page(figure: Figure) -> None:
    """No wider and no higher than a page."""
    width, height = figure.get_size_inches()
    assert width <= PAGE_IN[0] and height <= PAGE_IN[1]


def at(table: pd.DataFrame, latency: object, throughput: object) -> pd.DataFrame:
    """The same points elsewhere."""
    return mark(table.assign(latency_median_ms=latency, throughput_images_s=throughput))


def names(figure: Figure) -> list[Text]:
    """The names of points in a figure."""
    return [text for axes in figure.axes for text in axes.texts if text.get_gid() == labels.GID]


def overlapping(texts: list[Text], figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts whose rendered boxes overlap."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts]
    return [
        (first, second)
        for (first, a), (second, b) in itertools.combinations(boxes, 2)
        if a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1
    ]


def assert_readable(figure: Figure, count: int) -> None:
    """So many points named, inside their panel, clear of each other."""
    found = names(figure)
    assert len(found) == count
    assert not overlapping(found, figure)
    renderer = FigureCanvasAgg(figure).get_renderer()
    for text in found:
        box, frame = text.get_window_extent(renderer), text.axes.get_window_extent()
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1, text.get_text()
        assert frame.y0 <= box.y0 and box.y1 <= frame.y1, text.get_text()


def test_the_default_experiments_front_names_every_point_once(smoke: pd.DataFrame) -> None:
    figure = one_page(front_figure.front(smoke))
    assert_readable(figure, 42 + smoke["on_front"].sum())
    by_panel = [
        [text.get_text() for text in names(figure) if text.axes is axes] for axes in figure.axes
    ]
    assert [len(texts) for texts in by_panel] == [smoke["on_front"].sum(), 21, 21]
    expected = {"@first", "@last", *(f"f.{n}" for n in range(19))}
    assert set(by_panel[1]) == set(by_panel[2]) == expected


def shown_texts(figure: Figure) -> list[Text]:
    """All texts that a reader sees."""
    FigureCanvasAgg(figure).draw()
    # Ticks beyond the limits are there but not drawn.
    beyond = {
        tick.label1
        for axes in figure.axes
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim()))
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        if not low <= tick.get_loc() <= high
    }
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    return [text for text in texts if text not in beyond]


def assert_texts_are_clear(figure: Figure) -> None:
    """All texts are inside the figure, and none covers another."""
    texts = shown_texts(figure)
    assert len(texts) > 15
    assert not overlapping(texts, figure)
    renderer = FigureCanvasAgg(figure).get_renderer()
    for text in texts:
        box = text.get_window_extent(renderer)
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, text.get_text()
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, text.get_text()


def test_all_texts_of_a_figure_are_inside_it_and_clear_of_each_other(
    smoke: pd.DataFrame, smoke_front: Figure
) -> None:
    few = smoke[(smoke["link"] == "none") & smoke["position"].isin([0, 3, 9, 20])]
    narrow = (*front_figure.front(few), *front_figure.breakdown(few))
    for figure in (smoke_front, *front_figure.breakdown(smoke), *narrow):
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
def test_crowded_points_stay_readable(smoke: pd.DataFrame, case: str) -> None:
    count = np.arange(len(smoke))
    latency, throughput = {
        "one spot": (50.0, 20.0),
        "one line": (50.0, 20 + count * 0.01),
        "two heaps": (np.where(count % 2, 10.0, 1000.0), np.where(count % 2, 90.0, 1.0)),
        "nearly one spot": (50 + count * 1e-6, 20 - count * 1e-6),
    }[case]
    table = at(smoke, latency, throughput)
    # Where all are on the front, the panel of all links has more than it can name.
    figure = one_page(front_figure.front(table))
    assert_readable(figure, 42 + min(NAMED, table["on_front"].sum()))


def test_long_names_in_one_spot_of_a_full_panel(smoke: pd.DataFrame) -> None:
    table = pd.concat([smoke.iloc[:20], smoke.iloc[:10]], ignore_index=True)
    table["split"] = [f"InceptionAux_{n}_branch_pool_conv_bn" for n in range(NAMED)]
    latency = [50.0] * (NAMED - 2) + [1.0, 5000.0]
    figure = one_page(front_figure.front(at(table, latency, 20.0)))
    assert_readable(figure, NAMED)


CUTS, LINKS = 120, 5


@pytest.fixture(scope="module")
def large(smoke: pd.DataFrame) -> pd.DataFrame:
    """Very many op cuts over several links: a cloud for each, of which a tenth fails."""
    chance = np.random.default_rng(11)
    cuts = [FIRST, *(f"features.{n // 6}.block.{n % 6}" for n in range(CUTS - 2)), LAST]
    rows = smoke.iloc[np.zeros(CUTS * LINKS, dtype=int)].reset_index(drop=True)
    spread = np.exp(0.3 * chance.standard_normal((2, len(rows))))
    number = np.arange(len(rows))
    table = rows.assign(
        point=[f"p{n}" for n in number],
        split=cuts * LINKS,
        position=CUTS - 1 - number % CUTS,
        link=[f"link{n // CUTS}" for n in number],
        latency_median_ms=50 * (1 + number // CUTS) * spread[0],
        throughput_images_s=20 * spread[0] * spread[1],
        stage0_compute_ms=20.0,
        status=np.where(number % 10 == 5, "failed", "ok"),
    )
    table.loc[table["status"] == "failed", [front_figure.LATENCY, front_figure.THROUGHPUT]] = np.nan
    return mark(table)


def test_figures_of_a_large_run_keep_to_pages(large: pd.DataFrame, tmp_path: Path) -> None:
    for left in ("front-mobilenet_v2-9.png", "front-mobilenet_v2-9x.png"):
        (tmp_path / left).touch()
    files = front_figure.draw(large, tmp_path)
    # Six panels and five rows of bars: a page of each.
    assert {file.name for file in files} == {
        f"{kind}-mobilenet_v2.{ending}"
        for kind in ("front", "breakdown")
        for ending in ("png", "svg")
    }
    for file in files:
        if file.suffix == ".png":
            height, width, _ = mpl.image.imread(file).shape
            assert width <= PAGE_IN[0] * DPI
            assert height <= PAGE_IN[1] * DPI
    # Pages of an earlier analysis are taken away, other files are not.
    assert not (tmp_path / "front-mobilenet_v2-9.png").exists()
    assert (tmp_path / "front-mobilenet_v2-9x.png").exists()


def test_a_panel_of_many_points_names_its_front_and_the_endpoints(large: pd.DataFrame) -> None:
    figure = one_page(front_figure.front(large))
    short = labels.shorten(list(large["split"].unique()))
    for link, axes in zip(large["link"].unique(), figure.axes[1:], strict=True):
        shown = large[(large["link"] == link) & (large["status"] == "ok")]
        named = shown[shown["on_front"] | shown["split"].isin([FIRST, LAST])]
        texts = [text.get_text() for text in names(figure) if text.axes is axes]
        assert sorted(texts) == sorted(short[split] for split in named["split"])
        drawn = sum(
            len(line.get_xdata()) for line in axes.lines if line.get_gid() == front_figure.GID
        )
        assert drawn == len(shown), "a mark for every point"
    assert_readable(figure, len(names(figure)))
    note = figure.legends[0].get_title().get_text()
    assert f"panels of more than {NAMED} points name those on a front and the endpoints" in note
    assert "points.csv" in note
    texts = shown_texts(figure)
    assert not overlapping(texts, figure)


def test_a_front_of_many_points_names_its_ends_and_some_between(large: pd.DataFrame) -> None:
    count = np.arange(len(large))
    table = at(large.assign(status="ok"), 50 + count % CUTS, 20.0 + count % CUTS)
    link = table[table["link"] == "link0"]
    figure = one_page(front_figure.front(link))
    texts = {text.get_text() for text in names(figure)}
    assert len(texts) == NAMED and {FIRST, LAST} <= texts


def test_names_without_room_are_left_out_and_that_is_told(smoke: pd.DataFrame) -> None:
    """Such names as no page is wide enough for, beside some that fit."""
    link = smoke[smoke["link"] == "none"].reset_index(drop=True)
    best = link["on_front"]
    split = link["split"].where(best, [f"{'very_long' * 40}_{n}" for n in range(len(link))])
    pages = front_figure.front(link.assign(split=split))
    figure = one_page(pages)
    assert_readable(figure, best.sum())
    note = figure.legends[0].get_title().get_text().replace("\n", " ")
    assert "names for which there was no room are left out" in note


def test_panels_of_many_conditions_take_pages_of_their_own(smoke: pd.DataFrame) -> None:
    table = pd.concat(
        [smoke[smoke["position"] < 3].assign(batch=2**n) for n in range(5)], ignore_index=True
    )
    for pages, panels in ((front_figure.front(table), 3), (front_figure.breakdown(table), 2)):
        assert sum(len(page.axes) for page in pages) == 5 * panels and len(pages) > 1
        for number, page in enumerate(pages, start=1):
            assert_fits_a_page(page)
            assert f"(page {number} of {len(pages)})" in page.get_suptitle()


def test_bars_of_many_cuts_touch_and_only_the_front_and_the_endpoints_are_named(
    large: pd.DataFrame,
) -> None:
    figure = one_page(front_figure.breakdown(large))
    assert len(figure.axes) == LINKS
    for link, axes in zip(large["link"].unique(), figure.axes, strict=True):
        shown = large[large["link"] == link]
        [mark_of_front] = [line for line in axes.lines if line.get_marker() == CARETDOWN]
        assert len(mark_of_front.get_xdata()) == shown["on_front"].sum()
        [failed] = [line for line in axes.lines if line.get_marker() == "x"]
        assert len(failed.get_xdata()) == (shown["status"] == "failed").sum()
        parts = {patch.get_label(): patch for patch in axes.patches}
        computed = parts["stage 0 compute"].get_data().values
        assert len(computed) == CUTS and set(computed) == {20.0}
    ticks = [text.get_text() for text in figure.axes[-1].get_xticklabels()]
    best = labels.shorten(list(large["split"].unique()))
    wanted = large[large["on_front"] | large["split"].isin([FIRST, LAST])]["split"]
    assert {FIRST, LAST} < set(ticks) <= {best[split] for split in wanted}
    assert_texts_are_clear(figure)
    note = figure.legends[0].get_title().get_text()
    assert f"of more than {NAMED} cuts the endpoints and those on a front are named" in note


def test_examples_of_pages_are_true() -> None:
    assert doctest.testmod(pages_module).failed == 0


def test_six_links_have_six_colours_and_readable_panels(tmp_path: Path) -> None:
    links = [*PAPER_LINKS, {"name": "rate20", "rate_mbit": 20}, {"name": "d5", "delay_ms": 5}]
    table = table_of(tmp_path, links, count=6)
    figure = one_page(front_figure.front(table))
    assert_readable(figure, 36 + table["on_front"].sum())
    colours = {
        line.get_color()
        for axes in figure.axes[1:]
        for line in axes.lines
        if line.get_drawstyle() == "steps-post"
    }
    assert len(colours) == 6


def test_points_on_one_spot_are_drawn_as_rings_around_each_other(smoke: pd.DataFrame) -> None:
    one = smoke[smoke["link"] == "none"].iloc[:3]
    figure = one_page(front_figure.front(at(one, 50.0, 20.0)))
    marks = [line for line in figure.axes[0].lines if line.get_gid() == front_figure.GID]
    assert len({line.get_markersize() for line in marks}) == len(marks) == 3


def test_the_front_is_filled_and_joined_and_the_rest_is_hollow(smoke: pd.DataFrame) -> None:
    link = smoke[smoke["link"] == "none"]
    panel = one_page(front_figure.front(link)).axes[0]
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
    table = points(read(FakeRun(tmp_path / "run", plan, items=8).all_sessions().path))
    titles = [axes.get_title(loc="left") for axes in one_page(front_figure.front(table)).axes]
    assert titles == [
        f"{link}, {backend}"
        for backend in ("tcp", "rpc")
        for link in ("fronts of all links", "none (unshaped)", "rate20 (20 Mbit/s)")
    ]


def test_bars_hold_the_stages_and_the_rest_of_the_latency(smoke: pd.DataFrame) -> None:
    link = smoke[smoke["link"] == "rate20"]
    panel = one_page(front_figure.breakdown(link)).axes[0]
    heights = np.array([[bar.get_height() for bar in part] for part in panel.containers])
    assert heights.shape == (3, 21)
    assert np.allclose(heights[1], link["stage1_compute_ms"].fillna(0))
    assert np.allclose(heights.sum(axis=0), link["latency_median_ms"], rtol=1e-3)
    ticks = [text.get_text() for text in panel.get_xticklabels()]
    assert ticks == ["@last", *(f"f.{n}" for n in range(19)), "@first"]


def test_failed_points_are_told_in_both_figures(smoke: pd.DataFrame) -> None:
    table = smoke.copy()
    lost = table.index[4]
    table.loc[lost, "status"] = "failed"
    table.loc[lost, ["latency_median_ms", "throughput_images_s", "stage0_compute_ms"]] = np.nan
    table = mark(table)
    front = one_page(front_figure.front(table))
    assert len(names(front)) == 41 + table["on_front"].sum()
    for figure in (front, one_page(front_figure.breakdown(table))):
        assert "1 of 42 points have no figures" in figure.legends[0].get_title().get_text()


def test_disturbed_points_are_struck_out_and_stay_on_the_front(smoke: pd.DataFrame) -> None:
    link = smoke[smoke["link"] == "none"]
    best = link[link["on_front"]].index[0]
    table = smoke.assign(disturbed=(smoke.index == best) | (smoke.index == link.index[9]))
    figure = one_page(front_figure.front(table))
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


def test_files_are_png_and_svg_with_text_as_text(smoke: pd.DataFrame, tmp_path: Path) -> None:
    files = front_figure.draw(smoke, tmp_path)
    assert [file.name for file in files] == [
        f"{figure}-mobilenet_v2.{kind}"
        for figure in ("front", "breakdown")
        for kind in ("png", "svg")
    ]
    texts = {
        "".join(node.itertext()).strip()
        for node in ElementTree.parse(files[1]).iter("{http://www.w3.org/2000/svg}text")
    }
    assert {"f.7", "@first", "rate20 (20 Mbit/s)"} <= texts


def test_a_model_without_any_measured_point_has_no_figure(
    smoke: pd.DataFrame, tmp_path: Path
) -> None:
    assert front_figure.draw(smoke.assign(status="failed"), tmp_path) == []


def test_short_names_stay_different() -> None:
    given = ["features.0", "features.1", "classifier.0", "avgpool", "layer1.0", "layer2.0", "@last"]
    short = labels.shorten(given)
    assert len(set(short.values())) == len(given)
    assert [short[name] for name in given] == [
        "f.0",
        "f.1",
        "c.0",
        "avgpool",
        "layer1.0",
        "layer2.0",
        "@last",
    ]
