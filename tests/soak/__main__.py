"""Sweep the local lab for hours, and say what failed, leaked or drifted.

``python -m tests.soak --hours 2 [--experiment FILE] [--json FILE]``

One sweep follows the other, each a run of its own in a throwaway copy of the checkout, which has a
home and a folder of temporary files of its own. All its processes are looked at every few seconds.
FILE gets all figures of every sweep and what was found; beside it lie the samples as CSV, and a
figure. All three are written after each sweep. Ctrl-C ends the sweep under way, which then does not
count, and the soak says what it found until then. The exit status is 1 where something failed or
leaked. Latencies and times drift with what else the machine does: that is told and no fault.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import pandas as pd

from tests.helpers.labs import throwaway
from tests.helpers.sweeps import Running
from tests.helpers.trends import LEAST
from tests.soak import drawing
from tests.soak.finding import Sweep, findings, trends
from tests.soak.watching import Place

_EXPERIMENT = Path(__file__).with_name("experiment.yml")
_LOOK_S = 5.0
_GRACE_S = 150.0
"""How long an interrupted sweep may take to end: its hosts end by their lease."""
_SAID = 4000


def main() -> int:
    """Soak, print what was found, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--experiment", type=Path, default=_EXPERIMENT)
    parser.add_argument("--json", type=Path, default=Path("soak.json"), metavar="FILE")
    options = parser.parse_args()
    stop = _told_to_stop()
    sweeps: list[Sweep] = []
    with (
        tempfile.TemporaryDirectory(prefix="ppsoak-") as folder,
        throwaway(Path(folder, "checkout")) as copy,
    ):
        place = Place(Path(folder), copy)
        copy.write("experiments/soak.yml", options.experiment.read_text(encoding="utf-8"))
        for sweep in _sweeps(place, options.hours * 3600, stop):
            sweeps.append(sweep)
            _write(options.json, place, sweeps, stop.is_set())
            told = "FAILED" if sweep.failed else f"{sweep.measured} points"
            print(f"{place.now_s / 3600:.2f} h: sweep {sweep.number}: {told}", flush=True)
        _write(options.json, place, sweeps, stop.is_set())
    return _tell(sweeps, options.json)


def _told_to_stop() -> threading.Event:
    """Note when a signal tells this process to end."""
    stop = threading.Event()

    def note(_: int, __: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, note)
    return stop


def _sweeps(place: Place, seconds: float, stop: threading.Event) -> Iterator[Sweep]:
    """Sweep until the time is over; a sweep that was interrupted is left out."""
    for number in itertools.count(1):
        if stop.is_set() or place.now_s >= seconds:
            return
        at_s, place.namespaces = place.now_s, 0
        running = place.checkout.start_sweep("experiments/soak.yml", run := f"soak-{number:04}")
        while running.process.poll() is None and not stop.is_set():
            place.look(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.process.wait(_LOOK_S)
        if running.process.poll() is None:
            _end(running)
            return
        folder = place.checkout.results(run).folder
        yield _swept(place, number, at_s, running, folder)
        shutil.rmtree(folder, ignore_errors=True)


def _end(running: Running) -> None:
    """End a sweep as Ctrl-C does, and give it time to clear up."""
    running.signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        running.process.wait(_GRACE_S)


def _swept(place: Place, number: int, at_s: float, running: Running, results: Path) -> Sweep:
    """What there is to say about a sweep that has ended."""
    done, seconds = running.wait(), place.now_s - at_s
    left = place.left()
    own = pd.DataFrame([asdict(each) for each in place.samples if each.sweep == number])
    most = own.groupby("at_s")[["processes", "files", "threads"]].sum().max()
    found: dict[str, Any] = {"asked": 0, "measured": 0, "point_s": None}
    found |= {"reference_ms": None, "reference_images_s": None}
    if (results / "points.csv").exists():
        found = _measured(results)
    return Sweep(
        number=number,
        at_s=at_s,
        seconds=seconds,
        exit_status=done.code,
        memory_mb=own.groupby("kind")["own_mb"].max().to_dict(),
        **{name: int(most[name]) for name in ("processes", "files", "threads")},
        namespaces=place.namespaces,
        records_mb=sum(file.stat().st_size for file in results.glob("records/*/*")) / 1e6,
        left=left,
        said="" if done.code == 0 else done.output[-_SAID:],
        **found,
    )


def _measured(results: Path) -> dict[str, Any]:
    """What a sweep measured, as fields of :class:`Sweep`."""
    points = pd.read_csv(results / "points.csv")
    plan = json.loads((results / "plan.json").read_text(encoding="utf-8"))
    tries = sum(len(session["points"]) for session in plan["sessions"])
    lines = (results / "sessions.jsonl").read_text(encoding="utf-8").splitlines()
    times = [json.loads(line) for line in lines]
    spent_ns = sum(each["ended_unix_ns"] - each["began_unix_ns"] for each in times)
    ok = points[points["status"] == "ok"]
    inner = ok[~ok["split"].str.startswith("@") & (ok["link"] == plan["points"][0]["link"])]
    reference = inner.sort_values("position").iloc[0] if len(inner) else {}
    return {
        "asked": len(plan["points"]),
        "measured": len(ok),
        "point_s": spent_ns / 1e9 / tries,
        "reference_ms": _number(reference.get("latency_median_ms")),
        "reference_images_s": _number(reference.get("throughput_images_s")),
    }


def _number(value: Any) -> float | None:
    """A figure of a table; None where it has none."""
    return None if value is None or pd.isna(value) else float(value)


def _write(file: Path, place: Place, sweeps: Sequence[Sweep], interrupted: bool) -> None:
    """Write all that is known so far: the figures, the samples, and the picture."""
    document = {
        "hours": place.now_s / 3600,
        "interrupted": interrupted,
        "host": {
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "kernel": platform.release(),
            "load_average": os.getloadavg(),
        },
        "findings": [each._asdict() for each in findings(sweeps)],
        "trends": {name: asdict(each) for name, each in trends(sweeps).items()},
        "sweeps": [asdict(each) for each in sweeps],
    }
    file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    samples = pd.DataFrame([asdict(each) for each in place.samples])
    samples.to_csv(file.with_suffix(".csv"), index=False, float_format="%.6g")
    if sweeps:
        drawing.draw(sweeps, file.with_suffix(".png"))


def _tell(sweeps: Sequence[Sweep], file: Path) -> int:
    """Print how the figures went and what was found; the exit status."""
    rows = [
        {
            "figure": name,
            "first tenth": went.first,
            "last tenth": went.last,
            "growth": went.grown,
            "from": went.low,
            "to": went.high,
        }
        for name, went in trends(sweeps).items()
    ]
    if rows:
        with pd.option_context("display.width", 200, "display.precision", 3):
            print(pd.DataFrame(rows).to_string(index=False))
    else:
        print(f"{len(sweeps)} sweeps are too few to tell what grows: {LEAST + 1} are needed")
    found = findings(sweeps)
    for each in found:
        print(f"{each.kind}: {each.text}")
    faults = sum(each.kind != "drift" for each in found)
    print(f"{len(sweeps)} sweeps, {faults} failures and leaks; see {file}")
    return 1 if faults or not sweeps else 0


if __name__ == "__main__":
    sys.exit(main())
