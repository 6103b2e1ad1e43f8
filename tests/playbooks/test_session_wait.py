"""What the controller's wait for a stage says of it, and of the stages of other hosts."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from paretopipe_worker.host.supervise import Job, launch, stop
from paretopipe_worker.records.files import Writer
from paretopipe_worker.records.lines import End, PointEnd
from tests import ROOT
from tests.helpers.records import HEADER
from tests.helpers.role_code import module
from tests.helpers.waiting import until

WAIT = "import signal; signal.pause()"


@pytest.fixture(scope="module")
def plugin() -> ModuleType:
    """The action's own module."""
    return module(ROOT / "roles/session/action_plugins/session_wait.py")


class Waiting:
    """A wait for the stage of host ``server``, with a local shell as the way to it."""

    def __init__(self, plugin: ModuleType, folder: Path) -> None:
        self.folder = folder
        self.plugin = plugin
        self.looks = 0
        self.said: str | None = None
        self.action = plugin.ActionModule.__new__(plugin.ActionModule)
        self.action.given = {
            "playbook": os.getppid(),
            "name": "s1.1",
            "run_dir": str(folder),
            "lease": str(folder / "lease"),
            "lease_s": 60.0,
            "poll_s": 0.01,
            "deadline_s": 60.0,
            "predicted_s": 100.0,
            "predicted_after_s": 200.0,
            "label": "",
        }
        self.action.prepare("server")
        self.action._shell = self._shell
        self.action._failure_file = lambda host: folder / f"s1.1@{host}.failed"
        self._thread = threading.Thread(target=self._run)

    def _shell(self, script: str) -> str:
        self.looks += 1
        done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
        return done.stdout

    def _run(self) -> None:
        self.said = self.action.wait_for("s1.1")

    def start(self, program: str = WAIT) -> dict[str, Any]:
        """Launch a stage of sorts and begin to wait for it."""
        lease = self.folder / "lease"
        lease.touch()
        command = (sys.executable, "-c", program)
        launched = launch(Job("s1.1", command, self.folder, lease, 60, 60))
        self._thread.start()
        return launched

    def fail_peer(self) -> None:
        """Let the instance of another host say that its stage failed, and be heard."""
        (self.folder / "s1.1@edge.failed").write_text("edge: stage exited with 1: link broke")
        seen = self.looks
        until(lambda: self.looks > seen + 1 or self.said, "two looks after that")

    def end(self) -> str | None:
        """Wait for its end; what it failed with."""
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self.said


@pytest.fixture
def waiting(plugin: ModuleType, tmp_path: Path) -> Waiting:
    return Waiting(plugin, tmp_path)


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Any:
    yield
    stop(tmp_path)


def test_a_stage_that_fails_after_a_peers_still_tells_its_own_reason(waiting: Waiting) -> None:
    launched = waiting.start()
    waiting.fail_peer()
    os.kill(launched["child_pid"], signal.SIGKILL)
    assert waiting.end() == "server: stage killed by SIGKILL"


def test_a_stage_that_runs_on_after_a_peers_failed_is_given_up(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting.plugin, "AFTER_PEERS_S", 0.2)
    monkeypatch.setattr(waiting.plugin, "AFTER_PEERS_POLL_S", 0.01)
    waiting.start()
    waiting.fail_peer()
    assert waiting.end() == "edge: stage exited with 1: link broke"


def test_a_stage_that_ended_well_did_so_whatever_its_peers_say(waiting: Waiting) -> None:
    (waiting.folder / "s1.1@edge.failed").write_text("edge: stage exited with 1: link broke")
    waiting.start("pass")
    assert waiting.end() is None


def test_the_reason_is_that_of_the_records_last_line_if_that_is_their_end(
    waiting: Waiting,
) -> None:
    with Writer(waiting.folder / "records/s1.1.jsonl") as writer:
        writer.write(HEADER)
        writer.write(End("failed", "server: out of memory", 0, 1, {}))
    waiting.start("raise SystemExit(1)")
    assert waiting.end() == "server: stage exited with 1: out of memory"


def test_a_stage_killed_right_after_a_point_gets_no_reason_from_that(waiting: Waiting) -> None:
    with Writer(waiting.folder / "records/s1.1.jsonl") as writer:
        writer.write(HEADER)
        writer.write(PointEnd("p", "failed", "too slow", True, "exact", None))
    os.kill(waiting.start()["child_pid"], signal.SIGKILL)
    assert waiting.end() == "server: stage killed by SIGKILL"


def test_what_a_stage_said_last_is_its_reason_only_if_it_ended_by_itself(waiting: Waiting) -> None:
    launched = waiting.start(f"print('a warning', flush=True); {WAIT}")
    until((waiting.folder / "s1.1.log").read_text, "what the stage says")
    os.kill(launched["child_pid"], signal.SIGKILL)
    said = "server: stage killed by SIGKILL: the last line of its log is a warning"
    assert waiting.end() == said


def test_a_stage_that_ends_without_a_record_says_why_in_its_log(waiting: Waiting) -> None:
    waiting.start("raise ValueError('no such file')")
    assert waiting.end() == "server: stage exited with 1: ValueError: no such file"


def test_a_supervisor_whose_pid_another_process_has_after_a_reboot_is_gone(
    waiting: Waiting,
) -> None:
    launched = waiting.start()
    until(lambda: waiting.action.supervisor == str(launched["pid"]), "a look at the supervisor")
    # Its status says that it runs, for as long as nobody is left who could say otherwise.
    status = waiting.folder / "s1.1.status.json"
    text = status.read_text()
    kept = waiting.folder / "of this test.json"
    kept.write_text(text.replace(f'"pid": {launched["pid"]}', f'"pid": {os.getpid()}'))
    kept.rename(status)
    said = waiting.end()
    assert said == "server: stage and its supervisor were killed, as a reboot does"
    status.write_text(text)


def test_a_finished_point_is_one_line_for_people(plugin: ModuleType) -> None:
    point = {
        "model": "mobilenet_v2",
        "link": "rate20",
        "backend": "tcp",
        "split": "features.3",
        "done": 4,
        "of": 20,
        "images_per_s": 11.437,
        "latency_ms": 98.471,
        "status": "ok",
    }
    line = plugin.progress_line(point, left_s=130.0)
    assert re.sub(" +", " ", line.strip()) == (
        "mobilenet_v2 rate20 tcp split 4 of 20 features.3 11.44 img/s 98.47 ms 2 min left"
    )


def test_a_failed_point_shows_its_reason(plugin: ModuleType) -> None:
    point = {
        "model": "m",
        "link": "none",
        "backend": "tcp",
        "split": "@last",
        "done": 1,
        "of": 2,
        "images_per_s": None,
        "latency_ms": None,
        "status": "failed",
        "reason": "3 items; a point needs 6",
    }
    assert "failed: 3 items; a point needs 6" in plugin.progress_line(point, left_s=5.0)


def test_what_is_to_come_is_off_its_prediction_by_as_much_as_this_session(
    waiting: Waiting,
) -> None:
    # Twice as slow as predicted: 100 s for what was to take 50 s, and 50 s of it were to go.
    waiting.action.started_s -= 100
    assert waiting.action._left_s(50) == pytest.approx(1.5 * (50 + 200), rel=0.01)
    # At the end of the session its own time alone tells.
    assert waiting.action._left_s(0) == pytest.approx(200, rel=0.01)


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.2, "4 s left"), (100, "2 min left"), (9000, "2.5 h left")]
)
def test_time_left_is_rough(plugin: ModuleType, seconds: float, text: str) -> None:
    assert plugin.time_left(seconds) == text


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "null\ntrue",
        "[1]\ntrue\n",
        '{"state": "ended"}\ntrue\n',
        '{"pid": "1; touch pwned"}\ntrue\n',
        'null\ntrue\n{"done": 1}\n',
        f"{'[' * 100_000}\ntrue\n",
    ],
    ids=range(7),
)
def test_a_host_that_answers_with_something_else_fails_its_stage(
    plugin: ModuleType, tmp_path: Path, answer: str
) -> None:
    waiting = Waiting(plugin, tmp_path)
    waiting.action._shell = lambda script: answer
    said = waiting.action.wait_for("s1.1")
    assert said is not None and said.startswith(f"server: answered {answer[:60]!r}: "), said
