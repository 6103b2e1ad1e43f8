"""Links that were not what was asked for: found, marked, told, and left off the front."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import pareto
from analysis.figures import front_figure
from analysis.figures.captions import MARKED
from analysis.measures import chance
from analysis.measures.certificate import described
from analysis.measures.replicates import replicates
from analysis.run import read
from analysis.tables.points import points
from analysis.tables.stages import stages
from analysis.uncertified import uncertified
from paretopipe_worker.link.conditions import Condition
from paretopipe_worker.plan import resume
from tests.helpers.fake_plan import make, tiny_table
from tests.helpers.fake_run import FakeRun

pytestmark = pytest.mark.slow

RATE = {"name": "rate20", "rate_mbit": 20}
DELAY = {"name": "delay50", "delay_ms": 50}
LOSSY = {"name": "lossy", "delay_ms": 20, "jitter_ms": 4, "loss_percent": 5, "rate_mbit": 20}
Change = Callable[[dict[str, Any]], None]


def run_of(tmp_path: Path, *links: Any, **settings: Any) -> FakeRun:
    """A made-up run over these links, each measured as it was asked for."""
    plan = make(tiny_table(), links=["none", *links], **settings)
    return FakeRun(tmp_path / "made-up", plan, items=8, engine="relay").all_sessions()


def change(fake: FakeRun, kind: str, edit: Change) -> None:
    """Change the lines of one kind that the source wrote of the last link."""
    [session] = [s for s in fake.plan.sessions if s.link == fake.plan.experiment.links[-1].name]
    file = fake.file(session, 0, session.placement[0])
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        if line["kind"] == kind:
            edit(line)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def row(fake: FakeRun, **options: bool) -> Any:
    """A point over the last link."""
    table = points(read(fake.path), **options)
    return table[table["link"] == fake.plan.experiment.links[-1].name].iloc[1]


def changed(key: str, factor: float, when: str = "after") -> Change:
    """Multiply the numbers of a probe."""

    def edit(line: dict[str, Any]) -> None:
        if (line["after_points"] > 0) == (when == "after"):
            line[key] = [type(value)(value * factor) for value in line[key]]

    return edit


def slower(size: int, ms: float) -> Change:
    """Have single transfers of one size take longer on the way back."""

    def edit(line: dict[str, Any]) -> None:
        for part in line["transfers"]:
            if (part["bytes"], part["hop"]) == (size, 1):
                part["ns"] = [value + int(ms * 1e6) for value in part["ns"]]

    return edit


def datagrams(**values: Any) -> Change:
    """Change what the datagrams showed."""

    def edit(line: dict[str, Any]) -> None:
        line["datagrams"] |= values

    return edit


@pytest.mark.parametrize("link", [RATE, DELAY, LOSSY], ids=lambda link: str(link["name"]))
def test_a_link_as_asked_for_is_certified(tmp_path: Path, link: Any) -> None:
    found = row(run_of(tmp_path, link))
    assert found["link_certified"], found["link_certificate"]
    assert pd.isna(found["link_certificate"]) and not found["link_late"]


def test_an_unshaped_link_has_no_verdict(tmp_path: Path) -> None:
    table = points(read(run_of(tmp_path).path))
    assert table["link_certified"].isna().all() and table["link_certificate"].isna().all()
    assert not table["link_emulated"].any() and table["link_late"].isna().all()
    assert table["on_front"].any()


@pytest.mark.parametrize(
    ("link", "edit", "said"),
    [
        (DELAY, changed("round_trip_ns", 1.06), "round trip 106.1 ms (asked: 100.0, at most 5.0"),
        (DELAY, changed("round_trip_ns", 0.99), "round trip 99.1 ms"),
        (RATE, changed("goodput_mbit", 0.89), "goodput forward 17 Mbit/s (asked: 19.1 ± 10%)"),
        (RATE, changed("goodput_mbit", 1.11), "goodput back 21.2 Mbit/s"),
        (RATE, slower(8 << 10, -1.1), "8 KiB back -1.1 ms (allowed: ± 1.0) before the point"),
        (RATE, slower(512 << 10, 12), "512 KiB back +11.9 ms (allowed: ± 11.0)"),
        (LOSSY, datagrams(received=[570, 500]), "loss back 12.3% (asked: 5.0% ± "),
        (LOSSY, datagrams(received=[600, 571]), "loss forward 0.0% (asked: 5.0% ± "),
        (LOSSY, datagrams(round_trip_ns=[60_000_000] * 542), "median delay 60.0 ms (asked: 4"),
        (LOSSY, datagrams(round_trip_ns=[]), "median delay nan ms"),
    ],
    ids=range(10),
)
def test_what_is_out_of_tolerance_is_told(
    tmp_path: Path, link: Any, edit: Change, said: str
) -> None:
    fake = run_of(tmp_path, link)
    change(fake, "probe", edit)
    found = row(fake)
    assert found["link_certified"] is not pd.NA and not found["link_certified"]
    assert said in found["link_certificate"]
    assert ("after the point" in found["link_certificate"]) or "before" in said


@pytest.mark.parametrize(
    ("link", "edit"),
    [
        (DELAY, changed("round_trip_ns", 1.04)),
        (DELAY, changed("goodput_mbit", 0.01)),
        (RATE, changed("goodput_mbit", 0.92)),
        (RATE, slower(8 << 10, 0.9)),
        (RATE, slower(512 << 10, 10)),
        # TCP says little of a link that loses packets.
        (LOSSY, changed("goodput_mbit", 0.1)),
        (LOSSY, slower(512 << 10, 1000)),
        (LOSSY, datagrams(received=[575, 541])),
    ],
    ids=range(8),
)
def test_what_is_within_tolerance_is_certified(tmp_path: Path, link: Any, edit: Change) -> None:
    fake = run_of(tmp_path, link)
    change(fake, "probe", edit)
    assert row(fake)["link_certified"], row(fake)["link_certificate"]


def test_transfers_are_not_judged_where_tcp_is_to_start_slowly(tmp_path: Path) -> None:
    fake = run_of(tmp_path, RATE, tcp={"slow_start_after_idle": True})
    change(fake, "probe", slower(512 << 10, 500))
    assert row(fake)["link_certified"]


def test_a_session_without_a_second_probe_is_not_certified(tmp_path: Path) -> None:
    fake = run_of(tmp_path, RATE)

    def edit(line: dict[str, Any]) -> None:
        line["after_points"] = 0

    change(fake, "probe", edit)
    assert row(fake)["link_certificate"] == "not measured after the point"


def test_each_point_has_the_certificates_around_it(tmp_path: Path) -> None:
    fake = run_of(tmp_path, RATE, certify={"every_points": 1})
    [session] = [s for s in fake.plan.sessions if s.link == "rate20"]

    def edit(line: dict[str, Any]) -> None:
        # The one between the third point and the last.
        if line["after_points"] == 3:
            line["goodput_mbit"] = [value / 2 for value in line["goodput_mbit"]]

    change(fake, "probe", edit)
    table = points(read(fake.path)).set_index("point").loc[list(session.points)]
    assert table["link_certified"].tolist() == [True, True, False, False]
    third, last = table["link_certificate"].tolist()[2:]
    assert "goodput forward 9.57 Mbit/s (asked: 19.1 ± 10%) after the point" in third
    assert "before the point" in last and "after the point" not in last
    assert uncertified(read(fake.path)) == {session.id: list(session.points[2:])}


def test_points_behind_the_last_certificate_of_a_session_are_measured_again_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make(tiny_table(), links=[RATE], certify={"every_points": 2})
    fake = FakeRun(tmp_path / "run", plan, items=6)
    [session] = plan.sessions
    fake.session(session, 1, points=session.points, end="none")
    assert pareto.main([str(fake.path)]) == 0
    said = capsys.readouterr().out
    assert "2 over rate20: not measured after the point" in said
    assert "-e retry_uncertified=true measures them again" in said
    off = uncertified(read(fake.path))
    assert off == {session.id: list(session.points[2:])}
    assert resume.todo(plan, fake.path)["sessions"] == []
    todo = resume.todo(plan, fake.path, uncertified=off)
    assert [task["points"] for task in todo["sessions"]] == [list(session.points[2:])]
    assert "2 of them are measured again: their link was not as asked for" in todo["text"]
    fake.session(session, 2, points=session.points[2:], header={"points": session.points[2:]})
    assert uncertified(read(fake.path)) == {}
    assert points(read(fake.path))["link_certified"].all()


@pytest.mark.usefixtures("undrawn")
def test_marked_points_are_off_the_front_unless_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = run_of(tmp_path, RATE)
    change(fake, "probe", changed("goodput_mbit", 0.5))
    assert pareto.main([str(fake.path)]) == 0
    table = pd.read_csv(fake.path / "points.csv")
    assert table.groupby("link")["on_front"].any().to_dict() == {"none": True, "rate20": False}
    assert set(pd.read_csv(fake.path / "front.csv")["link"]) == {"none"}
    printed = capsys.readouterr().out
    assert "4 points have a link that was not as asked for (left off the front" in printed
    assert "4 over rate20: goodput forward 9.57 Mbit/s" in printed
    assert pareto.main([str(fake.path), "--uncertified"]) == 0
    assert set(pd.read_csv(fake.path / "front.csv")["link"]) == {"none", "rate20"}


def test_a_late_relay_marks_its_point_alone(tmp_path: Path) -> None:
    fake = run_of(tmp_path, RATE)
    late = next(point for point in fake.plan.points if point.link == "rate20")

    def edit(line: dict[str, Any]) -> None:
        if (line["point"], line["phase"]) == (late.id, "throughput"):
            line["relay_late_p99_ns"] = 2_100_000

    change(fake, "phase", edit)
    table = points(read(fake.path)).set_index("point")
    assert table.loc[late.id, "relay_late_p99_ms"] == pytest.approx(2.1)
    assert table.index[table["link_late"].eq(True).fillna(False)].tolist() == [late.id]


def test_marked_points_are_hollow_and_told_with_the_relay(tmp_path: Path) -> None:
    fake = run_of(tmp_path, RATE)
    change(fake, "probe", changed("goodput_mbit", 0.5))
    for shown in (False, True):
        run = read(fake.path)
        table = points(run, uncertified=shown)
        [figure] = front_figure.front(table, stages(run, replicates(run)))
        drawn = [line for line in figure.axes[-1].lines if line.get_marker() is MARKED]
        assert sum(len(line.get_xdata()) for line in drawn) == 4
        assert {line.get_markerfacecolor() for line in drawn} == {"none"}
        legend = figure.legends[0]
        assert "link not as asked for" in [text.get_text() for text in legend.get_texts()]
        note = legend.get_title().get_text()
        assert "shaped by relay (link_emulated: in userspace): rate20" in note
        assert ("left off the front" in note) != shown


def test_the_manifest_has_what_was_asked_and_measured(tmp_path: Path) -> None:
    from analysis.manifest import manifest

    fake = run_of(tmp_path, RATE)
    sessions = manifest(read(fake.path))["sessions"]
    shaped = next(s for s in sessions if "rate20" in s["session"])
    certificate = shaped["certificate"]
    assert [way["rate_mbit"] for way in certificate["asked"]] == [20, 20]
    [certificate] = certificate["stretches"]
    assert len(certificate["points"]) == 4
    assert certificate["link_certified"] is True and certificate["link_emulated"] is True
    assert certificate["link_goodput_before_mbit"] == pytest.approx(20 / 1.045)
    assert shaped["hosts"]["pi"]["link_engine"] == "relay"
    assert shaped["hosts"]["pi"]["tcp"] == {"tcp_congestion_control": "cubic"}


def test_simulated_datagrams_are_those_of_simple_conditions() -> None:
    plain = chance.simulate((Condition(delay_ms=30), Condition(loss_percent=4)), 600, 2)
    assert plain.round_trip_ms == (30, 0)
    assert plain.lost[0] == (0, 0)
    assert plain.lost[1].mean == pytest.approx(0.04, rel=0.03)
    assert plain.lost[1].sd == pytest.approx((0.04 * 0.96 / 600) ** 0.5, rel=0.15)


def test_simulated_losses_in_bursts_vary_more_than_single_ones() -> None:
    condition = Condition(burst_loss_percent=1, burst_recovery_percent=19)
    [lost] = chance.simulate((condition,), 600, 2).lost
    assert lost.mean == pytest.approx(condition.mean_loss, rel=0.1)
    # Gilbert's chain: variance grows by (1 + r) / (1 - r) with r = 1 - p - q.
    assert lost.sd == pytest.approx((0.05 * 0.95 / 600 * 1.8 / 0.2) ** 0.5, rel=0.15)


@pytest.mark.parametrize("distribution", ["uniform", "normal", "pareto", "paretonormal"])
def test_simulated_datagrams_wait_for_those_ahead(distribution: Any) -> None:
    condition = Condition(delay_ms=50, jitter_ms=10, distribution=distribution)
    close, wide = (chance.simulate((condition,), 600, gap).round_trip_ms for gap in (1, 200))
    assert close.mean > wide.mean + 3
    assert wide.mean == pytest.approx(50, abs=4)


def test_simulated_datagrams_that_overtake_do_not_wait() -> None:
    condition = Condition(delay_ms=50, reorder_percent=60)
    assert chance.simulate((condition,), 600, 2).round_trip_ms.mean == 0


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((Condition(), Condition()), "unshaped"),
        ((Condition(rate_mbit=5),) * 2, "5 Mbit/s"),
        (
            (Condition(delay_ms=200, rate_mbit=5), Condition()),
            "forward 5 Mbit/s, 200 ms one way; back unshaped",
        ),
        (
            (Condition(delay_ms=5, jitter_ms=1, loss_percent=2),) * 2,
            "5 ± 1 ms one way, 2 % loss",
        ),
        (
            (Condition(), Condition(rate_mbit=1), Condition()),
            "rank 0 to 1: unshaped; rank 1 to 2: 1 Mbit/s; back: unshaped",
        ),
    ],
    ids=range(5),
)
def test_a_link_is_described_by_way(path: tuple[Condition, ...], text: str) -> None:
    assert described(path) == text
