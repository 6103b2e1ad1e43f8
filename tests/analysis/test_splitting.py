"""Whether splitting pays, in words, on tables whose truth is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.answers.splitting import LATENCY, THROUGHPUT, Gain, said, verdicts
from analysis.pareto import main
from analysis.report.terminal import text
from analysis.tables.front import GROUP
from tests.helpers.fake_plan import make, tiny_table
from tests.helpers.fake_run import FakeRun

CIRCUMSTANCE = dict.fromkeys(GROUP, "x") | {"placement": "pi>server", "batch": 1, "window": 3}


def tables(
    figures: dict[str, tuple[float, float]], count: int, spread: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Points and replicates of splits with a known latency and throughput each."""
    draws = np.random.default_rng(1)
    rows = []
    for replicate in range(count):
        shared = np.exp(draws.normal(0, 0.1))
        for split, (latency, throughput) in figures.items():
            own = np.exp(draws.normal(0, spread, 2)) * shared
            rows.append(
                {
                    "point": split,
                    "split": split,
                    "replicate": replicate,
                    "status": "ok",
                    LATENCY: latency * own[0],
                    THROUGHPUT: throughput / own[1],
                }
            )
    measured = pd.DataFrame(rows)
    means = measured.groupby(["point", "split"], sort=False)[[LATENCY, THROUGHPUT]].mean()
    return means.reset_index().assign(link_certified=True, **CIRCUMSTANCE), measured


PAYS = {"@last": (50.0, 20.0), "a": (60.0, 25.0), "b": (70.0, 18.0), "@first": (100.0, 10.0)}


def test_a_cut_that_brings_more_is_named_with_how_much_and_how_sure() -> None:
    points, measured = tables(PAYS, 5, 0.003)
    [found] = verdicts(points, measured)
    assert found["gains"][THROUGHPUT]["verdict"] == "better"
    assert found["gains"][LATENCY]["verdict"] == "worse"
    low, high = (found["gains"][THROUGHPUT][end] for end in ("low", "high"))
    assert low < 1.25 < high and high - low < 0.05
    assert found["text"].startswith("splitting pays in throughput: no cut answers sooner than all")
    assert "all on server: the best, behind a, answers 2" in found["text"]
    assert "a cut behind a brings 2" in found["text"]
    assert "more images/s than all on server (95%: 2" in found["text"]


def test_one_replicate_tells_no_certainty() -> None:
    [found] = verdicts(*tables(PAYS, 1, 0))
    assert found["text"] == (
        "splitting pays in throughput: no cut answers sooner than all on server: the best, behind "
        "a, answers 20 % later; a cut behind a brings 25 % more images/s than all on server "
        "(fewer than 3 replicates: how sure is not known)"
    )


def test_what_replicates_do_not_tell_is_open() -> None:
    alike = PAYS | {"a": (51.0, 20.1)}
    [found] = verdicts(*tables(alike, 4, 0.05))
    assert "it is not resolved whether splitting pays" in found["text"]
    assert found["gains"][THROUGHPUT]["verdict"] == "open"


def test_a_cut_that_is_worse_in_both_does_not_pay() -> None:
    [found] = verdicts(*tables(PAYS | {"a": (60.0, 15.0)}, 3, 0.001))
    assert found["text"].startswith("splitting does not pay: no cut answers sooner")


def test_without_a_cut_or_a_host_there_is_no_verdict() -> None:
    points, measured = tables(PAYS, 3, 0.01)
    [found] = verdicts(points[points["split"] == "a"], measured)
    assert "a cut, or all on a single host, was not measured" in found["text"]
    [found] = verdicts(points.assign(link_certified=False), measured)
    assert "no point has both figures over a link as asked" in found["text"]
    [found] = verdicts(points.assign(link_certified=False), measured, uncertified=True)
    assert "splitting pays" in found["text"]


@pytest.mark.parametrize(
    ("ratio", "words"), [(1.1, "answers 9.1 % sooner"), (0.5, "answers 100 % later")]
)
def test_a_share_is_one_of_the_hosts_own_figure(ratio: float, words: str) -> None:
    assert words in said({LATENCY: Gain(LATENCY, "a", "all on server", ratio)})


def test_the_report_ends_with_the_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = FakeRun(tmp_path / "run", make(tiny_table()), items=8).all_sessions().path
    assert main([str(run), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    heading, about, choice, answer, _, sentence, report = text(document).splitlines()[-7:]
    assert heading == "Where to split?"
    assert about == "  tiny over link none: pi > server, tcp, batch 1, window 3, float32"
    assert choice == "    Take all on server: the best split in latency and throughput alike."
    assert answer.startswith("    Splitting does not pay: no cut answers sooner than all on server")
    assert sentence.startswith("tiny over link none: splitting does not pay: no cut answers sooner")
    assert report == f"Report: {run / 'report.html'}" and (run / "report.html").is_file()
