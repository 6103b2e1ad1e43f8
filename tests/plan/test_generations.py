"""A guided sweep measures the points of its generations, and nothing is decided twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from paretopipe_worker.plan import generations, identity, outset, plan, resume, splits, summary
from paretopipe_worker.plan.generations import (
    Bounds,
    Choice,
    End,
    Generation,
    GenerationsError,
    LeftOut,
    Standing,
)
from paretopipe_worker.plan.plan import Plan
from tests.helpers import fake_plan
from tests.helpers.attempts import write
from tests.helpers.tables import HOSTS

BOUNDS = Bounds((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
STANDING = Standing(epsilon=0.02, hours=None, hours_used=0.0)


def make(**keys: Any) -> Plan:
    """A plan of MobileNetV2's 19 cuts and both endpoints over two links."""
    keys = {"links": fake_plan.TWO_LINKS, "strategy": "guided", "hosts": HOSTS} | keys
    return fake_plan.make(fake_plan.mobilenet_table(), run="test", **keys)


def generation(number: int, *points: str, **standing: Any) -> Generation:
    """A generation of these points."""
    values = {"epsilon": 0.02, "hours": None, "hours_used": 0.0} | standing
    chosen = tuple(Choice(point, "front", BOUNDS) for point in points)
    return Generation(number, chosen, 3.0, Standing(**values))


def listed(made: Plan, results: Path) -> dict[str, set[str]]:
    """The points that are to be measured, by session."""
    tasks = resume.todo(made, results)["sessions"]
    return {task["id"]: set(task["points"]) for task in tasks}


def state(made: Plan, results: Path) -> str:
    """What a guided sweep has to do."""
    return str(resume.todo(made, results)["guided"]["state"])


def test_only_points_of_generations_are_measured_and_each_once(tmp_path: Path) -> None:
    made = make()
    first, second = made.sessions
    assert (listed(made, tmp_path), state(made, tmp_path)) == ({}, "decide")
    generations.append(tmp_path, generation(1, *first.points[3:5], second.points[0]))
    assert state(made, tmp_path) == "measure"
    assert listed(made, tmp_path) == {
        first.id: set(first.points[3:5]),
        second.id: {second.points[0]},
    }
    # The sweep is killed behind one point.
    write(made, tmp_path, first, ok=[first.points[3]], end=None)
    assert listed(made, tmp_path)[first.id] == {first.points[4]}
    assert state(made, tmp_path) == "measure", "the generation is finished before another one"
    [mine, _] = resume.todo(made, tmp_path)["sessions"]
    assert (mine["attempt"], mine["walk"]) == (2, 1)
    write(made, tmp_path, first, 2, failed=[first.points[4]])
    write(made, tmp_path, second, ok=[second.points[0]])
    assert state(made, tmp_path) == "decide", "what failed by itself is not waited for"
    generations.append(tmp_path, generation(2, first.points[7]))
    assert listed(made, tmp_path) == {first.id: {first.points[7]}}


def test_hosts_are_sent_what_later_generations_may_need(tmp_path: Path) -> None:
    made, whole = make(), make(strategy="all")
    generations.append(tmp_path, generation(1, made.sessions[0].points[0]))
    assert resume.todo(made, tmp_path)["files"] == resume.todo(whole, tmp_path)["files"]


def test_a_sweep_has_ended_for_the_settings_that_it_ended_with(tmp_path: Path) -> None:
    made = make()
    generations.append(tmp_path, End("settled", (), STANDING))
    found = resume.todo(made, tmp_path)
    assert found["guided"]["state"] == "ended"
    assert found["text"].startswith(
        "ended after generation 0: no point that was left out could be better by more than 2 %"
    )
    finer = make(strategy={"guided": {"epsilon": 0.01}})
    longer = make(strategy={"guided": {"hours": 3}})
    assert [state(each, tmp_path) for each in (finer, longer)] == ["decide", "decide"]


def test_the_same_run_may_be_guided_or_not_and_for_longer() -> None:
    digests = {
        identity.digest(make(strategy=strategy))
        for strategy in ("all", "guided", {"guided": {"hours": 1, "epsilon": 0.5}})
    }
    assert len(digests) == 1
    assert identity.digest(make(strategy={"sample": 3})) not in digests


def test_a_plan_keeps_the_settings_of_its_guide(tmp_path: Path) -> None:
    made = make(strategy={"guided": {"hours": 1.5}})
    (tmp_path / "plan.json").write_text(plan.dump(made), encoding="utf-8")
    assert plan.read(tmp_path / "plan.json") == made


def test_a_point_that_was_left_out_may_come_back(tmp_path: Path) -> None:
    made = make()
    a, b, c, d = made.sessions[0].points[:4]
    out = (LeftOut(b, a, BOUNDS), LeftOut(c, a, BOUNDS))
    generations.append(tmp_path, generation(1, a))
    generations.append(tmp_path, generation(2, d, skipped=out))
    generations.append(tmp_path, End("hours", (Choice(c, "uncertain", BOUNDS),), Standing(
        0.02, 2.0, 2.1, (), (c,))))  # fmt: skip
    history = generations.read(made, tmp_path)
    assert set(history.skipped) == {b}
    assert history.asked == {a, d}
    best = splits.endpoints(2)[0] if made.point(a).split == ("@first",) else made.point(a).split
    assert history.reasons(made) == {
        b: "left out since generation 2: 1 to 3 ms and 4 to 6 images/s by prediction; "
        f"{best[0]} was measured and is at least as good to within 2 %",
        c: "not reached within the budget of hours: 1 to 3 ms and 4 to 6 images/s by prediction",
    }


def test_a_line_that_was_cut_short_counts_as_not_written(tmp_path: Path) -> None:
    made = make()
    points = made.sessions[0].points
    generations.append(tmp_path, generation(1, points[0]))
    path = tmp_path / generations.FILE
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"number": 2, "measu')
    assert generations.read(made, tmp_path).number == 1
    generations.append(tmp_path, generation(2, points[1]))
    assert path.read_bytes().startswith(whole), "what was written stays"
    assert generations.read(made, tmp_path).asked == set(points[:2])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"number": 3}, "line 2: is generation 3; expected is 2"),
        ({"measure": [{"point": "x", "why": "front"}]}, "line 2: plan.json has no point 'x'"),
        ({"measure": []}, "line 2: generation.measure: Tuple should have at least 1 item"),
        ({"kind": "other"}, "line 2: : Input tag 'other'"),
        ({"schema": 2}, "line 2: generation.schema: Input should be 1"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    made = make()
    points = made.sessions[0].points
    generations.append(tmp_path, generation(1, points[0]))
    generations.append(tmp_path, generation(2, points[1]))
    path = tmp_path / generations.FILE
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n{json.dumps(json.loads(second) | change)}\n")
    with pytest.raises(GenerationsError) as refused:
        resume.todo(made, tmp_path)
    assert text in str(refused.value) and str(path) in str(refused.value)


def test_the_first_generation_has_all_endpoints_and_a_spread_over_the_links() -> None:
    made = make(links=fake_plan.SIX_LINKS)
    first = outset.first(made)
    ends = {point.id for point in made.points if point.split in splits.endpoints(2)}
    assert {point for point, why in first.items() if why == "endpoint"} == ends
    spread = [made.point(point) for point, why in first.items() if why == "spread"]
    assert [point.split for point in spread] == [(f"features.{place}",) for place in (3, 9, 15)], (
        "at equal distances, each once for all links"
    )
    assert len({point.link for point in spread}) == 3


def test_three_stages_have_a_wider_spread() -> None:
    first = outset.first(make(links=["none"], hosts=fake_plan.THREE))
    assert sorted(first.values()) == ["endpoint"] * 3 + ["spread"] * 6


def test_the_summary_tells_the_least_and_the_most() -> None:
    made = make(strategy={"guided": {"hours": 0.01}})
    told = summary.summary(made)
    assert "42 points" in told
    assert "guided: from 7 points (4 endpoints and a spread), about " in told
    assert "could be better by more than 2 %, for 0.01 h at most" in told
    assert "it is measured all the same" in told
    assert "guided" not in summary.summary(make(strategy="all"))
    least_s = outset.predicted_s(made, outset.first(made))
    assert 0 < least_s < made.predicted_hours * 3600
    everything = [point.id for point in made.points]
    assert outset.predicted_s(made, everything) == pytest.approx(made.predicted_hours * 3600, abs=2)
