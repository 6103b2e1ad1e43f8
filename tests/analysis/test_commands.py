"""The commands that people and the playbook run, and the dictionary of columns."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from analysis import columns as dictionary
from analysis import manifest, pareto
from analysis.column import OBJECTIVES
from analysis.disk import Command
from analysis.provenance import checkout, read_manifest
from analysis.report import terminal
from analysis.tables import columns
from paretopipe_worker import bounded
from tests import ROOT
from tests.helpers.fake_plan import TWO_LINKS, make, tiny_table
from tests.helpers.fake_run import FakeRun


@pytest.fixture
def fake(tmp_path: Path) -> FakeRun:
    plan = make(tiny_table(), links=TWO_LINKS)
    return FakeRun(tmp_path / "results" / "made-up", plan, items=8)


def test_the_dictionary_of_columns_is_that_of_the_code() -> None:
    assert (ROOT / "docs" / "columns.md").read_text() == dictionary.markdown()


def test_every_column_is_told_once_with_its_meaning() -> None:
    assert len(set(columns.POINTS)) == len(columns.POINTS)
    assert all(column.meaning.endswith(".") for column in columns.COLUMNS)
    assert OBJECTIVES == {"latency_median_ms": "min", "throughput_images_s": "max"}


def test_pareto_writes_all_results_and_prints_the_fronts(
    fake: FakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pareto.main([str(fake.all_sessions().path)]) == 0
    table = pd.read_csv(fake.path / "points.csv")
    best = pd.read_csv(fake.path / "front.csv")
    assert list(table.columns) == list(columns.POINTS)
    assert list(best.columns) == list(columns.FRONT)
    assert set(best["point"]) == set(table.loc[table["on_front"], "point"])
    assert len(list((fake.path / "figures").iterdir())) == 4
    printed = capsys.readouterr().out
    assert "tiny over link rate20" in printed and "8 of 8 points measured" in printed
    assert str(fake.path / "front.csv") in printed


@pytest.mark.usefixtures("undrawn")
def test_pareto_prints_one_json_document(fake: FakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = fake.plan.sessions
    fake.session(first, points=first.points[:1], end="none")
    fake.controller_failure(second, 1, "server is down")
    assert pareto.main([str(fake.path), "--json"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["points"] == {"ok": 1, "failed": 7, "missing": 0, "skipped": 0}
    assert len(document["failures"]) == 7
    assert {row["status"] for row in document["failures"]} == {"failed"}
    assert [row["replicates"] for row in document["front"]] == [1]
    assert list(document["front"][0]) == list(columns.FRONT)
    assert len(document["warnings"]) == 2
    assert "warning: " in captured.err and "truncated" in captured.err


@pytest.mark.usefixtures("undrawn")
def test_pareto_tells_of_disturbed_points_clocks_and_processes(
    fake: FakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = fake.plan.sessions
    ids = {point.id: point.split[0] for point in fake.plan.points}
    fake.session(first, disturbed=[point for point in first.points if ids[point] == "body.0"])
    fake.session(second, wall_clock_step_ns=10_000_000_000)
    assert pareto.main([str(fake.path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (row,) = document["disturbed"]
    assert (row["split"], row["link"]) == ("body.0", first.link)
    assert row["disturbances"].startswith("server, throughput: computing took 1.50")
    # All but the endpoint that needs no second clock.
    assert len(document["unclocked"]) == 3
    assert {row["link"] for row in document["unclocked"]} == {second.link}
    assert document["processes"]["started"] == document["processes"]["planned"] == 4
    printed = terminal.text(document)
    assert (
        "1 point measured on a disturbed host (disturbed), after 0 legs measured again:" in printed
    )
    assert f"body.0 over {first.link}: server, throughput" in printed
    assert "3 points without a forward latency" in printed
    assert "the wall clock of server was set by +10.0 s" in printed
    assert "4 stage processes started for 2 sessions, in which 8 points were walked" in printed


@pytest.mark.usefixtures("undrawn")
def test_pareto_tells_of_points_without_a_throughput_and_of_those_that_never_were_steady(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make(tiny_table(), window=64, splits={"cuts": ["body.1"]})
    fake = FakeRun(tmp_path / "run", plan, items=20)
    source, _ = fake.session(plan.sessions[0])
    source.write_text(
        source.read_text().replace('"warmup_ended_by":"steady"', '"warmup_ended_by":"never steady"')
    )
    assert pareto.main([str(fake.path)]) == 0
    printed = capsys.readouterr().out
    assert "no point has a throughput: there is no front" in printed
    assert "3 points without a throughput (throughput_note):\n  3 over none: no throughput: 20" in (
        printed
    )
    assert "3 points of which a leg began although its items never became steady" in printed


@pytest.mark.usefixtures("undrawn")
def test_pareto_tells_how_often_failed_points_were_tried(
    fake: FakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    for attempt in (1, 2):
        fake.controller_failure(fake.plan.sessions[0], attempt, "server is down")
    assert pareto.main([str(fake.path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert sorted(row["tries"] for row in document["failures"]) == [0] * 4 + [2] * 4
    assert "; 2 tries)" in terminal.text(document)


@pytest.mark.usefixtures("undrawn")
def test_pareto_groups_failures_by_reason(
    fake: FakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.controller_failure(fake.plan.sessions[0], 1, "server is down")
    assert pareto.main([str(fake.path)]) == 0
    printed = capsys.readouterr().out
    assert "no point was measured" in printed
    assert "0 of 8 points measured, 4 failed, 4 missing" in printed
    assert printed.count("server is down") == 1


def test_results_come_from_the_raw_records_alone_and_records_stay_as_they_are(
    fake: FakeRun,
) -> None:
    def digests(pattern: str) -> dict[str, str]:
        return {
            str(file): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in fake.path.glob(pattern)
        }

    records = (fake.all_sessions(), digests("records/*/*"))[1]
    pareto.main([str(fake.path)])
    results = digests("*.csv") | digests("figures/*")
    for file in fake.path.glob("*.csv"):
        file.write_text("point\nnonsense\n")
    pareto.main([str(fake.path)])
    assert digests("*.csv") | digests("figures/*") == results
    assert digests("records/*/*") == records and len(records) == 4


@pytest.mark.parametrize("module", ["pareto", "manifest"])
def test_a_run_that_is_not_there_ends_with_status_2_and_a_plain_error(
    fake: FakeRun, module: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"analysis.{module}", str(fake.path.with_name("nope"))],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 2
    assert "no such run" in done.stderr and "made-up" in done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""


@pytest.mark.parametrize(
    ("command", "written"),
    [(manifest.main, "manifest.json"), (pareto.main, "front.csv"), (pareto.main, "report.html")],
)
@pytest.mark.parametrize(
    ("target", "said"), [("/", "{file}: Is a"), ("/dev/full", "No space left")]
)
def test_what_a_disk_does_not_take_is_said_in_one_line(
    fake: FakeRun,
    capsys: pytest.CaptureFixture[str],
    command: Command,
    written: str,
    target: str,
    said: str,
) -> None:
    fake.all_sessions()
    file = fake.path / written
    file.symlink_to(target)
    assert command([str(fake.path)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said.format(file=file) in line


def test_every_command_says_what_a_disk_does_not_take() -> None:
    mains = [path for path in (ROOT / "analysis").glob("*.py") if "\ndef main(" in path.read_text()]
    assert len(mains) > 10
    assert not [path.name for path in mains if "@saying_why\ndef main(" not in path.read_text()]


def test_the_manifest_says_what_was_run_and_where_time_went(fake: FakeRun) -> None:
    fake.all_sessions()
    known = {"facts": {"pi": {"distribution": "Debian"}}, "inventory": {"pi": {"threads": 4}}}
    # As of hundreds of hosts, which is more than one argument of a command may have.
    known["facts"] |= {f"other{n}": {"distribution": "Debian" * 100} for n in range(400)}
    told = json.dumps(known)
    assert len(told) > 131_072
    subprocess.run(
        [sys.executable, "-m", "analysis.manifest", str(fake.path), "--hosts=-"],
        input=told,
        text=True,
        cwd=ROOT,
        check=True,
    )
    document = json.loads((fake.path / "manifest.json").read_text())
    assert document["run"] == "made-up" and document["seed"] == 0
    assert document["weights_sha256"] == {"tiny": "ab" * 32}
    pi = document["hosts"][0]
    assert pi["name"] == "pi" and pi["facts"] == {"distribution": "Debian"}
    assert pi["inventory"] == {"threads": 4}
    assert [part["versions"]["torch"] for part in pi["environments"]] == ["2.13.0"]
    assert len(pi["environments"][0]["sessions"]) == 2
    assert document["hosts"][1]["inventory"] is None
    for session in document["sessions"]:
        spent = session["overhead"]
        assert spent["points"] == 4
        assert spent["overhead_s"] == pytest.approx(3.5 + 4 * 0.05)
        assert spent["overhead_per_point_s"] == spent["overhead_s"] / 4
        assert session["hosts"]["pi"]["shares_s"]["startup"] == 2.5


def test_the_manifest_knows_no_overhead_of_a_session_cut_short(fake: FakeRun) -> None:
    fake.session(fake.plan.sessions[0], end="none")
    assert manifest.main([str(fake.path)]) == 0
    (session,) = json.loads((fake.path / "manifest.json").read_text())["sessions"]
    assert session["overhead"] is None
    assert session["hosts"]["pi"] == {
        "status": "truncated",
        "reason": None,
        "shares_s": None,
        "transport": {"congestion": "cubic"},
        "link_engine": "none",
        "tcp": {"tcp_congestion_control": "cubic"},
        "network": None,
    }


def test_the_checkout_is_told_with_its_commit_and_whether_it_is_dirty(tmp_path: Path) -> None:
    assert checkout(tmp_path) is None
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], [*identity, "commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    clean = checkout(tmp_path)
    assert clean is not None and len(clean["commit"]) == 40 and clean["dirty"] is False
    (tmp_path / "new").touch()
    assert checkout(tmp_path) == clean | {"dirty": True}
    (tmp_path / "inner").mkdir()
    assert checkout(tmp_path / "inner") is None


@pytest.mark.parametrize("facts", ["{", "[1]", '{"facts": 1}'])
def test_facts_that_are_no_object_are_refused(
    fake: FakeRun, facts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hosts.json").write_text(facts, encoding="utf-8")
    assert manifest.main([str(fake.path), "--hosts", str(tmp_path / "hosts.json")]) == 2
    assert "--hosts: " in capsys.readouterr().err


def test_a_manifest_is_json_where_one_session_failed_and_another_did_not(tmp_path: Path) -> None:
    plan = make(tiny_table(), links=TWO_LINKS)
    run = FakeRun(tmp_path / "run", plan, items=8)
    well, broken = plan.sessions
    run.session(well)
    run.session(broken, end="failed", reason="it broke")
    assert manifest.main([str(run.path)]) == 0
    document = bounded.document(run.path / "manifest.json", bounded.MEGABYTE)
    reasons = {
        each["session"]: {host["reason"] for host in each["hosts"].values()}
        for each in document["sessions"]
    }
    assert reasons == {well.id: {None}, broken.id: {"it broke"}}
    earlier = run.path / "manifest.json"
    earlier.write_text(earlier.read_text(encoding="utf-8").replace("null", "NaN"), encoding="utf-8")
    assert read_manifest(run.path) == document, "what an earlier version wrote is read"
