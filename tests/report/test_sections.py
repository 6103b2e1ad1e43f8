"""The sections of a report that only some runs have, and the map, in a browser."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Browser

from analysis.column import OBJECTIVES
from analysis.measures.replicates import replicates
from analysis.prediction.costs import Costs
from analysis.prediction.parts import Parts, group_of
from analysis.run import read
from paretopipe_worker.plan.labels import everything_on
from tests.helpers.pages import Report, over
from tests.helpers.traced import SLOWER, UNKNOWN

LATENCY, THROUGHPUT = OBJECTIVES
NAMES = ("attainment", "load", "segments")


def own_of(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the open link, of which these sections show those of splits worth it."""
    return table[table["link"] == "none"]


def figures(text: str) -> list[float]:
    """The numbers in a text."""
    return [float(each.replace(",", "")) for each in re.findall(r"\d[\d,.]*\d|\d", text)]


def test_each_section_shows_one_case_and_follows_the_filters(report: Report) -> None:
    for name in NAMES:
        plot = f"#{name}-plot"
        choice = report.page.locator(f"#{name}-choice select")
        assert choice.locator("option").count() == 2
        before = report.page.locator(plot).inner_html()
        choice.focus()
        choice.select_option(index=1)
        assert report.page.locator(plot).inner_html() != before
        assert report.page.evaluate("document.activeElement.tagName") == "SELECT"
    report.page.get_by_label("Link", exact=True).select_option(label="none (unshaped)")
    for name in NAMES:
        assert report.count(f"#{name}-choice select") == 0
        assert report.count(f"#{name}-plot svg .front") > 1
    assert report.overflow <= 0


def test_load_has_a_line_for_each_split_worth_it_and_names_the_highest_rate_before_the_knee(
    report: Report, run: Path
) -> None:
    curve = own_of(pd.read_csv(run / "load.csv"))
    points = own_of(pd.read_csv(run / "points.csv"))
    worth = curve[curve["on_front"]]
    assert report.count("#load-plot .front") == worth["split"].nunique() > 1
    assert report.count("#load-plot .dot") == worth[LATENCY].notna().sum()
    hollow = report.page.locator("#load-plot .dot circle[fill='var(--paper)']").count()
    assert hollow == worth["beyond_knee"].sum() > 0
    kept = worth[~worth["beyond_knee"].astype("bool")]
    best = kept.loc[kept["offered_images_s"].idxmax()]
    answer = report.page.locator("#load-answer").inner_text()
    said = figures(answer.partition("knee is ")[2])[0]
    assert said == pytest.approx(best["offered_images_s"], rel=0.01)
    report.page.get_by_text("The curves as a table").click()
    assert report.count("#load-table tbody tr") == len(worth)
    assert len(points) > worth["split"].nunique()


def test_segments_of_a_trace_have_their_lines_where_something_was_measured(
    report: Report, run: Path
) -> None:
    points = own_of(pd.read_csv(run / "points.csv"))
    ends = points["split"].isin(["@first", "@last"])
    shown = points[points["on_front"] | ends]
    assert report.count("#segments-plot .front") == len(shown)
    assert report.count("#segments-plot .dot") == len(shown) * (len(SLOWER) - 1)
    rows = report.texts("#segments-table tbody tr")
    assert len(rows) == len(SLOWER) - 1 and not rows[UNKNOWN].startswith(str(UNKNOWN))
    soonest = points.loc[points[LATENCY].idxmin(), "split"]
    assert all(row.split("\t")[-2] in (soonest, "all on server", "all on pi") for row in rows)
    axis = report.page.locator("#segments-plot .axis")
    assert "Latency (ms" in axis.all_text_contents()[1]
    report.page.get_by_label("Along the trace").select_option(label="Throughput")
    assert "Throughput (images/s" in axis.all_text_contents()[1]


def test_the_surfaces_say_how_far_the_ends_of_a_front_moved(report: Report, run: Path) -> None:
    table = own_of(pd.read_csv(run / "attainment.csv"))
    best, worst = (table[table["level"] == level] for level in ("best", "worst"))
    wanted = [
        *(each[LATENCY].min() for each in (best, worst)),
        *(each[THROUGHPUT].max() for each in (worst, best)),
    ]
    replicates, *said = figures(report.page.locator("#attainment-answer").inner_text())
    assert replicates == 3
    assert said == pytest.approx(wanted, rel=0.01)
    assert report.count("#attainment-plot .front") == 3
    assert report.count("#attainment-plot .area") == 1


def parts_of(run: Path) -> tuple[Costs, list[str]]:
    """The parts of the pipeline over the open link, and the names of its splits by their places."""
    known = read(run)
    points = [point for point in known.plan.points if point.link == "none"]
    parts = Parts(known, replicates(known))
    assert len({tuple(group_of(point).values()) for point in points}) == 1
    made = parts.costs(points[0], parts.sessions_of(points))
    named: dict[int, str] = {}
    for point in points:
        place = int(made.index([point.split])[0, 0])
        named[place] = everything_on(point.split, point.placement) or point.split[0]
    return made, [named[place] for place in range(len(made.places))]


def best_over(made: Costs, rate: float, delay: float, objective: str, window: int) -> set[int]:
    """The splits that are the best over a link, to within what rounding may change."""
    splits = np.arange(len(made.places))[:, None]
    there = over(made, rate, delay)
    values = {
        "latency": -there.latency_ms(splits),
        "throughput": there.throughput_per_s(splits, window),
    }[objective]
    return set(np.flatnonzero(values >= values.max() - 1e-6 * abs(values.max())).tolist())


@pytest.mark.parametrize("objective", ["latency", "throughput"])
def test_the_map_shows_which_split_is_the_best_and_where_that_changes(
    chromium: Browser, run: Path, objective: str
) -> None:
    made, named = parts_of(run)
    with Report.opened(chromium, run / "report.html") as report:
        report.page.get_by_label("Shown is which split").select_option(objective)
        window = figures(report.texts("#whatif-controls output")[2])[0]
        cells = report.page.evaluate(_CELLS)
        answer = report.page.locator("#map-answer").inner_text()
        report.slide("delay", "1 ms")
        moved = report.page.locator("#map-answer").inner_text()
        legend = report.texts("#map-legend li")
    for rate, delay, name in cells:
        # Places on the page are rounded.
        best = {
            named[split]
            for faster, later in itertools.product((0.98, 1, 1.02), repeat=2)
            for split in best_over(made, faster * rate, later * delay, objective, int(window))
        }
        assert name in best, (rate, delay)
    assert {name for *_, name in cells} <= set(legend)
    assert answer != moved and "With a delay of 1 ms each way" in moved
    borders = re.findall(r"([\w.@ ]+?) up to ([\d.,]+) Mbit/s", moved.partition(" would be ")[2])
    assert borders, moved
    for name, rate in borders:
        at = figures(rate)[0]
        below = best_over(made, 0.97 * at, 1, objective, int(window))
        above = best_over(made, 1.03 * at, 1, objective, int(window))
        assert name.strip() in {named[split] for split in below}, (name, rate)
        assert below != above or len(below) > 1


_CELLS: Any = """() => {
  const rects = [...document.querySelectorAll("#map-plot rect")];
  const box = rects.map(rect => rect.getBBox()), low = end => Math.min(...box.map(end));
  const left = low(each => each.x), top = low(each => each.y);
  const right = -low(each => -each.x - each.width);
  const bottom = -low(each => -each.y - each.height);
  const count = new Set(box.map(each => each.y)).size;
  const tall = (bottom - top) / count, wide = (right - left) / count;
  return rects.map((rect, place) => [
    0.1 * 1e5 ** ((box[place].x + wide / 2 - left) / (right - left)),
    0.1 * 1e4 ** ((bottom - box[place].y - tall / 2) / (bottom - top)),
    rect.querySelector("title").textContent,
  ]);
}"""
"""Rate, delay and split in the middle of the first cell of each run of equal cells of the map."""
