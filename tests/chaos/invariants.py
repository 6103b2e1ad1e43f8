"""What must hold after every fault: one function, which says what a person needs to know."""

from __future__ import annotations

import fcntl
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from tests.chaos.grounds import LEASE_S, Ground
from tests.chaos.strikes import Strike
from tests.helpers.complete import complete
from tests.helpers.sweeps import Done, Results

CLEARED_S = 2 * LEASE_S + 15
"""Seconds within which all must be gone that outlives a controller: by the lease, and then some."""

GOVERNORS = "sys/devices/system/cpu/cpufreq/policy*/scaling_governor"
HALVES = ("*.part", "*.new", ".*.json.*", "*.secret")
"""Files that nobody finds whose writer has ended as it should."""

ANALYSED = "Tables, figures and records: "
"""What a sweep prints once it has written its tables."""

REASON = re.compile(r"(.+?) \(replicate ([\d, ]+)\); ", re.DOTALL)
"""Why a point lacks replicates, and which, as its row says it."""

Held = dict[tuple[str, str], int]
"""The attempt that measured a point of a session, by session and point."""


@dataclass(frozen=True)
class Breach:
    """Something that does not hold: what of the report it counts as, and a text for people."""

    what: Literal["lost", "leftover", "reason", "output"]
    text: str


@dataclass
class Watched:
    """A run into which faults are injected.

    Parameters
    ----------
    seen
        Every point that was seen to be measured, with the first attempt that did.
    governors
        How the machine was before.
    """

    ground: Ground
    name: str
    seen: Held = field(default_factory=dict)
    governors: list[str] = field(default_factory=lambda: _governors())

    @property
    def results(self) -> Results:
        """Its results."""
        return self.ground.checkout.results(self.name)

    @cached_property
    def plan(self) -> dict[str, Any]:
        """Its plan, once there is one."""
        return self.results.plan

    @property
    def points(self) -> set[tuple[str, str]]:
        """All points of all sessions."""
        return {
            (session["id"], point)
            for session in self.plan["sessions"]
            for point in session["points"]
        }

    def look(self) -> None:
        """Note which points have been measured by now."""
        for key, attempts in self.measured(everywhere=True).items():
            self.seen.setdefault(key, min(attempts))

    def measured(self, *, everywhere: bool = False) -> dict[tuple[str, str], set[int]]:
        """Attempts that measured each point, by the results, or by what lies on hosts as well."""
        here = sorted(self.results.folder.glob("records/*/*.jsonl"))
        return complete(self.plan, [*here, *(self.ground.records(self.name) if everywhere else [])])


def breaches(
    run: Watched, strikes: Sequence[Strike], done: Done | None = None, *, finished: bool = False
) -> list[Breach]:
    """What does not hold after faults.

    Parameters
    ----------
    strikes
        The faults of this sweep so far; the last one is over.
    done
        How the sweep ended; None while it goes on.
    finished
        Whether this sweep was to finish the run.
    """
    found = [*_of_records(run), *(_of_session(strikes[-1]) if strikes else ())]
    if done is not None:
        found += [
            *_of_hosts(run),
            *_of_files(run),
            *_of_output(done),
            *_of_points(run, strikes, done),
        ]
    if done is not None and finished:
        found += _of_end(run, done)
    return found


def _of_session(strike: Strike) -> Iterator[Breach]:
    """Of the attempt that was struck no process and no secret is left."""
    words = f"--session={strike.session} --attempt={strike.attempt} "

    def left() -> list[str]:
        tasks = [task for host in strike.ring for task in strike.ground.tasks(host).items()]
        return [f"{pid} {command}" for pid, command in tasks if words in f"{command} "]

    yield from _left(left, "processes of the session", CLEARED_S)

    def secrets() -> list[str]:
        folders = [strike.ground.folder(host, strike.run) for host in strike.ring]
        return [str(path) for each in folders for path in each.glob(f"{strike.name}.secret")]

    yield from _left(secrets, "secrets of the session", CLEARED_S)


def _of_records(run: Watched) -> Iterator[Breach]:
    """Each point that was seen to be measured still is, by the same attempt and no other."""
    now = run.measured(everywhere=True)
    for key, attempt in run.seen.items():
        if now.get(key, set()) != {attempt}:
            yield Breach("lost", f"{key} was measured by attempt {attempt}, now by {now.get(key)}")


def _of_hosts(run: Watched) -> Iterator[Breach]:
    """Nothing runs any more, which would keep a namespace, and networks are as before."""
    ground = run.ground

    def running() -> list[str]:
        tasks = {pid: text for host in ground.hosts for pid, text in ground.tasks(host).items()}
        return [f"{pid} {text}" for pid, text in (tasks | ground.checkout.processes()).items()]

    yield from _left(running, "processes", CLEARED_S)

    def changed() -> list[str]:
        now = ground.networks()
        return [
            f"{host}: {before!r} is {now[host]!r}"
            for host, before in ground.before.items()
            if before != now[host]
        ]

    yield from _left(changed, "networks", CLEARED_S)
    if (now := _governors()) != run.governors:
        yield Breach("leftover", f"governors were {run.governors}, and are {now}")


def _of_files(run: Watched) -> Iterator[Breach]:
    """No half file, no secret and no lock that is held is left, here or on a host."""
    ground = run.ground
    folders = [run.results.folder, *(ground.folder(host, run.name) for host in ground.hosts)]
    files = [path for folder in folders for name in HALVES for path in folder.rglob(name)]
    locks = [path for folder in folders for path in folder.rglob("*lock")]
    found = [*map(str, files), *(f"{path} is held" for path in locks if _held(path))]
    yield from _left(lambda: found, "files", 0)


def _of_output(done: Done) -> Iterator[Breach]:
    """Nobody who reads what the sweep printed is shown a traceback."""
    if "Traceback" in done.output:
        place = done.output.index("Traceback")
        yield Breach("output", done.output[max(0, place - 300) : place + 1500])


def _of_points(run: Watched, strikes: Sequence[Strike], done: Done) -> Iterator[Breach]:
    """Each point that lacks a replicate says why, and where a fault cost it, names that.

    A sweep that was ended says nothing: it did not come to its analysis.
    """
    if ANALYSED not in done.output:
        return
    rows = pd.read_csv(run.results.folder / "points.csv").set_index("point")
    struck = {strike.session: strike for strike in strikes}
    sessions = {session["id"]: session for session in run.plan["sessions"]}
    for session, point in sorted(run.points - run.seen.keys()):
        told = REASON.findall(f"{rows.loc[point, 'reason']}; ")
        replicate = str(sessions[session]["replicate"])
        reasons = [why for why, lacking in told if replicate in lacking.split(", ")]
        strike = struck.get(session)
        if not reasons:
            yield Breach("reason", f"{session}, {point}: no reason in {told}")
        elif strike and not re.search(strike.kind.causes, reasons[0]):
            yield Breach("reason", f"{strike.told}: {point} says {reasons[0]!r}")


def _of_end(run: Watched, done: Done) -> Iterator[Breach]:
    """The last sweep went well, and each point was measured, once, by what was fetched."""
    if done.code != 0:
        yield Breach("lost", f"the run was not finished: exit status {done.code}\n{done.output}")
    measured = run.measured()
    for key in sorted(run.points):
        if len(measured.get(key, ())) != 1:
            yield Breach("lost", f"{key} was measured by attempts {measured.get(key)}")


def _left(find: Callable[[], list[str]], what: str, within_s: float) -> Iterator[Breach]:
    """What is still found after a while."""
    end = time.monotonic() + within_s
    while (found := find()) and time.monotonic() < end:
        time.sleep(0.1)
    if found:
        yield Breach("leftover", f"{what}, after {within_s:g} s:\n  " + "\n  ".join(found))


def _held(lock: Path) -> bool:
    """Whether a process holds a lock."""
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _governors() -> list[str]:
    """The governors of the machine's processors."""
    files = sorted(Path("/").glob(GOVERNORS))
    return [f"{path}: {path.read_text().strip()}" for path in files]
