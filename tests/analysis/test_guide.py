"""``python -m analysis.guide``: a whole guided sweep by made-up records, and what it leaves."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from analysis import compare, guide, manifest, pareto, turns
from analysis.measures.replicates import replicates
from analysis.run import read
from paretopipe_worker.plan import generations, resume
from paretopipe_worker.plan.plan import Plan
from tests.benchmarks import guided
from tests.helpers import fake_plan, replaying
from tests.helpers.fake_run import FakeRun


def plan_of(run: str = "made-up", **keys: object) -> Plan:
    """A guided plan of MobileNetV2 over two links."""
    strategy = {"strategy": {"guided": {"hours": 9}}} | keys
    return fake_plan.make(
        fake_plan.mobilenet_table(), run=run, links=fake_plan.TWO_LINKS, **strategy
    )


def walk(fake: FakeRun) -> int:
    """Measure what is left, as a sweep would; the number of points."""
    tasks = resume.todo(fake.plan, fake.path)["sessions"]
    lines = fake.path / turns.FILE
    for task in tasks:
        [lane] = task["lanes"]
        session, attempt, points = fake.plan.session(task["id"]), task["attempt"], lane["points"]
        fake.session(session, attempt, points=points, header={"points": tuple(points)})
        begun = attempt * 10**13
        turn = {"sessions": [session.id], "attempt": attempt, "began_unix_ns": begun}
        with lines.open("a") as file:
            file.write(json.dumps(turn | {"ended_unix_ns": begun + 36 * 10**9}) + "\n")
    return sum(len(task["points"]) for task in tasks)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    """A guided sweep that has ended."""
    fake = FakeRun(tmp_path_factory.mktemp("guided") / "run", plan_of(), items=8, noise=0.01)
    for _ in range(30):
        print(guide.guide(fake.path))
        if not walk(fake):
            return fake
    raise AssertionError((fake.path / generations.FILE).read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    """The same of all points."""
    plan = plan_of("whole", strategy="all")
    return FakeRun(
        tmp_path_factory.mktemp("whole") / "run", plan, items=8, noise=0.01
    ).all_sessions()


def test_it_says_what_it_decides_and_decides_nothing_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeRun(tmp_path / "run", plan_of(), items=8, noise=0.01)
    file = fake.path / generations.FILE
    assert guide.main([str(fake.path)]) == 0
    first = capsys.readouterr().out
    assert first.startswith(
        "generation 1: 0 of 42 points were measured in 0.00 h of 9 h, 0 are left out, 7 are "
        "measured now (about "
    )
    before = file.read_bytes()
    assert guide.main([str(fake.path)]) == 0
    assert capsys.readouterr().out == "generation 1: 7 points to go\n"
    assert file.read_bytes() == before


def test_it_says_why_it_ended_and_stays_ended(swept: FakeRun) -> None:
    file = swept.path / generations.FILE
    lines = file.read_bytes()
    kinds = [json.loads(line)["kind"] for line in lines.splitlines()]
    assert kinds == ["generation"] * (len(kinds) - 1) + ["end"]
    told = guide.guide(swept.path)
    assert told.startswith(f"ended after generation {len(kinds) - 1}: ")
    assert "no point that was left out could be better by more than 2 %" in told
    assert file.read_bytes() == lines


def test_points_that_were_left_out_are_skipped_with_the_reason(
    swept: FakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pareto.main([str(swept.path)]) == 0
    printed = capsys.readouterr().out
    table = pd.read_csv(swept.path / "points.csv")
    skipped = table[table["status"] == "skipped"]
    history = generations.read(swept.plan, swept.path)
    assert set(skipped["point"]) == set(history.skipped) and len(skipped)
    assert set(table["status"]) == {"ok", "skipped"}
    assert skipped["reason"].str.startswith("left out since ").all()
    assert skipped["reason"].str.contains("by prediction; ").all()
    figures = skipped[["latency_median_ms", "throughput_images_s", "front_probability"]]
    assert figures.isna().all(axis=None), "a prediction is no figure"
    assert not skipped["on_front"].any()
    assert f"{len(table) - len(skipped)} of 42 points measured, {len(skipped)} skipped" in printed
    count = len(table) - len(skipped)
    assert re.search(
        rf"guided sweep \(epsilon 2 %\): {count} of 42 points measured in \d+\.\d\d h, "
        rf"{len(skipped)} left out; it ended because no point that was left out could be better "
        "by more than 2 %\n",
        printed,
    )
    page = (swept.path / "report.html").read_text()
    assert f"Guided sweep (epsilon 2 %): {count} of 42 points measured in " in page
    predicted = pd.read_csv(swept.path / "predictions.csv").set_index("point")
    assert predicted.loc[skipped["point"], "predicted_latency_ms"].notna().all()
    drawing = (swept.path / "figures/breakdown-mobilenet_v2.svg").read_text()
    assert "left out by the guide" in drawing and ">failed<" not in drawing


def test_the_front_is_that_of_all_points_to_within_epsilon(swept: FakeRun, whole: FakeRun) -> None:
    true, found = (replicates(read(each.path)) for each in (whole, swept))
    table = replaying.figures(whole.plan, true)
    assert replaying.worse_by(table, found.loc[found["status"] == "ok", "point"]) <= 0.02


def test_runs_that_were_guided_are_described_and_compared(
    swept: FakeRun, whole: FakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert manifest.main([str(swept.path)]) == 0
    told = json.loads((swept.path / "manifest.json").read_text())["guided"]
    history = generations.read(swept.plan, swept.path)
    assert (told["epsilon"], told["hours"], told["ended"]) == (0.02, 9, "settled")
    assert (told["asked"], told["left_out"]) == (len(history.asked), len(history.skipped))
    assert told["undecided"] == 0 and told["hours_used"] > 0
    # One replicate is too little to compare by, and that is all there is to say.
    assert compare.main([str(swept.path), str(whole.path)]) == 2
    assert "fewer than 2 replicates" in capsys.readouterr().err


@pytest.mark.usefixtures("undrawn")
def test_a_guided_sweep_that_was_interrupted_or_ran_out_of_hours_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hours = {"strategy": {"guided": {"hours": 0.1}}}
    fake = FakeRun(tmp_path / "run", plan_of(**hours), items=8, noise=0.01)
    guide.guide(fake.path)
    walk(fake)
    assert pareto.main([str(fake.path)]) == 0
    assert (
        "guided sweep (epsilon 2 %): 7 of 42 points measured, 0 left out, 35 undecided; it was "
        "interrupted after generation 1, and goes on when the run is started again"
    ) in capsys.readouterr().out
    with (fake.path / turns.FILE).open("a") as file:
        late = {"sessions": ["s"], "attempt": 9, "began_unix_ns": 0, "ended_unix_ns": 10**16}
        file.write(json.dumps(late) + "\n")
    guide.guide(fake.path)
    assert pareto.main([str(fake.path)]) == 0
    told = capsys.readouterr().out.partition("guided sweep (epsilon 2 %): ")[2].partition("\n")[0]
    assert told.startswith("7 of 42 points measured in "), told
    assert "it ended because the budget of 0.1 h is used up, and " in told, told


def test_hours_are_those_in_which_sessions_ran(tmp_path: Path) -> None:
    hour = 3600 * 10**9
    rows = [(0, 2 * hour), (hour, 3 * hour), (5 * hour, 6 * hour)]
    with (tmp_path / turns.FILE).open("w") as file:
        for began, ended in rows:
            file.write(json.dumps({"sessions": ["s"], "attempt": 1, "began_unix_ns": began,
                                   "ended_unix_ns": ended}) + "\n")  # fmt: skip
    assert turns.hours(tmp_path) == pytest.approx(4)


def test_it_refuses_a_run_that_is_not_guided_and_a_damaged_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = FakeRun(tmp_path / "other", plan_of(strategy="all"))
    assert guide.main([str(other.path)]) == 2
    assert "only where the spec has strategy: guided" in capsys.readouterr().err
    fake = FakeRun(tmp_path / "run", plan_of())
    (fake.path / generations.FILE).write_text("nonsense\n")
    for command in (guide, pareto):
        assert command.main([str(fake.path)]) == 2
        assert "generations.jsonl, line 1" in capsys.readouterr().err


def test_the_benchmark_replays_a_run_and_draws_it(whole: FakeRun, tmp_path: Path) -> None:
    rows, checks = guided.measure([whole.path], tmp_path / "guided.png", quick=True)
    [row] = rows
    assert row["points"] == 42 and 7 <= row["measured"] < 42
    assert row["worse_percent"] <= 2
    assert len(checks) == 2, "a share is asked of large runs alone"
    assert (tmp_path / "guided.png").stat().st_size > 10_000


def test_the_benchmark_judges_a_live_sweep_by_one_of_all_points(
    swept: FakeRun, whole: FakeRun, tmp_path: Path
) -> None:
    file = tmp_path / "guided.png"
    [row], _ = guided.measure([], file, lived=[(swept.path, whole.path)], quick=True)
    asked = generations.read(swept.plan, swept.path).asked
    assert row["measured"] == len(asked) < row["points"] == 42
    assert row["worse_percent"] <= 2 < row["random_mean_percent"]
    with pytest.raises(ValueError, match="was not guided"):
        guided.measure([], file, lived=[(whole.path, whole.path)], quick=True)
