"""Runs that are empty, damaged or mixed: what can be shown is shown, and what cannot is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from analysis import guide, paper, pareto, whatif
from tests.helpers.fake_plan import TWO_LINKS, make, mobilenet_table, tiny_table
from tests.helpers.fake_run import FakeRun

pytestmark = pytest.mark.usefixtures("undrawn")

UNPREDICTED = "nothing is predicted: host pi was not measured with tiny"


def fake_of(path: Path, *tables: object, **experiment: object) -> FakeRun:
    """A run of the tiny model over two links, without records."""
    plan = make(*(tables or (tiny_table(),)), links=TWO_LINKS, **experiment)  # type: ignore[arg-type]
    return FakeRun(path / "run", plan, items=8)


def empty(path: Path) -> FakeRun:
    return fake_of(path)


def of_one_point(path: Path) -> FakeRun:
    fake = fake_of(path)
    first = fake.plan.sessions[0]
    fake.session(first, points=first.points[1:2], end="none")
    return fake


def failed(path: Path) -> FakeRun:
    fake = fake_of(path)
    for session in fake.plan.sessions:
        fake.controller_failure(session, 1, "the server is down")
    return fake


def cut_short(path: Path) -> FakeRun:
    """Of the second link the source's file ends within a line, in its header."""
    fake = fake_of(path).all_sessions()
    [file] = fake.path.glob(f"records/pi/{fake.plan.sessions[1].id}*")
    file.write_bytes(file.read_bytes()[:100])
    return fake


def of_two_models(path: Path) -> FakeRun:
    """Of the second model nothing was tried."""
    fake = fake_of(path, tiny_table(), mobilenet_table())
    for session in fake.plan.sessions:
        if session.model == "tiny":
            fake.session(session)
    return fake


NOT_KNOWN = "Whether splitting pays is not known"


@pytest.mark.parametrize(
    ("made", "measured", "said", "answered"),
    [
        (empty, 0, "no point was measured: there is no front", NOT_KNOWN),
        (of_one_point, 1, "1 of 8 points measured, 3 failed, 4 missing", NOT_KNOWN),
        (failed, 0, "controller: the server is down", NOT_KNOWN),
        (cut_short, 4, "4 of 8 points measured, 4 failed", "tiny over link"),
        (of_two_models, 8, "8 of 50 points measured, 42 missing", "Splitting pays in"),
    ],
)
def test_what_can_be_shown_is_shown_and_the_rest_is_said(
    made: Callable[[Path], FakeRun],
    measured: int,
    said: str,
    answered: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake = made(tmp_path)
    assert pareto.main([str(fake.path)]) == 0
    printed = capsys.readouterr()
    assert said in printed.out and answered in printed.out
    table = pd.read_csv(fake.path / "points.csv")
    assert (table["status"] == "ok").sum() == measured
    assert table.loc[table["status"] != "ok", "reason"].notna().all()
    page = (fake.path / "report.html").read_text()
    assert answered in page
    assert ("No point was measured: there is nothing to compare." in page) == (not measured)

    damages = [line for line in printed.err.splitlines() if "truncated" in line]
    status = whatif.main([str(fake.path), "--rate", "10", "--delay", "5"])
    printed = capsys.readouterr()
    assert [line for line in printed.err.splitlines() if "truncated" in line] == damages
    if measured >= 4:
        assert status == 0 and "predicted front" in printed.out
    else:
        assert status == 2 and UNPREDICTED in printed.err

    assert paper.main([str(fake.path), "--formats", "csv,tex"]) == 0
    told = capsys.readouterr()
    lacking = [line for line in told.err.splitlines() if "has no figures" in line]
    assert len(lacking) == (made in (empty, failed, of_two_models))
    assert ("points-tiny.tex" in told.out) == (measured > 0)


def test_a_guide_tells_of_damaged_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = fake_of(tmp_path, strategy="guided")
    first = fake.plan.sessions[0]
    fake.session(first, points=first.points[:1], end="none")
    assert guide.main([str(fake.path)]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("generation 1: ")
    assert "truncated: it has no end line" in printed.err
