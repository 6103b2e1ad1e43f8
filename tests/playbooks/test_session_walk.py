"""How the controller's walks along the sessions of hosts meet, and what they do without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests import ROOT
from tests.helpers.role_code import module
from tests.helpers.waiting import until


@pytest.fixture(scope="module")
def plugin() -> ModuleType:
    """The action's own module."""
    return module(ROOT / "roles/session/action_plugins/session_walk.py")


class Walk:
    """The walk of one host, whose sessions do what `measure` does."""

    def __init__(
        self, plugin: ModuleType, folder: Path, host: str, measure: Callable[[], object]
    ) -> None:
        self.recorded: list[str] = []
        self.measured: list[str] = []
        self.writable = True
        self.action = action = plugin.ActionModule.__new__(plugin.ActionModule)
        action.given, action.host, action.playbook = {}, host, os.getppid()
        action.walk = "0"
        action._file = lambda name, host, kind: folder / f"{name}@{host}.{kind}"
        action._fetch = action._stop = action._note_time = lambda *_: None
        action.unrecorded, action._recorded = [], self.record

        def measured(session: dict[str, Any]) -> None:
            self.measured.append(session["name"])
            measure()

        action._measure = measured

    def record(self, lane: str, attempt: int, reason: str) -> bool:
        """Record a failure, if there is space."""
        self.recorded += [reason] if self.writable else []
        return self.writable

    def start(self, *sessions: dict[str, Any]) -> threading.Thread:
        """Walk sessions in a thread."""

        def walk() -> None:
            with self.action._presence():
                for each in sessions:
                    self.action._walk(each)

        thread = threading.Thread(target=walk)
        thread.start()
        return thread


def session(name: str, hosts: str, after: dict[str, Any] | None = None) -> dict[str, Any]:
    """A session as far as walks look at it; each letter is a host."""
    ranks = {host: rank for rank, host in enumerate(hosts)}
    told = {"name": name, "id": name, "number": 1, "attempt": 1, "lanes": [name]}
    return {**told, "ranks": ranks, "after": after}


def end(thread: threading.Thread) -> None:
    """Hold that a walk ends."""
    thread.join(30)
    assert not thread.is_alive()


def test_a_session_begins_when_all_its_hosts_have_come(plugin: ModuleType, tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=30)
    walks = [Walk(plugin, tmp_path, host, both.wait) for host in "ab"]
    threads = [walk.start(session("one", "ab"), session("two", "ba")) for walk in walks]
    for thread in threads:
        end(thread)
    assert [walk.measured for walk in walks] == [["one", "two"]] * 2


def test_one_after_the_other_means_that_all_hosts_have_left_the_one_before(
    plugin: ModuleType, tmp_path: Path
) -> None:
    held = threading.Event()
    first = Walk(plugin, tmp_path, "a", lambda: held.wait(30))
    second = Walk(plugin, tmp_path, "b", lambda: None)
    one = first.start(session("one", "a"))
    until(lambda: first.measured, "a session that has begun")
    two = second.start(session("two", "b", after={"name": "one", "hosts": ["a"]}))
    until((tmp_path / "two@b.came").exists, "a host that has come to the second session")
    assert not second.measured
    held.set()
    end(one)
    end(two)
    assert second.measured == ["two"]


def test_every_reason_is_recorded_once_and_by_the_first_host(
    plugin: ModuleType, tmp_path: Path
) -> None:
    def fail() -> None:
        raise plugin.SessionFailed("b: stage killed by SIGKILL")

    walks = [Walk(plugin, tmp_path, host, fail) for host in "ab"]
    for thread in [walk.start(session("one", "ab")) for walk in walks]:
        end(thread)
    assert [walk.recorded for walk in walks] == [["b: stage killed by SIGKILL"], []]


def test_a_reason_that_cannot_be_recorded_is_recorded_later(
    plugin: ModuleType, tmp_path: Path
) -> None:
    def fail() -> None:
        raise plugin.SessionFailed("a: No space left on device")

    walk = Walk(plugin, tmp_path, "a", fail)
    walk.writable = False
    end(walk.start(session("one", "a")))
    assert not walk.recorded
    walk.writable = True
    end(walk.start(session("two", "a")))
    walk.action._record_failures()
    assert len(walk.recorded) == 2, "each of them once"


def test_a_walk_whose_playbook_was_killed_begins_no_session(
    plugin: ModuleType, tmp_path: Path
) -> None:
    walk = Walk(plugin, tmp_path, "a", lambda: None)
    child = os.fork()
    if not child:
        # This process has another parent than that in which the walk began, as after a SIGKILL.
        walk.action._walk(session("one", "a"))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert not list(tmp_path.iterdir())


def test_nobody_waits_for_a_host_whose_walk_has_ended(plugin: ModuleType, tmp_path: Path) -> None:
    end(Walk(plugin, tmp_path, "b", lambda: None).start())
    alone = Walk(plugin, tmp_path, "a", lambda: None)
    end(alone.start(session("one", "ab")))
    assert alone.measured == ["one"]


def test_a_stage_gets_its_secret_in_a_file_of_its_user_alone_or_is_not_launched(
    plugin: ModuleType, tmp_path: Path
) -> None:
    def shell(script: str, *, sudoable: bool, in_data: bytes) -> dict[str, Any]:
        done = subprocess.run(["sh", "-c", script], input=in_data, capture_output=True)
        return {"rc": done.returncode, "stderr": done.stderr.decode()}

    action = plugin.ActionModule.__new__(plugin.ActionModule)
    action.host, action._low_level_execute_command = "a", shell
    action.given = {"lease": str(tmp_path / "the lease"), "secret": "known to no one"}
    path = tmp_path / "of a stage.secret"
    action._entrust(str(path))
    assert (path.stat().st_mode & 0o777, path.read_text()) == (0o600, "known to no one")
    assert (tmp_path / "the lease").exists()
    with pytest.raises(plugin.SessionFailed, match=r"^a: secret not written: .*nowhere/secret"):
        action._entrust(str(tmp_path / "nowhere/secret"))


HOSTILE = "a b'\"; touch pwned #$(touch pwned)`touch pwned`\n& Ünïcode"


def test_no_name_reaches_a_shell_as_anything_but_a_word(
    plugin: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launch whose folders, host and session have such names is run by a real shell."""
    folder = tmp_path / HOSTILE
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    told = tmp_path / "told.json"
    code = f"import json, sys; json.dump(sys.argv, open({str(told)!r}, 'w'))"
    worker = [sys.executable, "-c", code]
    action = plugin.ActionModule.__new__(plugin.ActionModule)
    action.host, action._entrust = HOSTILE, lambda path: None
    action.given = {"run_dir": str(folder), "lease": f"{folder}/lease", "lease_s": 30.0}
    action.given |= {"site": HOSTILE, "home": HOSTILE, "worker": worker, "threads": None}

    def shell(script: str, given: str) -> dict[str, Any]:
        done = subprocess.run(["sh", "-c", script], input=given, text=True, capture_output=True)
        return {"failed": done.returncode != 0, "stderr": done.stderr, "msg": ""}

    action._command = shell
    session = {"loads": {}, "deadline_s": 9, "attempt": 1, "tensors": {HOSTILE: HOSTILE}}
    stage = {"name": "stage", "session": HOSTILE, "points": [HOSTILE]}
    action._launch(session, stage, HOSTILE, load=True)
    said = json.loads(told.read_text(encoding="utf-8"))
    assert {f"--session={HOSTILE}", f"--host={HOSTILE}", f"--run-dir={folder}"} <= set(said)
    assert (folder / "stage.points").read_text(encoding="utf-8") == HOSTILE
    assert sorted(path.name for path in folder.iterdir()) == ["lease", "stage.points"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([HOSTILE, told.name])
