"""Measures taken of one portion of a run after the other are those of the whole run."""

from __future__ import annotations

import itertools
from pathlib import Path

import pandas as pd
import pytest

from analysis.measures import portions
from analysis.measures.attribution import attribution
from analysis.measures.clocks import comparisons
from analysis.measures.replicates import replicates
from analysis.run import Run, read
from analysis.tables.stages import stages
from tests.helpers.fake_plan import TWO_LINKS, make, tiny_table
from tests.helpers.fake_run import FakeRun


def tables(run: Run) -> list[pd.DataFrame]:
    """What is computed by portions."""
    measured = replicates(run)
    parts = attribution(run.items, run.plan, measured, comparisons(run))
    return [measured, stages(run, measured), parts]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of which a session was measured again, one's records are damaged, and one lacks."""
    plan = make(tiny_table(), links=TWO_LINKS, replicates=2)
    fake = FakeRun(tmp_path / "made-up", plan, items=8)
    first, second, third, _ = plan.sessions
    fake.session(first, end="none", points=first.points[:1])
    fake.session(first, attempt=1)
    fake.session(second)
    damaged, _ = fake.session(third)
    with damaged.open("ab") as file:
        file.write(b"no record\n")
    return read(fake.path)


def test_a_portion_has_sessions_as_long_as_their_items_are_few(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [session.id for session in run.plan.sessions]
    assert list(portions.portions(run.items, run.plan)) == [names]
    monkeypatch.setattr(portions, "MOST_ITEMS", 1)
    found = list(portions.portions(run.items, run.plan))
    assert len(found) > 1 and list(itertools.chain(*found)) == names
    assert list(portions.portions(run.items.iloc[:0], run.plan)) == [names]


def test_portions_change_no_figure(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tables(run)
    monkeypatch.setattr(portions, "MOST_ITEMS", 1)
    for of_whole, of_portions in zip(whole, tables(run), strict=True):
        same = of_whole.dtypes == of_portions.dtypes
        assert same.all(), pd.concat([of_whole.dtypes, of_portions.dtypes], axis=1)[~same]
        pd.testing.assert_frame_equal(of_whole, of_portions, check_exact=True)
    assert (whole[0]["status"] == "ok").any() and len(whole[2])
