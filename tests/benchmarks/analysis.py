"""What analysing a large run takes: time, and memory of all its processes.

Two made-up runs are analysed as by ``python -m analysis.pareto``, each in a process of its own. One
has 10,000 points in three replicates, with few items each: 100 cuts over ten links, two backends
and five windows. The other has 300 points with so many items that its records are 500 MB. Their
records are what sessions write, line by line (`tests/helpers/fake_run.py`); no number in them was
measured. Dominance is timed beside moocore's own call on the same points, in turn.

`cpu_s` is the CPU time of the processes. `peak_mb` is their largest resident memory, looked at ten
times a second and added; pages that they share count twice. `dearest` names what most of the time
of the main process went to: shares of samples, taken twenty times a second, in which a part was
under way. A second process shares the pages of the run of many points, of which the main one draws
its own in `drawing.py:files`. A quick run is a fiftieth as large.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import moocore  # type: ignore[import-untyped]
import numpy as np

from analysis import pareto
from analysis.tables.front import is_nondominated
from paretopipe_worker.cuts import Cut, TensorSpec
from tests import ROOT
from tests.benchmarks.report import Check, Rows, main
from tests.helpers.fake_plan import make, table
from tests.helpers.fake_run import FakeRun
from tests.helpers.processes import took
from tests.helpers.waiting import repeatedly

POINTS, ROUNDS = 1_000_000, 9
MOST_RATIO, MOST_S, MOST_MB = 1.1, 60.0, 2000.0
_DEAREST = 6
_SHARES = "shares.json"
_PARTS = (
    *("run.py:read", "replicates.py:replicates", "points.py:points", "stages.py:stages"),
    *("attribution.py:attribution", "front_figure.py:draw", "telling.py:answers"),
    *("drawing.py:files", "predicting.py:predictions"),
    *("backend_costs.py:compare", "backends.py:write", "pareto.py:_write"),
)


def measure(quick: bool) -> tuple[Rows, Sequence[Check]]:
    """Measure dominance, and the analysis of both runs."""
    rows = [_dominance(count, quick) for count in (2, 3)]
    with tempfile.TemporaryDirectory() as folder:
        for name, made in (("points", _of_points), ("records", _of_records)):
            run = made(Path(folder) / name, quick)
            rows.append(_analysed(name, run.path, len(run.plan.points)))
    return rows, list(_checks(rows))


def _dominance(objectives: int, quick: bool) -> dict[str, Any]:
    """Time our dominance and moocore's call in turn, on points drawn at random."""
    points = POINTS // 50 if quick else POINTS
    values = np.random.default_rng(0).standard_normal((points, objectives))
    directions = ["min", *["max"] * (objectives - 1)]
    maximise = [name == "max" for name in directions]
    taken: dict[str, list[float]] = {"ours": [], "moocore": []}
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        found = is_nondominated(values, directions)
        between = time.perf_counter()
        wanted = moocore.is_nondominated(values, maximise=maximise, keep_weakly=True)
        taken["ours"].append(between - begin)
        taken["moocore"].append(time.perf_counter() - between)
        assert (found == wanted).all()
    ours, theirs = (statistics.median(each) for each in taken.values())
    return {
        "what": f"dominance, {objectives} objectives",
        "points": points,
        "seconds": ours,
        "moocore_s": theirs,
        "ratio": ours / theirs,
    }


def _of_points(path: Path, quick: bool) -> FakeRun:
    """A run of very many points."""
    links = [
        {"name": f"rate{rate}-delay{delay}", "rate_mbit": rate, "delay_ms": delay}
        for delay in (0, 20)
        for rate in (2, 5, 10, 20, 50)
    ]
    few: dict[str, Any] = {"links": links[:2], "window": 3, "backends": ["tcp"]}
    many: dict[str, Any] = {"links": links, "window": [2, 3, 4, 5, 6], "backends": ["tcp", "gloo"]}
    return _written(path, items=8, replicates=3, **(few if quick else many))


def _of_records(path: Path, quick: bool) -> FakeRun:
    """A run of very many items."""
    links = ["none", "wifi", "lte"]
    return _written(path, items=20 if quick else 1030, links=links, window=3)


def _written(path: Path, items: int, **experiment: Any) -> FakeRun:
    """A run over 100 splits, all sessions measured without trouble."""
    cuts = tuple(
        Cut(f"features.{n}", (TensorSpec((1, 8 + n % 16, 28, 28), "float32"),)) for n in range(98)
    )
    plan = make(table(cuts), strategy="all", **experiment)
    return FakeRun(path, plan, items=items).all_sessions()


def _analysed(name: str, run: Path, points: int) -> dict[str, Any]:
    """Analyse a run in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.analysis", "--analyse", str(run)]
    used = took(command, ROOT, subprocess.DEVNULL, 0.1)
    shares: dict[str, float] = json.loads((run / _SHARES).read_text())
    dearest = sorted(shares.items(), key=lambda share: -share[1])[:_DEAREST]
    return {
        "what": f"run of many {name}",
        "points": points,
        "records_mb": sum(file.stat().st_size for file in run.glob("records/*/*")) / 1e6,
        "seconds": used.seconds,
        "cpu_s": used.cpu_s,
        "peak_mb": max(used.most_mb, used.highest_mb),
        "dearest": ", ".join(f"{part} {share:.0%}" for part, share in dearest),
    }


def _analyse(run: Path) -> None:
    """Be that process: analyse the run, and write what the time went to."""
    main_thread = threading.main_thread().ident
    samples: list[set[str]] = []

    def look() -> None:
        stack = traceback.walk_stack(sys._current_frames()[main_thread or 0])
        codes = [frame.f_code for frame, _ in stack]
        samples.append({f"{Path(code.co_filename).name}:{code.co_name}" for code in codes})

    with repeatedly(look, 0.05):
        status = pareto.main(["--json", str(run)])
    found = Counter(part for sample in samples for part in sample if part in _PARTS)
    shares = {part: count / len(samples) for part, count in found.items()}
    (run / _SHARES).write_text(json.dumps(shares), encoding="utf-8")
    sys.exit(status)


def _checks(rows: Rows) -> Sequence[Check]:
    """The targets."""
    ratios = [
        Check(
            f"{row['what']}, {row['points']:,} points: time over moocore's",
            row["ratio"],
            MOST_RATIO,
            "lower",
        )
        for row in rows
        if "ratio" in row
    ]
    runs = [row for row in rows if "peak_mb" in row]
    times = [Check(f"{row['what']}: seconds", row["seconds"], MOST_S, "lower") for row in runs]
    peaks = [Check(f"{row['what']}: peak MB", row["peak_mb"], MOST_MB, "lower") for row in runs]
    return [*ratios, *times, *peaks]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--analyse"]:
        _analyse(Path(sys.argv[2]))
    main("analysis", measure, __doc__ or "")
