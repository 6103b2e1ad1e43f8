"""The report in a browser: what it shows, and what filters, sliders and keys do to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Browser

from analysis import pareto
from analysis.measures.replicates import replicates
from analysis.prediction.parts import Parts, group_of
from analysis.run import read
from analysis.tables.points import points
from tests.helpers.fake_plan import THREE, make, mobilenet_table, tiny_table
from tests.helpers.fake_run import FakeRun
from tests.helpers.pages import Report, over

MARKS = "#front-plot .mark"


def test_the_page_shows_every_point_and_fits_its_window(report: Report) -> None:
    assert report.count(MARKS) == 2 * 21
    assert report.count("#point-table tbody tr") == 2 * 21
    assert report.count("#network-table tbody tr") == 2
    assert report.count("#breakdown-plot svg > text.name") == 21
    assert report.overflow <= 0
    assert not report.page.locator(".static").is_visible()
    assert "of 42 points were measured on a disturbed host" in report.texts(".warning")[0]


def test_the_verdicts_come_first_after_what_to_be_wary_of(report: Report) -> None:
    tops = [
        report.page.locator(place).bounding_box()["y"]
        for place in (".lede", ".warning", "#answers", "#fronts", "#networks", "#whatif", "#again")
    ]
    assert tops == sorted(tops)


def test_a_filter_leaves_the_points_of_its_value(report: Report, run: Path) -> None:
    table = pd.read_csv(run / "points.csv")
    report.page.get_by_label("Link", exact=True).select_option(label="rate20 (20 Mbit/s)")
    assert report.count(MARKS) == report.count("#point-table tbody tr") == 21
    report.page.get_by_label("only the front").check()
    front = table[table["on_front"] & table["link"].eq("rate20")]
    assert report.count(MARKS) == report.count("#point-table tbody tr") == len(front)
    latency = report.texts("#point-table tbody td:nth-child(2)")
    assert float(latency[0].split()[0]) == pytest.approx(front["latency_median_ms"].min(), rel=0.01)
    # Only facets with a choice have a filter.
    assert report.count("#filters select") == 1


def test_the_table_is_sorted_by_its_heads(report: Report) -> None:
    head = report.page.locator("#point-table th").filter(has_text="Throughput")
    head.get_by_role("button").focus()
    for order in ("ascending", "descending"):
        report.page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == order
        told = report.texts("#point-table tbody td:nth-child(4)")
        shown = [float(text.split()[0].replace(",", "")) for text in told]
        assert shown == sorted(shown, reverse=order == "descending")


def test_keys_reach_every_mark_and_tell_of_it(report: Report, run: Path) -> None:
    page = report.page
    page.get_by_label("only the front").focus()
    page.keyboard.press("Tab")
    tip = page.locator("#front-plot .tip")
    table = pd.read_csv(run / "points.csv").sort_values("latency_median_ms")
    for latency in table["latency_median_ms"].head(3):
        assert f"{latency:.1f} ms" in tip.inner_text()
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.classList.contains('on')")
    assert "95 %" in tip.inner_text() and "probable" in tip.inner_text()
    page.keyboard.press("Enter")
    chosen = page.locator("#point-table tr[aria-selected]")
    assert chosen.locator("th").inner_text() == tip.locator("b").inner_text()


@pytest.mark.parametrize("hosts", [2, 3])
def test_sliders_compute_what_the_parts_of_the_pipeline_do(
    chromium: Browser, run: Path, tmp_path: Path, hosts: int
) -> None:
    if hosts == 3:
        plan = make(tiny_table(), hosts=THREE)
        pareto.analyse(run := FakeRun(tmp_path / "run", plan, items=8).all_sessions().path)
    known = read(run)
    point = next(point for point in known.plan.points if point.link == "none")
    parts = Parts(known, replicates(known))
    alike = [each for each in known.plan.points if group_of(each) == group_of(point)]
    made = over(parts.costs(point, parts.sessions_of(alike)), rate_mbit=5, delay_ms=400)
    splits = list(dict.fromkeys(each.split for each in known.plan.points))
    places = made.index(splits)
    latency, throughput = made.latency_ms(places), made.throughput_per_s(places, 8)
    with Report.opened(chromium, run / "report.html") as report:
        report.slide("rate", "5 Mbit/s")
        report.slide("delay", "400 ms")
        report.slide("window", "8 in flight")
        rows = report.page.locator("#whatif-table tbody tr")
        shown = [
            [float(row.get_attribute(name)) for name in ("data-latency", "data-throughput")]
            for row in rows.all()
        ]
        answer = report.page.locator("#whatif-answer").inner_text()
    best = [
        (one, many)
        for one, many in zip(latency, throughput, strict=True)
        if not any(
            (one >= a and many <= b) and (one > a or many < b)
            for a, b in zip(latency, throughput, strict=True)
        )
    ]
    np.testing.assert_allclose(shown, sorted(best), rtol=1e-9)
    assert f"{latency.min():.3g} ms" in answer.replace(",", "")


def test_it_is_legible_in_the_dark_and_prints_its_fronts(chromium: Browser, run: Path) -> None:
    with Report.opened(chromium, run / "report.html", color_scheme="dark") as report:
        dark = report.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert max(map(int, dark.removeprefix("rgb(").removesuffix(")").split(","))) < 60
        report.page.emulate_media(media="print", color_scheme="light")
        shown = report.page.locator("#point-table tbody tr:visible").count()
        assert shown == pd.read_csv(run / "points.csv")["on_front"].sum()
        assert not report.page.locator("#filters").is_visible()
        assert len(report.page.pdf()) > 10_000


def test_it_can_be_read_without_a_script(chromium: Browser, run: Path) -> None:
    looks = {"java_script_enabled": False}
    with Report.opened(chromium, run / "report.html", **looks) as report:
        rows = report.count("#fronts .static tbody tr")
        assert rows == len(pd.read_csv(run / "front.csv"))
        assert report.page.locator("#fronts .static").is_visible()
        assert not report.page.locator("#whatif").is_visible()
        assert "Splitting" in report.page.locator(".lede").inner_text()


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def test_no_name_and_no_reason_is_taken_for_markup(
    chromium: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make(mobilenet_table(), links=["none", {"name": "slow", "rate_mbit": 20}])
    fake = FakeRun(tmp_path / "run", plan, items=8)
    fake.session(plan.sessions[0])
    fake.controller_failure(plan.sessions[1], 1, HOSTILE)
    # A spec refuses some of these as names, but a plan comes from outside.
    words = {"model": HOSTILE, "link_asked": HOSTILE, "disturbances": HOSTILE, "disturbed": True}
    monkeypatch.setattr(
        pareto,
        "points",
        lambda *args, **kwargs: points(*args, **kwargs).assign(
            split=lambda table: table["split"] + HOSTILE, **words
        ),
    )
    pareto.analyse(fake.path)
    with Report.opened(chromium, fake.path / "report.html") as report:
        assert report.count("img") == 0 and report.count("script") == 2
        assert HOSTILE in report.page.locator("h1").inner_text()
        assert HOSTILE in report.texts("#failures summary")[0]
        assert HOSTILE in report.texts("#point-table tbody th")[0]
