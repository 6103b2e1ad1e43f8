"""Sweeps on the local lab in which much goes wrong.

``interrupted``, ``failing`` and ``finished`` are one run: a sweep takes half a minute whatever it
measures, so each goes on where the one before it stopped.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from paretopipe_worker.records.files import read_records
from paretopipe_worker.records.lines import Header, Ready
from tests.helpers.labs import HOSTS, Lab, nothing_left, shaped, throwaway, watched
from tests.helpers.namespaces import reason_without_namespaces
from tests.helpers.sweeps import Checkout, Done, Running
from tests.helpers.waiting import until

pytestmark = [
    pytest.mark.slow(minutes=1),
    pytest.mark.must_run,
    pytest.mark.skipif(bool(reason_without_namespaces()), reason=reason_without_namespaces()),
]

LEASE_S = 6
SOON = ("-e", "session_poll_s=0.3")
"""What finishes is seen long before the next point, which takes seconds, does."""

# The slow link comes first with this seed, and on it the point at which nothing crosses: once
# that one is reported, two follow that take longer than the lease.
TROUBLE = """\
models: [paretopipe_worker.model.tiny:network]
links: [none, {name: rate20, rate_mbit: 20}, {name: slow, rate_mbit: 1}]
splits: {granularity: block, cuts: ["0"]}
phases: {min_items: 40, min_s: 0.1, max_s: 30, retries: 0}
seed: 2
"""
SLOW, NONE = (f"r0-{link}-tcp-paretopipe_worker.model.tiny.network-p0" for link in ("slow", "none"))

# All of it is on one slow link, so that there is time to kill the controller.
ONE_SLOW = """\
models: [paretopipe_worker.model.tiny:network]
links: [{name: slow, rate_mbit: 0.5}]
splits: {granularity: block, cuts: ["0"]}
phases: {min_items: 20, min_s: 0.1, max_s: 30, retries: 0}
seed: 2
"""

HOLD_PORT = """\
import errno, signal, socket, sys, time
end = time.monotonic() + 20
while True:
    try:
        listener = socket.create_server(("10.0.0.2", int(sys.argv[1])))
        break
    except OSError as error:
        if error.errno != errno.EADDRINUSE or time.monotonic() > end:
            raise
print("holds the port", flush=True)
signal.pause()
"""


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Checkout]:
    with throwaway(tmp_path / "checkout") as made:
        yield made


@dataclass
class Interrupted:
    """A sweep that was stopped by a signal in the middle of a session on a shaped link."""

    checkout: Checkout
    done: Done
    links_before: dict[str, str]
    links_meanwhile: dict[str, str]
    links_after: dict[str, str]


def interrupt(copy: Checkout, send: Callable[[Running], None]) -> Interrupted:
    """Interrupt a sweep of TROUBLE after its first point, and wait until nothing is left of it."""
    experiment = copy.write("experiments/trouble.yml", TROUBLE)
    running = copy.start_sweep(experiment, "trouble", "-e", f"lease_s={LEASE_S}", *SOON)
    with watched(copy, running) as lab:
        before = lab.links()
        running.prints("split 1 of 3  @first")
        assert f"session 1 of 3: {SLOW}" in running.output, "the seed puts another session first"
        assert "session 2 of 3" not in running.output, "the seed puts another point first"
        meanwhile = lab.links()
        send(running)
        done = running.wait()
        nothing_left(copy, 2 * LEASE_S + 10)
        return Interrupted(copy, done, before, meanwhile, lab.links())


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Interrupted]:
    with throwaway(tmp_path_factory.mktemp("interrupted") / "checkout") as copy:
        yield interrupt(copy, lambda running: running.signal(signal.SIGINT))


@pytest.mark.long  # tests/test_chaos.py interrupts a sweep, too
def test_after_ctrl_c_the_hosts_end_their_stages_and_put_their_links_back(
    interrupted: Interrupted,
) -> None:
    assert interrupted.done.code != 0
    assert shaped(interrupted.links_meanwhile)
    assert interrupted.links_after == interrupted.links_before
    found = interrupted.checkout.root.glob(f".lab/*/home/runs/trouble/{SLOW}.1.status.json")
    reasons = [json.loads(path.read_text())["reason"] for path in found]
    # The stage that is ended first takes the other with it.
    assert [reason for reason in reasons if "was last renewed" in reason], reasons


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_after_the_playbook_was_ended_the_hosts_end_their_stages_and_put_their_links_back(
    copy: Checkout, number: signal.Signals
) -> None:
    stopped = interrupt(copy, lambda running: running.process.send_signal(number))
    assert stopped.done.code != 0
    assert shaped(stopped.links_meanwhile)
    assert stopped.links_after == stopped.links_before


@dataclass
class Failing:
    """The same run, resumed: a stage is killed in one session, a port is in use in the next."""

    checkout: Checkout
    done: Done
    links_before: dict[str, str]
    links_after: dict[str, str]
    points: pd.DataFrame
    records: dict[str, bytes]


@pytest.fixture(scope="module")
def failing(interrupted: Interrupted) -> Failing:
    copy = interrupted.checkout
    running = copy.start_sweep("experiments/trouble.yml", "trouble", *SOON)
    with watched(copy, running) as lab:
        before = lab.links()
        until(lambda: joined(copy, f"{SLOW}.2"), "stages that found each other", 120)
        os.kill(stage_of(copy, "server"), signal.SIGKILL)
        port = copy.start(".lab/server/python", "-c", HOLD_PORT, "29400")
        port.prints("holds the port")
        # Before the next session is launched, which needs it.
        running.prints("cannot listen at 10.0.0.2:29400")
        port.process.kill()
        port.process.wait()
        done = running.wait()
        nothing_left(copy)
        after = lab.links()
    results = copy.results("trouble")
    return Failing(copy, done, before, after, results.points, results.raw())


def joined(copy: Checkout, attempt: str) -> bool:
    """Whether the source of an attempt has found the other stage."""
    path = copy.root / f".lab/edge/home/runs/trouble/records/{attempt}.jsonl"
    return path.exists() and any(isinstance(line, Ready) for line in read_records(path))


def stage_of(copy: Checkout, host: str) -> int:
    """Pid of the stage process of one host."""
    [pid] = [
        pid
        for pid, command in copy.processes().items()
        if " paretopipe_worker stage " in command and f"--host={host}" in command
    ]
    return pid


@pytest.mark.long  # test_sweep_kills.py kills stages, test_session_failures.py takes a port
def test_a_killed_stage_and_a_port_in_use_fail_their_sessions_and_no_other(
    failing: Failing,
) -> None:
    failing.done.refused(
        "2 of 3 sessions failed",
        f"{SLOW}: ",
        "server: stage killed by SIGKILL",
        f"{NONE}: ",
        "server: stage exited with 1: cannot listen at 10.0.0.2:29400: Address already in use",
        "data_port and the port after it must be free",
        "Measure what is missing with: -e run=trouble",
    )
    assert failing.done.code == 2
    failed = failing.points[failing.points["status"] == "failed"].groupby("link")
    # On the slow link @first was complete before the sweep was interrupted, and maybe another one
    # before the lease ran out.
    left = header(failing, f"{SLOW}.2").points
    assert 1 <= len(left) <= 2
    points = failed["point"].agg(set).to_dict()
    assert points["slow"] == set(left)
    assert points.keys() == {"slow", "none"}
    assert len(points["none"]) == 3
    assert f"{6 - len(left)} of 9 points measured, {3 + len(left)} failed" in failing.done.output
    assert failed["reason"].first().str.contains("killed|Address already in use").all()
    assert {f"records/controller/{SLOW}.2.jsonl", f"records/controller/{NONE}.1.jsonl"} <= set(
        failing.records
    )


def header(failing: Failing, attempt: str) -> Header:
    """First line of the source's records of one attempt."""
    path = failing.checkout.results("trouble").folder / f"records/edge/{attempt}.jsonl"
    first = next(read_records(path))
    assert isinstance(first, Header)
    return first


@pytest.mark.long
def test_links_are_put_back_after_a_sweep_that_failed(failing: Failing) -> None:
    assert not shaped(failing.links_before)
    assert failing.links_after == failing.links_before


@pytest.fixture(scope="module")
def finished(failing: Failing) -> Done:
    copy = failing.checkout
    # As if the controller had been killed while it fetched this.
    half = copy.results("trouble").folder / f"records/server/{SLOW}.2.jsonl"
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    return copy.sweep("experiments/trouble.yml", "trouble")


@pytest.mark.long  # as above
def test_the_same_run_again_measures_what_is_missing_and_nothing_else(
    failing: Failing, finished: Done
) -> None:
    output = finished.succeeded().output
    assert "2 of 3 sessions to go" in output
    assert "9 of 9 points measured" in output
    results = failing.checkout.results("trouble")
    assert set(results.points["status"]) == {"ok"}
    now = results.raw()
    assert {path: now[path] for path in failing.records} == failing.records
    attempts = (f"{SLOW}.3", f"{NONE}.2")
    new = {f"records/{host}/{attempt}.jsonl" for host in HOSTS for attempt in attempts}
    assert set(now) - set(failing.records) == new
    # What was in hand when the stage was killed comes last.
    assert set(header(failing, f"{SLOW}.3").points) == set(header(failing, f"{SLOW}.2").points)
    assert results.points.set_index("link")["tries"].groupby("link").max().to_dict() == {
        "slow": 3,
        "none": 2,
        "rate20": 1,
    }
    nothing_left(failing.checkout)


@pytest.mark.long
def test_restore_clears_up_after_a_killed_controller(copy: Checkout) -> None:
    experiment = copy.write("experiments/slow.yml", ONE_SLOW)
    running = copy.start_sweep(experiment, "slow", "-e", "lease_s=120")
    running.prints("split 1 of 3  @first")
    with watched(copy, running) as lab:
        assert shaped(lab.links())
    running.process.kill()
    running.wait(10)
    assert stage_of(copy, "edge")
    restore = (".venv/bin/ansible-playbook", "playbooks/restore.yml", "-i", "inventory/local")
    copy.run(*restore).succeeded()
    nothing_left(copy)
    assert not Lab(copy).is_up
    assert "changed=0" in copy.run(*restore).succeeded().output
