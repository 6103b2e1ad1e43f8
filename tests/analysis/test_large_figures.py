"""Figures of runs with more points, names or conditions than a page has room for."""

from __future__ import annotations

import doctest
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.markers import CARETDOWN

from analysis.figures import front_figure
from analysis.figures import names as names_of_splits
from analysis.figures import pages as pages_module
from analysis.figures.breakdown import breakdown
from analysis.figures.crowded import NAMED
from analysis.figures.pages import PAGE_IN, all_named
from analysis.figures.style import DPI
from analysis.tables.front import mark
from paretopipe_worker.cuts import FIRST, LAST
from tests.helpers.figures import (
    assert_fits_a_page,
    assert_readable,
    assert_texts_are_clear,
    files_of,
    names,
    one_page,
    overlapping,
    shown_texts,
)

pytestmark = pytest.mark.slow


def at(table: pd.DataFrame, latency: object, throughput: object) -> pd.DataFrame:
    """The same points elsewhere."""
    return mark(table.assign(latency_median_ms=latency, throughput_images_s=throughput))


CUTS, LINKS = 120, 5
ENDS = ("all on pi", "all on server")


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
        status=np.where(number % 10 == 5, "failed", "ok"),
    )
    table.loc[table["status"] == "failed", [front_figure.LATENCY, front_figure.THROUGHPUT]] = np.nan
    return mark(table)


@pytest.fixture(scope="module")
def large_stages(large: pd.DataFrame) -> pd.DataFrame:
    """What a breakdown needs of its stages."""
    of_rank = {"rank": 0, "host": "pi", "device_emulated": 3.0, "compute_ms": 20.0}
    return large[["point"]].assign(**of_rank)


def test_figures_of_a_large_run_keep_to_pages(
    large: pd.DataFrame, large_stages: pd.DataFrame, tmp_path: Path
) -> None:
    for left in ("front-mobilenet_v2-9.png", "front-mobilenet_v2-9x.png"):
        (tmp_path / left).touch()
    files = files_of(large, large_stages, tmp_path)
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


def test_a_panel_of_many_points_names_its_front_and_the_endpoints(
    large: pd.DataFrame, large_stages: pd.DataFrame
) -> None:
    figure = one_page(front_figure.front(large, large_stages))
    called = names_of_splits.called(large)
    for link, axes in zip(large["link"].unique(), figure.axes[1:], strict=True):
        shown = large[(large["link"] == link) & (large["status"] == "ok")]
        named = shown[shown["on_front"] | shown["split"].isin([FIRST, LAST])]
        texts = [text.get_text() for text in names(figure) if text.axes is axes]
        assert sorted(texts) == sorted(called[named.index])
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


def test_a_front_of_many_points_names_its_ends_and_some_between(
    large: pd.DataFrame, large_stages: pd.DataFrame
) -> None:
    count = np.arange(len(large))
    table = at(large.assign(status="ok"), 50 + count % CUTS, 20.0 + count % CUTS)
    link = table[table["link"] == "link0"]
    figure = one_page(front_figure.front(link, large_stages))
    texts = {text.get_text() for text in names(figure)}
    assert len(texts) == NAMED and set(ENDS) <= texts


def test_names_without_room_are_left_out_and_that_is_told(
    smoke: pd.DataFrame, stages: pd.DataFrame
) -> None:
    """Such names as no page is wide enough for, beside some that fit."""
    link = smoke[smoke["link"] == "none"].reset_index(drop=True)
    best = link["on_front"]
    split = link["split"].where(best, [f"{'very_long' * 40}_{n}" for n in range(len(link))])
    pages = front_figure.front(link.assign(split=split), stages)
    figure = one_page(pages)
    assert_readable(figure, best.sum())
    note = figure.legends[0].get_title().get_text().replace("\n", " ")
    assert "names for which there was no room are left out" in note


def test_panels_of_many_conditions_take_pages_of_their_own(
    smoke: pd.DataFrame, stages: pd.DataFrame
) -> None:
    table = pd.concat(
        [smoke[smoke["position"] < 3].assign(batch=2**n) for n in range(5)], ignore_index=True
    )
    for pages, panels in (
        (front_figure.front(table, stages), 3),
        (breakdown(table, stages), 2),
    ):
        assert sum(len(page.axes) for page in pages) == 5 * panels and len(pages) > 1
        for number, page in enumerate(pages, start=1):
            assert_fits_a_page(page)
            assert f"(page {number} of {len(pages)})" in page.get_suptitle()


def test_bars_of_many_cuts_touch_and_only_the_front_and_the_endpoints_are_named(
    large_stages: pd.DataFrame,
    large: pd.DataFrame,
) -> None:
    figure = one_page(breakdown(large, large_stages))
    assert len(figure.axes) == LINKS
    for link, axes in zip(large["link"].unique(), figure.axes, strict=True):
        shown = large[large["link"] == link]
        [mark_of_front] = [line for line in axes.lines if line.get_marker() == CARETDOWN]
        assert len(mark_of_front.get_xdata()) == shown["on_front"].sum()
        [failed] = [line for line in axes.lines if line.get_marker() == "x"]
        assert len(failed.get_xdata()) == (shown["status"] == "failed").sum()
        parts = {patch.get_label(): patch for patch in axes.patches}
        computed = parts["stage 0 compute"].get_data().values  # type: ignore[attr-defined]
        assert len(computed) == CUTS and set(computed) == {20.0}
    ticks = [text.get_text() for text in figure.axes[-1].get_xticklabels()]
    wanted = large["on_front"] | large["split"].isin([FIRST, LAST])
    assert set(ENDS) < set(ticks) <= set(names_of_splits.called(large)[wanted])
    assert_texts_are_clear(figure)
    note = figure.legends[0].get_title().get_text()
    assert f"of more than {NAMED} splits the endpoints and those on a front are named" in note


def test_examples_of_pages_are_true() -> None:
    assert doctest.testmod(pages_module).failed == 0


def test_pages_are_made_no_further_than_the_first_name_that_has_no_room() -> None:
    made: list[int] = []

    def pages(*unnamed: int) -> Iterator[tuple[Figure, int]]:
        for number in unnamed:
            made.append(number)
            yield Figure(), number

    assert all_named(pages(0, 2, 0)) is None
    assert made == [0, 2]
    assert len(all_named(pages(0, 0)) or ()) == 2
