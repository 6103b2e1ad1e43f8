"""CONTRIBUTING.md says where things go: a backend and a measure are added as it says."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pandas as pd
import pytest

from tests import ROOT

pytestmark = pytest.mark.slow

MEASURE = '''"""The slowest item of a point."""

import pandas as pd

from analysis.column import MOST, UNMEASURED, Column
from analysis.measures.legs import TRY

COLUMNS = (Column("latency_worst_ms", "ms", "Slowest item of all.", UNMEASURED, over=MOST),)


def worst(source: pd.DataFrame) -> pd.DataFrame:
    """The slowest item in the latency leg of each try."""
    ms = source[source["phase"] == "latency"].groupby(TRY)["latency_ns"].max() / 1e6
    return ms.rename("latency_worst_ms").reset_index()
'''


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the code and its tests, to add to."""
    for name in ("paretopipe_worker", "analysis", "tests"):
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=skipped)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def insert(file: Path, after: str, lines: str) -> None:
    """Add lines behind the one that reads so."""
    text = file.read_text()
    assert text.count(after) == 1, f"{file}: {text.count(after)} lines read {after!r}"
    file.write_text(text.replace(after, after + lines))


def run(checkout: Path, *words: str) -> str:
    """Run Python in the copy; its output."""
    done = subprocess.run(
        [sys.executable, *words], cwd=checkout, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_backend_is_added_as_contributing_says(checkout: Path) -> None:
    transport = checkout / "paretopipe_worker" / "transport"
    shutil.copy(transport / "tcp.py", transport / "toy.py")
    entry = '    "toy": Backend("paretopipe_worker.transport.toy", 32, 100),\n'
    insert(transport / "backends.py", "BACKENDS = {\n", entry)
    printed = run(checkout, "-m", "pytest", "-q", "tests/transport", "-k", "toy and not 13")
    (passed,) = re.findall(r"(\d+) passed", printed)
    assert int(passed) >= 25
    spec = "{'models': ['alexnet'], 'backends': ['toy', 'tcp']}"
    parsed = f"from paretopipe_worker.plan import spec; print(spec.parse({spec}).backends)"
    assert run(checkout, "-c", parsed).strip() == "('toy', 'tcp')"


def test_a_measure_is_added_as_contributing_says(checkout: Path) -> None:
    measures = checkout / "analysis" / "measures"
    (measures / "toy.py").write_text(MEASURE)
    replicates, columns = measures / "replicates.py", checkout / "analysis/tables/columns.py"
    insert(replicates, "from analysis.measures import completions", ", toy")
    insert(replicates, "    return (\n", "        toy.worst(source),\n")
    insert(columns, "from analysis.measures import energy, forward, legs", ", toy")
    insert(columns, "SECTIONS: dict[str, tuple[Column, ...]] = {\n", '    "Toy": toy.COLUMNS,\n')
    with tarfile.open(ROOT / "tests" / "data" / "run-before-rooms.tar.xz") as archive:
        archive.extractall(checkout / "results" / "kept", filter="data")
    run(checkout, "-m", "analysis.pareto", "results/kept")
    table = pd.read_csv(checkout / "results" / "kept" / "points.csv")
    assert (table["latency_worst_ms"] >= table["latency_median_ms"]).all()
    assert "| `latency_worst_ms` | ms |" in run(checkout, "-m", "analysis.columns")


def test_no_module_and_no_function_is_longer_than_contributing_allows() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (limits,) = re.findall(r"at most (\d+) lines and a function at most (\d+)", text)
    most, of_function = map(int, limits)
    folders = ("paretopipe_worker", "analysis", "tests", "roles", "playbooks")
    for file in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        lines = file.read_text()
        assert lines.count("\n") <= most, f"{file} has {lines.count(chr(10))} lines"
        for node in ast.walk(ast.parse(lines)):
            if isinstance(node, ast.FunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                assert length <= of_function, f"{file}: {node.name} has {length} lines"


def test_every_place_that_contributing_names_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"`((?:paretopipe_worker|analysis|tests|docs)/[\w/.]+)`", text))
    assert len(named) > 12
    for path in named - {p for p in named if "NAME" in p}:
        assert (ROOT / path).exists(), path
    for name, file in (
        ("BACKENDS", "paretopipe_worker/transport/backends.py"),
        ("CHOICES", "analysis/column.py"),
        ("TOLD", "analysis/measures/hosts.py"),
        ("SECTIONS", "analysis/tables/columns.py"),
        ("class Condition", "paretopipe_worker/link/conditions.py"),
        ("class Health", "paretopipe_worker/records/health.py"),
        ("def pages", "analysis/figures/of_run.py"),
    ):
        assert name in (ROOT / file).read_text(), f"{name} in {file}"
