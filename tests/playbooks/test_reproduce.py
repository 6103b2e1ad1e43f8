"""``python -m analysis.reproduce`` as the README has it: measured, sealed, measured again."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator

import pytest

from tests.helpers.labs import nothing_left, throwaway
from tests.helpers.namespaces import reason_without_namespaces
from tests.helpers.sweeps import Checkout, Done

pytestmark = [
    pytest.mark.must_run,
    pytest.mark.slow,
    pytest.mark.skipif(bool(reason_without_namespaces()), reason=reason_without_namespaces()),
]

TINY = "experiments/tiny.yml"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    with throwaway(tmp_path_factory.mktemp("reproduce") / "checkout") as made:
        yield made


def reproduce(copy: Checkout, *words: str) -> Done:
    """Run the command on the local lab."""
    return copy.run(
        *(".venv/bin/python", "-m", "analysis.reproduce", *words, "-i", "inventory/local")
    )


def test_a_trial_says_what_would_be_measured_and_leaves_nothing(copy: Checkout) -> None:
    done = reproduce(copy, TINY, "--run", "trial", "--dry-run").succeeded()
    assert "16 points" in done.output and "This was a trial" in done.output
    assert "\x1b" not in done.output
    assert not copy.results("trial").folder.exists()
    assert not (copy.root / "results/trial.zip").exists()
    assert not list((copy.root / ".cache/runner").glob("env/*"))
    reproduce(copy, "experiments/lost.yml").refused("there is no such experiment")
    reproduce(copy, "--from", "lost.zip").refused("lost.zip: cannot be read")


@pytest.mark.long
def test_a_sealed_run_is_measured_again_and_compared(copy: Checkout) -> None:
    text = (
        (copy.root / TINY).read_text(encoding="utf-8").replace("seed: 1", "seed: 1\nreplicates: 2")
    )
    copy.write(TINY, text)
    done = reproduce(copy, TINY, "--run", "first").succeeded()
    assert "16 of 16 points measured" in done.output
    assert "sealed: " in done.output
    with zipfile.ZipFile(copy.root / "results/first.zip") as archive:
        names = set(archive.namelist())
    assert {f"first/data/run/{name}" for name in ("points.csv", "plan.json")} <= names
    again = reproduce(copy, "--from", "results/first.zip", "--run", "second").succeeded()
    # Two hosts on one machine disturb each other: how many agree is chance, that it is said is not.
    assert " of 16 points agree" in again.output
    assert (copy.root / "results/second.zip").is_file()
    reproduce(copy, "--from", "results/first.zip", "--run", "second").refused("is there already")
    assert len(list((copy.root / ".cache/runner/artifacts").iterdir())) >= 2
    nothing_left(copy)
