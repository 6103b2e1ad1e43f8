"""What a run of ten thousand points takes: of the stages, of planning, of the controller.

`sessions` measures 10,080 points of the tiny model in one real session, both stages of it under
their supervisors, with few items of each point, and looks at what these processes hold after every
50 points. Its records are analysed, then cut short near the end, and the run is resumed. The other
backends, and stages that ONNX Runtime executes, have sessions of 2,016 points. `plan` runs the
commands that read or write the plan, for plans of three sizes. `controller` sweeps plans of these
sizes with real Ansible, on hosts whose stages hand out records that were made before
(:mod:`tests.helpers.recorded_fleet`).

Growth is that of a straight line through tenths of the session, with its interval of 95 %
(:mod:`tests.helpers.trends`); that of memory begins after the first tenth. `most_mb` is the largest
memory, `point_ms` a point's time from its first item to the next point's, and `between_ms` the part
of it that is no item's. For plans, `next_ms` is the CPU time of each further point above the next
smaller size, and `ratio` compares that with what it took there: 1 where the cost is the same for
each point, 2.3 where it grows with their number.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from paretopipe_worker.plan import attempts, resume
from paretopipe_worker.plan import plan as plans
from paretopipe_worker.plan.plan import Session
from tests import ROOT
from tests.benchmarks.fleet import COUNTED
from tests.benchmarks.report import Check, Rows, parser, show
from tests.helpers import long_session
from tests.helpers.long_session import Look
from tests.helpers.processes import took, usage
from tests.helpers.recorded_fleet import recorded_fleet
from tests.helpers.sessions import HOSTS, Lab, lab
from tests.helpers.sweeps import Checkout, checkout
from tests.helpers.trends import trend
from tests.helpers.waiting import repeatedly

PARTS = ("sessions", "plan", "controller")
SESSIONS: dict[str, dict[str, Any]] = {
    "tcp": {},
    "gloo": {"backends": ["gloo"]},
    "rpc": {"backends": ["rpc"]},
    "onnxruntime": {"runtimes": ["onnxruntime"]},
}
"""Sessions, each with what it has in place of `tcp` and stages of torch."""
BATCHES, FEW_BATCHES, WINDOWS = 10, 2, (2, 10, 18)
"""Each window adds a point for each batch size, split and wire format: 560, or 112 with few."""
QUICK_WINDOWS = (1, 2, 3)
RESUMED = 50
"""Points that are missing when the run is resumed."""
RESIDENT, CPU = "resident MB", "CPU of a point, ms"
MOST_BYTES = 100
"""What a process may keep of each point."""
MOST_RATIO, MOST_NEXT = 1.05, 1.5
REPEATS = 5
"""How often the plan is read and written; the least time counts."""
DEADLINE_S = 590.0

Row = dict[str, Any]


def measure(options: argparse.Namespace) -> tuple[Rows, Sequence[Check]]:
    """Measure the parts that were asked for; a quick run has dozens of points and one session."""
    batches, windows, names = BATCHES, WINDOWS, options.session
    if options.quick:
        batches, windows, names = 1, QUICK_WINDOWS, names[:1]
    rows: list[Row] = []
    for name in names if "sessions" in options.part else ():
        first = name == next(iter(SESSIONS))
        rows += _session(name, batches if first else min(batches, FEW_BATCHES), windows[-1])
    if "plan" in options.part:
        rows += _plans(batches, windows)
    if "controller" in options.part:
        rows += _with_next([_swept(batches, number) for number in windows])
    return rows, list(_checks(rows))


def _session(name: str, batches: int, windows: int) -> Iterator[Row]:
    """Run a session; what its processes held, and what its points took.

    The first one is also resumed, and analysed.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked = long_session.asked(batches=batches, windows=windows) | SESSIONS[name]
        # Both have the same address, since rpc takes the first one of an interface.
        hosts = {host: {"data_address": "127.0.0.1"} for host in HOSTS}
        made = lab(Path(folder), asked, **hosts)
        [session] = made.plan.sessions
        about, begin_s = {"session": name, "points": len(session.points)}, time.monotonic()
        every = max(1, min(50, len(session.points) // 20))
        looks = long_session.run(made, session, every=every)
        seconds = time.monotonic() - begin_s
        left = resume.todo(made.plan, made.results)
        assert (left["sessions"], left["failed"]) == ([], 0), left["failures"][:3]
        records = made.results.glob("records/*/*")
        size = sum(file.stat().st_size for file in records)
        yield {**about, "what": "all", "seconds": seconds, "records_mb": size / 1e6}
        yield from ({**about, **row} for row in _held(looks))
        costs = long_session.costs(made, session)
        for kind in ("point_ms", "between_ms"):
            values = [getattr(cost, kind) for cost in costs]
            yield {**about, "what": kind, **_grown(values, statistics.median)}
        if name == next(iter(SESSIONS)):
            analyse = (sys.executable, "-m", "analysis.pareto", "--json", str(made.results))
            yield {**about, "what": "analysis", **_command(*analyse)[0]}
            yield from ({**about, **row} for row in _resumed(made, session))


def _held(looks: Sequence[Look]) -> Iterator[Row]:
    """What each process held over the session, and what CPU time stages took for each point."""
    for process in dict.fromkeys(look.process for look in looks):
        own = [look for look in looks if look.process == process]
        rss_mb = [look.usage.rss_mb for look in own]
        most_mb = max(look.usage.pss_mb for look in own)
        # In the first tenth a process meets most batch sizes and windows for the first time.
        settled = _grown(rss_mb[len(rss_mb) // 10 :])
        yield {"what": f"{process}: {RESIDENT}", "most_mb": most_mb, **settled}
        for kind in ("files", "threads"):
            held = [getattr(look.usage, kind) for look in own]
            yield {"what": f"{process}: {kind}", **_grown(held, statistics.median)}
        if process.startswith("stage"):
            cpu_ms = [
                1e3 * (after.usage.cpu_s - before.usage.cpu_s) / (after.points - before.points)
                for before, after in itertools.pairwise(own)
            ]
            yield {"what": f"{process}: {CPU}", **_grown(cpu_ms)}


def _grown(
    values: Sequence[float], of_part: Callable[[Sequence[float]], float] = statistics.fmean
) -> Row:
    """How a figure went over the session, as columns."""
    found = trend(values, of_part)
    return {
        "first": found.first,
        "last": found.last,
        "ratio": found.ratio,
        "grown": found.grown,
        "grown_low": found.low,
        "grown_high": found.high,
    }


def _resumed(made: Lab, session: Session) -> Iterator[Row]:
    """Resume the run as if it had been killed near its end."""
    lost = session.points[-RESUMED:]
    long_session.cut_short(made, session, lost[0])
    todo = (sys.executable, "-m", "paretopipe_worker", "todo", f"--results={made.results}")
    took, said = _command(*todo)
    [task] = json.loads(said)["sessions"]
    assert sorted(task["points"]) == sorted(lost), "other points are left than were lost"
    yield {"what": "resume: todo", **took}
    begin_s = time.monotonic()
    long_session.run(made, session.only(task["points"]), attempt=task["attempt"])
    yield {"what": f"resume: {len(lost)} points", "seconds": time.monotonic() - begin_s}
    _, said = _command(*todo)
    assert json.loads(said)["sessions"] == [], "the resumed run still lacks points"
    tried = attempts.read(made.plan, made.results).of(session.id)
    for point in map(made.plan.point, session.points):
        ok = [each for each, outcome in attempts.outcomes(tried, point) if outcome.status == "ok"]
        assert len(ok) == 1, f"point {point.id} was measured {len(ok)} times"


def _command(*words: str) -> tuple[Row, str]:
    """Run a command: `seconds`, `cpu_s` and `most_mb` of its processes, and what it printed.

    Memory is resident memory, looked at twenty times a second; shared pages count for each.
    """
    with tempfile.TemporaryFile("w+") as said:
        used = took(words, ROOT, said, 0.05)
        said.seek(0)
        row: Row = {"seconds": used.seconds, "cpu_s": used.cpu_s, "most_mb": used.most_mb}
        return row, said.read()


def _plans(batches: int, windows: Sequence[int]) -> list[Row]:
    """Plan runs of three sizes, and read their plans."""
    with tempfile.TemporaryDirectory() as folder:
        sizes = [_planned(Path(folder), batches, number) for number in windows]
    return list(_with_next(sizes))


def _planned(folder: Path, batches: int, windows: int) -> list[Row]:
    """What the commands take that read or write a plan."""
    spec, results = folder / f"{windows}.yml", folder / f"results-{windows}"
    spec.write_text(yaml.safe_dump(long_session.asked(batches=batches, windows=windows)))
    fleet = [{"name": name, "data_address": f"127.0.0.{n}"} for n, name in enumerate("ab", 1)]
    worker = (sys.executable, "-m", "paretopipe_worker")
    prepare = (
        *(*worker, "prepare", f"--experiment={spec}", f"--fleet={json.dumps(fleet)}"),
        *("--run=long", f"--results={results}", f"--cache={folder / 'cache'}"),
    )
    commands = {
        "prepare --check": (*prepare, "--check"),
        "prepare": prepare,
        "prepare, planned before": prepare,
        "todo": (*worker, "todo", f"--results={results}"),
    }
    found: list[Row] = [{"what": what, **_command(*words)[0]} for what, words in commands.items()]
    reading_s, writing_s = [], []
    for _ in range(REPEATS):
        begin_s = time.process_time()
        plan = plans.read(results / "plan.json")
        between_s = time.process_time()
        size = len(plans.dump(plan).encode())
        reading_s.append(between_s - begin_s)
        writing_s.append(time.process_time() - between_s)
    found.append({"what": "read the plan", "cpu_s": min(reading_s)})
    found.append({"what": "write the plan", "cpu_s": min(writing_s)})
    return [{**row, "points": len(plan.points), "plan_mb": size / 1e6} for row in found]


def _with_next(sizes: Sequence[Sequence[Row]]) -> Iterator[Row]:
    """Rows of several sizes, with what each further point took."""
    for of_size in zip(*sizes, strict=True):
        before = None
        for row in of_size:
            if before is not None:
                further = row["points"] - before["points"]
                row["next_ms"] = 1e3 * (row["cpu_s"] - before["cpu_s"]) / further
                if "next_ms" in before:
                    row["ratio"] = row["next_ms"] / before["next_ms"]
            yield row
            before = row


def _swept(batches: int, windows: int) -> list[Row]:
    """Sweep a plan without the analysis, which has a benchmark of its own.

    Returns
    -------
    One row: the CPU time of Ansible's main process and workers without what they wait for, and the
    largest memory that they had together.
    """
    with tempfile.TemporaryDirectory(prefix="pplong-") as folder:
        copy = checkout(Path(folder) / "checkout")
        asked = long_session.asked(batches=batches, windows=windows) | {"splits": {"cuts": "all"}}
        with recorded_fleet(copy, 2, **asked) as fleet:
            points = len(fleet.plan.points)
            running = fleet.start(*COUNTED, arguments=("--tags", "sweep"))
            with _watched(copy) as memory_mb:
                running.wait(DEADLINE_S).succeeded()
        lines = (copy.root / COUNTED[-1]).read_text(encoding="utf-8").splitlines()
        taken = [json.loads(line) for line in lines]
        cpu_s = sum(each.get("own_s", 0.0) + each.get("main_s", 0.0) for each in taken)
        row = {"what": "Ansible", "cpu_s": cpu_s, "most_mb": max(memory_mb)}
        return [{**row, "points": points}]


@contextlib.contextmanager
def _watched(copy: Checkout) -> Iterator[list[float]]:
    """Look twice a second at the memory of all processes of Ansible together, in MB."""
    memory_mb = [0.0]

    def look() -> None:
        running = copy.processes().items()
        held = [usage(pid) for pid, words in running if COUNTED[2] in words]
        memory_mb.append(sum(each.pss_mb for each in held if each))

    with repeatedly(look, 0.5):
        yield memory_mb


def _checks(rows: Rows) -> Iterator[Check]:
    """The targets."""
    for row in rows:
        what = f"{row['session']}, {row['what']}" if "session" in row else row["what"]
        if what.endswith(RESIDENT):
            name = f"{what}: bytes kept of each point, upper end of the interval"
            yield Check(name, 1e6 * row["grown_high"] / row["points"], MOST_BYTES, "lower")
        elif what.endswith(("files", "threads")):
            yield Check(f"{what}: more at the end", row["last"] - row["first"], 0, "lower")
        elif what.endswith(("_ms", CPU)):
            yield Check(f"{what}: last tenth over first", row["ratio"], MOST_RATIO, "lower")
        elif "next_ms" in row and "ratio" in row:
            name = f"{what}: a further point's CPU time over that in a smaller plan"
            yield Check(name, row["ratio"], MOST_NEXT, "lower")


if __name__ == "__main__":
    made = parser("long", __doc__)
    made.add_argument("--part", nargs="*", choices=PARTS, default=PARTS, help="default: all")
    names = tuple(SESSIONS)
    made.add_argument("--session", nargs="*", choices=names, default=names, help="default: all")
    chosen = made.parse_args()
    show("long", chosen, *measure(chosen))
