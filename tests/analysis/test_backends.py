"""What backends cost in a made-up run: pairs, intervals, causes, what is printed and drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import backends, pareto
from analysis.figures import backend_figure
from analysis.measures.replicates import replicates
from analysis.report.backends import text
from analysis.run import RunError, read
from analysis.tables import backend_costs
from paretopipe_worker.plan.plan import Session
from tests.helpers.fake_plan import TWO_LINKS, expected_ms, make, mobilenet_table, tiny_table
from tests.helpers.fake_run import FakeRun
from tests.helpers.figures import assert_texts_are_clear
from tests.helpers.record_files import edit

pytestmark = pytest.mark.slow

CUT = "body.1"
EXTRA_MS = {"rpc": (1.0, 2.0), "tcp": (0.0, 0.0)}
"""What the made-up backends add to each message's serialisation and wire."""


def later(line: dict[str, Any], ns: int, *names: str) -> None:
    """Move times of an item that are there."""
    line.update({name: line[name] + ns for name in names if line[name] is not None})


def measure(fake: FakeRun, session: Session, scale: float = 1.0) -> None:
    """One session, the first message of each item being slower to make and to send."""
    source, sink = fake.session(session, scale=scale)
    packing, sending = (int(part * 1e6) for part in EXTRA_MS[session.backend])

    def at_source(line: dict[str, Any]) -> None:
        if line["packed_ns"] is not None:
            later(line, packing, "packed_ns", "sent_ns")
            later(line, packing + sending, "done_ns", "latency_ns", "departed_ns")

    def at_sink(line: dict[str, Any]) -> None:
        later(line, packing, "departed_ns")
        names = ("ready_ns", "start_ns", "computed_ns", "packed_ns", "sent_ns")
        later(line, packing + sending, *names)

    edit(source, at_source)
    edit(sink, at_sink)


def run_of(path: Path, count: int = 3, **experiment: Any) -> FakeRun:
    """A run of two backends; each replicate is slower than the one before, `rpc` ever more so."""
    plan = make(
        tiny_table(), links=TWO_LINKS, backends=["rpc", "tcp"], replicates=count, **experiment
    )
    fake = FakeRun(path / "run", plan, items=8, noise=0)
    for session in plan.sessions:
        slower = 1 + 0.1 * session.replicate
        measure(fake, session, slower * (1.01 if session.backend == "rpc" else 1))
    return fake


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    return run_of(tmp_path_factory.mktemp("backends"))


@pytest.fixture(scope="module")
def table(fake: FakeRun) -> pd.DataFrame:
    run = read(fake.path)
    return backend_costs.compare(run, replicates(run))


def one(table: pd.DataFrame, split: str, link: str = "none") -> pd.DataFrame:
    """Rows of one cut by quantity."""
    return table[(table["split"] == split) & (table["link"] == link)].set_index("quantity")


def test_every_cut_is_compared_in_every_quantity(table: pd.DataFrame) -> None:
    assert list(table.columns) == [column.name for column in backend_costs.COLUMNS]
    assert len(table) == 2 * 4 * len(backend_costs.QUANTITIES)
    assert set(table["backend"]) == {"rpc"} and set(table["reference"]) == {"tcp"}
    assert (table["pairs"] == 3).all()
    latency = table[table["quantity"] == "latency_median_ms"]
    assert latency["split"].tolist() == ["@last", "body.0", CUT, "@first"] * 2


def test_differences_are_those_of_pairs_in_one_replicate(
    fake: FakeRun, table: pd.DataFrame
) -> None:
    point = next(p for p in fake.plan.points if (p.split, p.link) == ((CUT,), "none"))
    stage, _ = expected_ms(fake.plan, point)
    # Replicates differ by tens of percent, pairs by what the backends differ in.
    added = np.array([0.01 * sum(stage) * (1 + 0.1 * n) for n in range(3)])
    rows = one(table, CUT)
    difference = rows.loc["compute_ms"]
    assert difference["difference"] == pytest.approx(added.mean(), rel=1e-3)
    half = stats.t.ppf(0.975, 2) * added.std(ddof=1) / np.sqrt(3)
    assert difference["difference_high"] - difference["difference"] == pytest.approx(half, rel=1e-2)
    assert difference["difference"] - difference["difference_low"] == pytest.approx(half, rel=1e-2)
    assert rows.loc["serialise_ms", "difference"] == pytest.approx(1, abs=1e-3)
    assert rows.loc["wire_ms", "difference"] == pytest.approx(2, abs=1e-3)
    # What the backends differ in, whatever their stages did.
    assert rows.loc["crossing_ms", "difference"] == pytest.approx(3, abs=2e-3)
    assert rows.loc["crossing_ms", "difference_high"] < 3.01
    latency = rows.loc["latency_median_ms"]
    assert latency["difference"] == pytest.approx(3 + added.mean(), abs=1e-2)
    assert latency["ratio"] == pytest.approx(
        latency["value"] / latency["reference_value"], rel=0.01
    )
    assert latency["comes_from"] == "wire"
    assert rows["comes_from"].notna().sum() == 1


def test_nothing_of_a_message_is_compared_where_nothing_crosses(table: pd.DataFrame) -> None:
    rows = one(table, "@first")
    message = ["serialise_ms", "wire_ms", "crossing_ms"]
    assert rows.loc[message, ["difference", "ratio"]].isna().all(axis=None)
    assert rows.loc["latency_median_ms", "comes_from"] == "compute"


def test_two_replicates_have_no_interval(tmp_path: Path) -> None:
    run = read(run_of(tmp_path, 2).path)
    table = backend_costs.compare(run, replicates(run))
    assert table[["difference_low", "difference_high"]].isna().all(axis=None)
    assert one(table, CUT).loc["latency_median_ms", "difference"] > 3
    [figure] = backend_figure.backend_figure(table)
    text = figure.legends[0].get_title().get_text()
    assert "no interval" in text


def test_a_replicate_that_one_backend_lacks_makes_no_pair(tmp_path: Path) -> None:
    plan = make(tiny_table(), backends=["tcp", "rpc"], replicates=3)
    fake = FakeRun(tmp_path / "run", plan, items=8)
    for session in plan.sessions:
        if (session.backend, session.replicate) != ("rpc", 1):
            fake.session(session)
    run = read(fake.path)
    assert (backend_costs.compare(run, replicates(run))["pairs"] == 2).all()


def test_backends_that_share_no_replicate_are_not_compared(tmp_path: Path) -> None:
    plan = make(tiny_table(), backends=["tcp", "rpc"])
    fake = FakeRun(tmp_path / "run", plan, items=8)
    fake.session(next(session for session in plan.sessions if session.backend == "tcp"))
    run = read(fake.path)
    table = backend_costs.compare(run, replicates(run))
    assert table.empty and list(table.columns) == [column.name for column in backend_costs.COLUMNS]
    assert "nothing is compared" in text(table)


def test_pairs_of_which_a_replicate_is_marked_are_counted_and_told(tmp_path: Path) -> None:
    plan = make(tiny_table(), links=TWO_LINKS, backends=["tcp", "rpc"], replicates=3)
    fake = FakeRun(tmp_path / "run", plan, items=8)
    cuts = {point.id for point in plan.points if point.split == (CUT,)}

    def be_late(line: dict[str, Any]) -> None:
        if line["point"] in cuts:
            line["relay_late_p99_ns"] = 3_000_000

    for session in plan.sessions:
        files = fake.session(session)
        # Of every cut in the second replicate of one backend, of one cut in both of the third.
        if session.link == "none" and (session.backend, session.replicate) == ("rpc", 1):
            edit(files[1], lambda line: line.update(disturbed=["busy"]), "phase")
        if session.link == "none" and session.replicate == 2:
            edit(files[0], be_late, "phase")
    run = read(fake.path)
    table = backend_costs.compare(run, replicates(run))
    shaped, plain = table["link"] == "rate20", table["link"] == "none"
    assert (table.loc[shaped, ["late_pairs", "disturbed_pairs"]] == 0).all(axis=None)
    active = table["split"] != "@first"
    assert (table.loc[plain & active, "disturbed_pairs"] == 1).all()
    assert table.loc[plain, "late_pairs"].tolist() == [
        int(split == CUT) for split in table.loc[plain, "split"]
    ]
    printed = text(table)
    assert printed.count("1 of 12 pairs of replicates were measured while a relay was late") == 1
    assert "3 of 12 pairs of replicates were measured on a disturbed host" in printed
    [figure] = backend_figure.backend_figure(table)
    assert "pairs of replicates were measured while a relay was late" in (
        figure.legends[0].get_title().get_text()
    )


def test_a_run_with_one_backend_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeRun(tmp_path / "run", make(tiny_table()), items=8).all_sessions()
    run = read(fake.path)
    with pytest.raises(RunError, match="has one backend, tcp; a comparison needs at least two"):
        backend_costs.compare(run, replicates(run))
    assert backends.main([str(fake.path)]) == 2
    assert "error: " in capsys.readouterr().err
    assert not (fake.path / "backends.csv").exists()


def test_the_command_writes_and_prints_what_it_found(
    fake: FakeRun, table: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    assert backends.main([str(fake.path)]) == 0
    printed = capsys.readouterr().out
    assert "tiny over link rate20: rpc minus tcp, pi > server, batch 1" in printed
    assert "rpc takes 3." in printed and "comes from wire at 3 of 4 cuts" in printed
    written = pd.read_csv(fake.path / "backends.csv")
    assert list(written.columns) == list(table.columns)
    assert np.allclose(written["difference"], table["difference"], equal_nan=True)
    assert backends.main([str(fake.path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["backends"]) == len(table)
    assert {Path(file).name for file in document["files"]} == {
        *("backends.csv", "backends-tiny.png", "backends-tiny.svg"),
    }
    assert all(Path(file).is_file() for file in document["files"])


@pytest.mark.usefixtures("undrawn")
def test_pareto_compares_backends_where_there_are_several(
    fake: FakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pareto.main([str(fake.path)]) == 0
    printed = capsys.readouterr().out
    assert "rpc minus tcp" in printed and str(fake.path / "backends.csv") in printed
    assert str(fake.path / "attribution.csv") in printed


def test_the_figure_has_a_mark_for_each_cut_at_which_something_crosses(
    table: pd.DataFrame,
) -> None:
    [figure] = backend_figure.backend_figure(table)
    for axes in figure.axes:
        marks = [line for line in axes.lines if line.get_marker() == "o"]
        assert sum(len(line.get_xdata()) for line in marks) == 3
        assert axes.get_xscale() == "log"
        assert axes.get_ylabel() == "Minus tcp's (ms)"
        assert len(axes.collections) == 1, "intervals"


def test_texts_of_the_figure_are_clear_of_each_other(tmp_path: Path, table: pd.DataFrame) -> None:
    links = ["none", "wifi", "lte", "paper-rate5"]
    plan = make(mobilenet_table(), links=links, backends=["tcp", "rpc"])
    fake = FakeRun(tmp_path / "run", plan, items=8)
    for session in plan.sessions:
        fake.session(session, scale=1.1 if session.backend == "rpc" else 1)
    run = read(fake.path)
    rpc = backend_costs.compare(run, replicates(run))
    both = pd.concat([rpc, rpc.assign(backend="gloo", difference=2 * rpc["difference"])])
    for rows in (both, table):
        [figure] = backend_figure.backend_figure(rows)
        assert_texts_are_clear(figure)
