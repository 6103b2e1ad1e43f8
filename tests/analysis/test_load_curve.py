"""Latency against offered load: the table and its figure."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis import pareto
from analysis.figures.load_figure import load_figure
from analysis.measures.replicates import replicates
from analysis.run import read
from analysis.tables.load_curve import NAMES, load_curve
from analysis.tables.points import points
from tests.helpers.analysed import tables_of
from tests.helpers.fake_legs import period_ms
from tests.helpers.fake_plan import TWO_LINKS, expected_ms, make, tiny_table
from tests.helpers.fake_run import FakeRun
from tests.helpers.figures import files_of, one_page, overlapping, shown_texts

pytestmark = pytest.mark.slow

CUT = "body.1"
SHARES = (0.3, 0.6, 1.5)


def curve_of(fake: FakeRun) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The points of a run, and its load curve."""
    run = read(fake.path)
    measured = replicates(run)
    table = points(run, measured=measured)
    return table, load_curve(run, table, measured)


def fake_of(path: Path, *, replicates: int = 1, items: int = 70, **options: Any) -> FakeRun:
    """A run with legs of offered load, without noise."""
    plan = make(tiny_table(), replicates=replicates, links=TWO_LINKS)
    return FakeRun(path / "run", plan, items=items, noise=0, loads=SHARES, **options)


def legs(source: Path, point: str) -> list[dict[str, Any]]:
    """The source's items of each load leg of a point, read without the analysis."""
    lines = [json.loads(line) for line in source.read_text().splitlines()]
    mine = [line for line in lines if line.get("point") == point and line.get("phase") == "load"]
    found = []
    for end in (line for line in mine if line["kind"] == "phase"):
        items = [i for i in mine if i["kind"] == "item" and i["leg"] == end["leg"]]
        found.append({"end": end, "items": items})
    return found


def order_statistics(count: int, quantile: float) -> tuple[int, int]:
    """Places of the ordered items between which a quantile lies, by sums of the binomial alone.

    Each end is missed with at most 0.5 %: fewer items than the lower one's place, or as many as the
    upper one's, are below the quantile.
    """
    chances = [
        math.comb(count, below) * quantile**below * (1 - quantile) ** (count - below)
        for below in range(count + 1)
    ]
    low = max(place for place in range(count) if sum(chances[: place + 1]) <= 0.005)
    high = min(place for place in range(count) if sum(chances[place + 1 :]) <= 0.005)
    return low, high


def test_a_row_is_what_the_sources_items_say(tmp_path: Path) -> None:
    fake = fake_of(tmp_path).all_sessions()
    _, curve = curve_of(fake)
    assert list(curve.columns) == list(NAMES)
    assert len(curve) == 8 * len(SHARES)
    session = fake.plan.sessions[0]
    point = next(p for p in fake.plan.points if p.split == (CUT,) and p.link == session.link)
    rows = curve[curve["point"] == point.id].to_dict("records")
    stage, wire = expected_ms(fake.plan, point)
    for share, row, leg in zip(
        SHARES, rows, legs(fake.file(session, 0, "pi"), point.id), strict=True
    ):
        assert row["offered_images_s"] == pytest.approx(share * 1e3 / period_ms(stage, wire, 3))
        times = [item["latency_ns"] / 1e6 for item in leg["items"]]
        done = [item["done_ns"] / 1e9 for item in leg["items"]]
        assert row["items"] == len(times) == 70
        assert row["latency_median_ms"] == pytest.approx(np.median(times))
        assert row["latency_p90_ms"] == pytest.approx(np.percentile(times, 90))
        assert np.isnan(row["latency_p95_ms"])
        # Of 70 completions 69 make up whole windows of three, as it happens.
        assert row["achieved_images_s"] == pytest.approx(69 / (max(done) - min(done)))
        assert [row[f"latency_p90_{end}_ms"] for end in ("low", "high")] == [
            sorted(times)[place] for place in order_statistics(70, 0.9)
        ]


def test_the_knee_is_where_latency_doubles_or_items_fall_behind(tmp_path: Path) -> None:
    _, curve = curve_of(fake_of(tmp_path).all_sessions())
    light, overload = (curve[curve["step"] == step] for step in (1, 3))
    assert not light["beyond_knee"].any()
    assert overload["beyond_knee"].all()
    behind = overload["achieved_images_s"] < 0.95 * overload["offered_images_s"]
    assert behind.all()


def test_a_rate_offered_again_counts_once_by_its_last_leg(tmp_path: Path) -> None:
    fake = fake_of(tmp_path)
    session = fake.plan.sessions[0]
    source, _ = fake.session(session)
    before = curve_of(fake)[1]
    lines = [json.loads(line) for line in source.read_text().splitlines()]
    first = next(line["leg"] for line in lines if line.get("phase") == "load")
    # The second rate becomes a repetition of the first.
    rates = {
        line["point"]: line["offered_per_s"]
        for line in lines
        if line["kind"] == "phase" and line["leg"] == first
    }
    for line in lines:
        if line["kind"] == "phase" and line["leg"] == first + 1:
            line["offered_per_s"] = rates[line["point"]]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    after = curve_of(fake)[1]
    assert len(after) == 4 * 2
    values = "latency_median_ms"
    steps = [
        frame[frame["step"] == n].set_index("point")[values]
        for frame, n in ((after, 1), (before, 2))
    ]
    assert steps[0].sort_index().tolist() == steps[1].sort_index().tolist()


def test_steps_that_a_replicate_no_longer_offered_say_so_and_are_not_drawn(tmp_path: Path) -> None:
    fake = fake_of(tmp_path, replicates=2)
    first, *others = fake.plan.sessions
    for session in (first, *others):
        source, sink = fake.session(session)
        if session.replicate:
            continue
        for file in (source, sink):
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            last = max(line["leg"] for line in lines if line.get("phase") == "load")
            kept = [line for line in lines if line.get("leg") != last]
            file.write_text("".join(json.dumps(line) + "\n" for line in kept))
    table, curve = curve_of(fake)
    told = curve.groupby("step")[["replicates", "replicates_ended"]].agg(["min", "max"])
    assert told.to_numpy().tolist() == [[2, 2, 0, 0], [2, 2, 0, 0], [1, 1, 1, 1]]
    drawn = one_page(load_figure(table, tables_of(fake)[1], curve))
    assert {len(axes.lines[0].get_xdata()) for axes in drawn.axes} == {2}


def test_steps_are_means_over_replicates_that_each_had_rates_of_their_own(tmp_path: Path) -> None:
    fake = fake_of(tmp_path, replicates=2)
    for session in fake.plan.sessions:
        files = fake.session(session)
        if session.replicate:
            for file in files:
                lines = [json.loads(line) for line in file.read_text().splitlines()]
                for line in lines:
                    if line["kind"] == "phase" and line["offered_per_s"]:
                        line["offered_per_s"] *= 1.5
                file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    _, curve = curve_of(fake)
    assert len(curve) == 8 * 3 and set(curve["replicates"]) == {2}
    point = fake.plan.point(curve["point"].iloc[0])
    most = 1e3 / period_ms(*expected_ms(fake.plan, point), 3)
    assert curve["offered_images_s"].iloc[0] == pytest.approx(SHARES[0] * most * 1.25)


@pytest.mark.parametrize(
    ("items", "latency", "rate"), [(5, False, False), (6, True, False), (7, True, True)]
)
def test_few_items_have_no_latency_and_less_than_two_windows_no_rate(
    tmp_path: Path, items: int, latency: bool, rate: bool
) -> None:
    fake = fake_of(tmp_path, items=8)
    for session in fake.plan.sessions:
        source, _ = fake.session(session)
        lines = [json.loads(line) for line in source.read_text().splitlines()]
        kept = [
            line
            for line in lines
            if line["kind"] != "item" or line["phase"] != "load" or line["seq"] < 2 + items
        ]
        source.write_text("".join(json.dumps(line) + "\n" for line in kept))
    _, curve = curve_of(fake)
    assert set(curve["items"]) == {items}
    assert curve["latency_median_ms"].notna().all() == latency
    assert curve["achieved_images_s"].notna().all() == rate
    assert curve["beyond_knee"].notna().all() == latency


def test_load_legs_leave_latency_and_throughput_as_they_are(tmp_path: Path) -> None:
    table, _ = curve_of(fake_of(tmp_path).all_sessions())
    plain = make(tiny_table(), links=TWO_LINKS)
    without = points(read(FakeRun(tmp_path / "b", plain, items=70, noise=0).all_sessions().path))
    for name in ("latency_median_ms", "throughput_images_s", "loaded_latency_median_ms"):
        assert table[name].tolist() == without[name].tolist()


def test_the_command_writes_the_table_and_figure_where_load_was_offered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = fake_of(tmp_path, items=8).all_sessions()
    assert pareto.main([str(fake.path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["load"]) == 24
    written = pd.read_csv(fake.path / "load.csv")
    assert list(written.columns) == list(NAMES) and len(written) == 24
    assert str(fake.path / "figures" / "load-tiny.svg") in document["files"]
    plain = FakeRun(tmp_path / "b", make(tiny_table()), items=8).all_sessions()
    assert pareto.main([str(plain.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["load"] == []
    assert not (plain.path / "load.csv").exists()
    assert not list((plain.path / "figures").glob("load-*"))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, Figure]:
    fake = fake_of(tmp_path_factory.mktemp("load")).all_sessions()
    table, curve = curve_of(fake)
    [figure] = load_figure(table, tables_of(fake)[1], curve)
    return curve, figure


def test_the_figure_has_a_panel_per_link_and_a_line_per_split_of_the_front(
    drawn: tuple[pd.DataFrame, Figure],
) -> None:
    curve, figure = drawn
    for axes, link in zip(figure.axes, ["none", "rate20"], strict=True):
        best = curve[(curve["link"] == link) & curve["on_front"]]
        lines = [
            line
            for line in axes.lines
            if line.get_linestyle() == "-" and len(line.get_xdata()) == len(SHARES)
        ]
        assert len(lines) == best["split"].nunique()
        assert np.allclose(lines[0].get_ydata(), best["latency_median_ms"].iloc[: len(SHARES)])
        hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
        assert len(hollow) == best["beyond_knee"].sum() > 0
        assert axes.get_xlim()[0] == 0


def test_its_texts_are_inside_it_and_clear_of_each_other(
    drawn: tuple[pd.DataFrame, Figure],
) -> None:
    _, figure = drawn
    texts = shown_texts(figure)
    assert len(texts) > 15 and not overlapping(texts, figure)


def test_disturbed_legs_are_struck_out(drawn: tuple[pd.DataFrame, Figure], tmp_path: Path) -> None:
    curve, plain = drawn
    tables = tables_of(fake_of(tmp_path, items=8).all_sessions())
    disturbed = curve["on_front"] & (curve["step"] == 2)
    [figure] = load_figure(*tables, curve.assign(disturbed=disturbed))
    count = int((curve["on_front"] & (curve["step"] == 2)).sum())
    assert sum(len(axes.lines) for axes in figure.axes) == count + sum(
        len(axes.lines) for axes in plain.axes
    )
    assert "host disturbed" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_draw_takes_the_curve_of_each_model_alone(
    drawn: tuple[pd.DataFrame, Figure], tmp_path: Path
) -> None:
    curve, _ = drawn
    tables = tables_of(fake_of(tmp_path, items=8).all_sessions())
    files = files_of(*tables, tmp_path / "figures", curve.assign(model="other"))
    assert not [file for file in files if file.name.startswith("load-")]
