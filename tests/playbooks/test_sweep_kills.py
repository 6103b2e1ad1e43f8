"""SIGKILL at random moments: of the controller, or of a stage of any rank.

The sweep is started again afterwards. At the end the records are held against what was seen while
it ran: every point that was finished is there, and none was measured twice.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import ZipFile

import pytest

from analysis.archive import seal
from paretopipe_worker.plan.labels import split_label
from tests.helpers.complete import complete
from tests.helpers.labs import HOSTS, nothing_left, throwaway
from tests.helpers.namespaces import reason_without_namespaces
from tests.helpers.secrets import Processes, holding, now_s, processes, scratch
from tests.helpers.sweeps import DEADLINE_S, Checkout, Running
from tests.helpers.waiting import until

pytestmark = [
    pytest.mark.slow(minutes=2),
    pytest.mark.skipif(bool(reason_without_namespaces()), reason=reason_without_namespaces()),
]

RUN = "killed"
EXPERIMENT = """\
models: [paretopipe_worker.model.tiny:network]
links: [{link}]
backends: {backends}
splits: {{granularity: block, cuts: {cuts}}}
replicates: {replicates}
phases: {{min_items: 20, min_s: {min_s}, max_s: 10, retries: 0}}
seed: 3
"""
OPEN_TCP = {"link": "none", "backends": "[tcp]", "replicates": 3, "min_s": 0.5, "cuts": '["0"]'}
SHAPED_TCP_AND_RPC = {
    "cuts": '["0"]',
    "link": "{name: rate20, rate_mbit: 20}",
    "backends": "[tcp, rpc]",
    "replicates": 3,
    "min_s": 1.5,
}
THREE_STAGES = {
    "link": "{name: uneven, hops: [{rate_mbit: 40}, {rate_mbit: 20}], return: {rate_mbit: 30}}",
    "backends": "[tcp]",
    "replicates": 1,
    "min_s": 1.5,
    "cuts": '["0", "3", "5", ["1", "1"], ["3", "@first"]]',
}
SOON_S = 0.5
"""Seconds within which a victim is killed: less than any point takes, with both its legs."""

ANNOUNCED = re.compile(r"^  session \d+ of \d+: (\S+),\n? *(\d+) of \d+ points", re.MULTILINE)
FINISHED = re.compile(r"split +\d+ of \d+ +(\S+) .* img/s")
VICTIMS = {"source": 0, "second": 1, "sink": -1}
"""Place in a session's ring of the stages that may be killed, by what they are called here."""


@dataclass
class Tormented:
    """A run whose processes are killed, and what was seen of it."""

    copy: Checkout
    experiment: Path
    moments: random.Random
    inventory: str = "inventory/local"
    killed: Counter[str] = field(default_factory=Counter)
    reported: Counter[tuple[str, str]] = field(default_factory=Counter)
    output: str = ""
    secrets: list[str] = field(default_factory=list)

    def sweep(self, victims: list[str], *arguments: str) -> int:
        """Sweep, killing one of the `victims` in each session, in this order, while there are any.

        Return the exit status. The controller is the last of them, if any, and ends the sweep.
        """
        soon = ("-e", "session_poll_s=0.3")
        running = self.copy.start_sweep(
            self.experiment, RUN, *soon, *arguments, inventory=self.inventory
        )
        for number, victim in enumerate(victims, start=1):
            announced = self.announced(running, number)
            if announced is None:
                break
            session, points = announced
            after = self.moments.randrange(points)
            reached(running, session, after)
            # Not to wait for anything: the moment is random, and before the next point is over.
            time.sleep(self.moments.uniform(0, SOON_S))
            if victim == "controller":
                self.secrets += secrets(self.copy)
                running.process.kill()
            else:
                os.kill(self.stage(self.ring(session)[VICTIMS[victim]]), signal.SIGKILL)
            self.killed[victim] += 1
        return self.finish(running)

    def finish(self, running: Running) -> int:
        """Wait for the end of a sweep and note what it reported; its exit status."""
        code = running.wait().code
        self.output += running.output
        for session, text in by_session(running.output).items():
            self.reported.update((session, split) for split in FINISHED.findall(text))
        return code

    def announced(self, running: Running, number: int) -> tuple[str, int] | None:
        """Wait until the sweep's session of this number is announced: its id, and its points.

        None where the sweep ends before: a stage may have been killed behind its last point, so
        that nothing is left of its session.
        """

        def found() -> list[tuple[str, str] | None]:
            ended = running.process.poll() is not None
            return [*ANNOUNCED.findall(running.output)[number - 1 :], *([None] if ended else [])]

        announced = until(found, f"session {number}", DEADLINE_S)[0]
        return announced and (announced[0], int(announced[1]))

    def ring(self, session: str) -> list[str]:
        """The hosts of a session by rank."""
        sessions = self.copy.results(RUN).plan["sessions"]
        [placement] = [each["placement"] for each in sessions if each["id"] == session]
        return list(placement)

    def stage(self, host: str) -> int:
        """Pid of the stage process of one host, once it is there."""

        def found() -> list[int]:
            return [
                pid
                for pid, command in self.copy.processes().items()
                if " paretopipe_worker stage " in command and f"--host={host}" in command
            ]

        return int(until(found, f"a stage on {host}")[0])


def by_session(output: str) -> dict[str, str]:
    """What a sweep printed after each announcement of a session."""
    parts = ANNOUNCED.split(output)[1:]
    return dict(zip(parts[::3], parts[2::3], strict=True))


def reached(running: Running, session: str, points: int) -> None:
    """Wait until so many points of a session are reported, while the sweep runs."""

    def reported() -> bool:
        assert running.process.poll() is None, running.output
        return len(FINISHED.findall(by_session(running.output)[session])) >= points

    until(reported, f"{points} points of {session}")


def measured(copy: Checkout) -> Counter[tuple[str, str]]:
    """How many attempts measured each split of each session, by the records alone."""
    results = copy.results(RUN)
    splits = {point["id"]: split_label(point["split"]) for point in results.plan["points"]}
    attempts = complete(results.plan, sorted(results.folder.glob("records/*/*.jsonl")))
    return Counter(
        {(session, splits[point]): len(found) for (session, point), found in attempts.items()}
    )


def hold(tormented: Tormented, kills: int) -> None:
    """Hold that all was killed that should be, that no point was lost, and none measured twice."""
    copy = tormented.copy
    assert tormented.killed.total() == kills
    found = measured(copy)
    plan = copy.results(RUN).plan
    assert set(found.values()) == {1}, found
    assert len(found) == sum(len(session["points"]) for session in plan["sessions"])
    assert set(tormented.reported.values()) == {1}, "a point that was finished came again"
    points = copy.results(RUN).points
    assert set(points["status"]) == {"ok"}
    # Of files that are whole: one process each, which measured several points.
    for host in (host["name"] for host in plan["hosts"]):
        ends = [end for _, end in copy.results(RUN).ends(host) if end]
        assert len({end.process_start_ns for end in ends}) == len(ends)
    nothing_left(copy)


@contextmanager
def to_torment(
    folder: Path, seed: int, asked: dict[str, object], inventory: str = "inventory/local"
) -> Iterator[Tormented]:
    """Make a run, of which nothing was measured yet."""
    print(f"moments and victims are drawn with seed {seed}")
    with throwaway(folder / "checkout") as copy:
        experiment = copy.write("experiments/killed.yml", EXPERIMENT.format(**asked))
        yield Tormented(copy, experiment, random.Random(seed), inventory)


def secrets(copy: Checkout) -> set[str]:
    """What the stages that run prove to know, which only the hosts' user may read."""
    files = copy.root.glob(".lab/*/home/runs/*/*.secret")
    told = {(file.stat().st_mode & 0o777, file.read_text()) for file in files}
    assert {mode for mode, _ in told} <= {0o600}
    return {text for _, text in told if text}


@dataclass(frozen=True)
class Resumed:
    """A run that was killed three times and then finished."""

    tormented: Tormented
    statuses: tuple[int, int]
    processes: Processes
    began_s: float


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Resumed]:
    began_s = now_s()
    with to_torment(tmp_path_factory.mktemp("killed"), 1, OPEN_TCP) as tormented:
        killed = tormented.sweep(["source", "sink", "controller"])
        # As talkative as Ansible can be, to see what it must not tell.
        talkative = ("-e", "session_poll_s=0.3", "-vvv", "--diff")
        with processes() as seen:
            running = tormented.copy.start_sweep(tormented.experiment, RUN, *talkative)
            running.prints("session 1 of")
            tormented.secrets += secrets(tormented.copy)
            finished = tormented.finish(running)
        run = tormented.copy.results(RUN).folder
        seal(run, run.with_suffix(".zip"))
        yield Resumed(tormented, (killed, finished), seen, began_s)


@pytest.mark.must_run
def test_no_point_is_lost_or_doubled_when_anything_is_killed(resumed: Resumed) -> None:
    assert resumed.statuses == (-signal.SIGKILL, 0)
    # A person sees why a session failed while the others go on.
    for victim in HOSTS:
        assert f"{victim}: stage killed by SIGKILL" in resumed.tormented.output
    hold(resumed.tormented, kills=3)


@pytest.mark.must_run
def test_the_secret_is_the_hosts_alone_and_told_nowhere(resumed: Resumed) -> None:
    first, second = resumed.tormented.secrets
    assert len(first) == len(second) == 64
    assert second != first, "each sweep makes its own"
    root = resumed.tormented.copy.root
    files = [*root.glob("results/**/*"), *root.glob(".lab/**/*")]
    assert not [path for path in files if path.suffix == ".secret"], "it is needed no more"
    assert (root / f"results/{RUN}/report.html").is_file(), "there is something to search"
    assert holding([first, second], [root, *scratch(resumed.began_s)], resumed.began_s) == []
    with ZipFile(root / f"results/{RUN}.zip") as archive:
        sealed = [archive.read(name) for name in archive.namelist()]
    assert not [text[:200] for text in sealed if first.encode() in text or second.encode() in text]
    assert "umask 077 && cat >" in resumed.tormented.output, "how the hosts got it is shown"
    assert first not in resumed.tormented.output and second not in resumed.tormented.output


@pytest.mark.must_run
def test_no_process_was_started_with_the_secret(resumed: Resumed) -> None:
    """All processes of this computer were looked at, again and again, while a sweep ran."""
    seen, [_, second] = resumed.processes, resumed.tormented.secrets
    assert any(b"paretopipe_worker\0stage\0" in told for told in seen.told)
    assert any(b"--secret=" in told for told in seen.told), "its file is named"
    assert seen.holding([second]) == []


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_no_point_is_lost_or_doubled_when_anything_is_killed_thirty_times(
    tmp_path: Path,
) -> None:
    with to_torment(tmp_path, 2, SHAPED_TCP_AND_RPC) as tormented:
        kill_and_finish(tormented, 30, ["source", "sink", "controller"])
        hold(tormented, kills=30)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_no_point_of_three_stages_is_lost_or_doubled_when_anything_is_killed(
    tmp_path: Path,
) -> None:
    with to_torment(tmp_path, 4, THREE_STAGES, "inventory/three") as tormented:
        kill_and_finish(tormented, 8, ["source", "second", "sink", "controller"])
        hold(tormented, kills=8)
        plan = tormented.copy.results(RUN).plan
        rings = sorted(len(session["placement"]) for session in plan["sessions"])
        assert rings == [2, 3], "with the last host idle, and with all of them"


def kill_and_finish(tormented: Tormented, kills: int, victims: Sequence[str]) -> None:
    """Sweep and kill, until so many processes were killed and the run is complete."""
    # A point at which two sessions broke counts as failed: nothing tells these kills from those of
    # a kernel that is out of memory because of it.
    retry = ("-e", "retry_failed=true")
    while (left := kills - tormented.killed.total()) > 0:
        # One in each session, until the sweep has ended.
        drawn = tormented.moments.choices(victims, k=6)
        last = (*drawn, "controller").index("controller")
        tormented.sweep(drawn[: last + 1][:left], *retry)
    assert tormented.sweep([], *retry) == 0
