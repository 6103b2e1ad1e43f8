"""Ansible action: walk the sessions of a host, one after the other, in the plan's order.

One instance per host runs on the controller, all at the same time. At each session the instances of
its hosts meet, so that sessions without a common host run side by side. Then each shapes its host's
link, launches its stages, waits for them (action ``session_wait``) and fetches their records
(``session_fetch``). A session that fails on one host fails on all; the reasons are recorded, and
the walk goes on.

A task for each of these steps would cost the controller more than the steps themselves: with
hundreds of hosts a lease would run out between two of them.

Instances tell one another by empty or small files in Ansible's own temporary folder, which are
named by the session's attempt and the host: ``.came``, ``.failed`` with the reason, and ``.left``.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible import constants  # type: ignore[import-untyped]
from ansible.errors import AnsibleConnectionFailure  # type: ignore[import-untyped]
from ansible.plugins.action import ActionBase  # type: ignore[import-untyped]
from ansible.utils.display import Display  # type: ignore[import-untyped]

SPEC: dict[str, dict[str, Any]] = {
    "sessions": {"type": "list", "elements": "dict", "required": True},
    "run_dir": {"type": "path", "required": True},
    "results": {"type": "path", "required": True},
    "checkout": {"type": "path", "required": True},
    "controller_python": {"type": "path", "required": True},
    "lease": {"type": "path", "required": True},
    "lease_s": {"type": "float", "required": True},
    "secret": {"type": "str", "required": True, "no_log": True},
    "poll_s": {"type": "float", "required": True},
    "link": {"type": "dict", "required": True},
    "worker": {"type": "list", "elements": "str", "required": True},
    "site": {"type": "path", "required": True},
    "home": {"type": "path", "required": True},
    "threads": {"type": "int"},
}
MEET_POLL_S = 0.05
"""Seconds between two looks for the instances of other hosts."""

LAUNCH = """\
touch {lease} && cat >{points} && PYTHONPATH={site} exec {command}"""
"""The script of a launch. It renews the lease and keeps the points, of which an argument cannot
hold thousands, in a file."""

ENTRUST = "touch {lease} && umask 077 && cat >{secret}"
"""The script that gives a host the secret for one stage, whose supervisor deletes it at its end."""


class SessionFailed(Exception):
    """The session cannot go on at this host: why, beginning with the name of a host."""


class ActionModule(ActionBase):  # type: ignore[misc]
    """Walk the sessions; returns `failures` with reasons, of sessions whose first host this is."""

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Walk them all; a session that fails is no failure of the walk."""
        super().run(tmp, task_vars)
        _, self.given = self.validate_argument_spec(argument_spec=SPEC)
        self.task_vars = task_vars or {}
        self.host = str(self.task_vars["inventory_hostname"])
        self.playbook = os.getppid()
        # A guided sweep walks several times: who has left an earlier walk has not left this one.
        self.walk = str(max((each["walk"] for each in self.given["sessions"]), default=0))
        self.unrecorded: list[tuple[dict[str, Any], int, str]] = []
        with self._presence():
            failures = [
                {"session": session["id"], "reason": reason}
                for session in self.given["sessions"]
                if (reason := self._walk(session))
            ]
        self._record_failures()
        return {"changed": bool(self.given["sessions"]), "failures": failures}

    def _walk(self, session: dict[str, Any]) -> str | None:
        """Run one session with its other hosts; return why it failed, on the first host alone."""
        self._end_if_orphaned()
        self._mark(session["name"], "came")
        after = session["after"] or {"name": "", "hosts": []}
        self._meet(after["name"], after["hosts"], "left")
        self._meet(session["name"], session["ranks"], "came")
        began_ns = time.time_ns()
        try:
            self._measure(session)
        except SessionFailed as error:
            self._mark(session["name"], "failed", str(error))
            self._stop()
        finally:
            self._fetch(session)
            self._mark(session["name"], "left")
        if self.host != next(iter(session["ranks"])):
            return None
        self._meet(session["name"], session["ranks"], "left")
        self._note_time(session, began_ns)
        if not (reasons := self._told(session, "failed")):
            return None
        reason = "; ".join(dict.fromkeys(reasons))
        Display().display(f"  session {session['number']} failed: {reason}", color="red")
        self.unrecorded += [(lane, session["attempt"], reason) for lane in session["lanes"]]
        self._record_failures()
        return reason

    def _measure(self, session: dict[str, Any]) -> None:
        """Shape the link, launch the host's stages, and wait until they have ended well."""
        stages = [lane for lane in session["lanes"] if self.host in lane["hosts"]]
        try:
            state_dir = self._shape(session)
            # A stage that waited for one that is never launched would wait in vain.
            if reasons := self._told(session, "failed"):
                raise SessionFailed(reasons[0])
            for stage in stages:
                self._launch(session, stage, state_dir, load=stage is stages[0])
        except AnsibleConnectionFailure as error:
            raise SessionFailed(f"{self.host}: {error.message}") from error
        waited = self._wait(session, [stage["name"] for stage in stages])
        if waited.get("failed"):
            raise SessionFailed(str(waited["msg"]))

    def _shape(self, session: dict[str, Any]) -> str:
        """Shape the host's link, as root; return the folder that says how it is shaped."""
        link = session["link"]
        arguments = {
            **self.given["link"],
            "state": "shaped",
            "profile": {**link, "ways": link["ways"][self.host]},
            "tcp": session["tcp"],
            "address": session["addresses"][self.host],
            "ports": session["ports"],
            "lease": self.given["lease"],
            "lease_s": self.given["lease_s"],
        }
        shaped = self._execute_module(
            module_name="netem_link", module_args=arguments, task_vars=self.task_vars
        )
        if shaped.get("failed"):
            raise SessionFailed(f"{self.host}: {shaped.get('stderr') or shaped['msg']}".strip())
        return str(shaped["state_dir"])

    def _launch(
        self, session: dict[str, Any], stage: dict[str, Any], state_dir: str, *, load: bool
    ) -> None:
        """Launch one stage, detached and under the lease."""
        given, name = self.given, stage["name"]
        folder = f"{given['run_dir']}/{name}"
        self._entrust(f"{folder}.secret")
        threads = [f"--threads={given['threads']}"] if given["threads"] else []
        loads = session["loads"].get(self.host, []) if load else []
        command = [
            *(*given["worker"], "launch", f"--run-dir={given['run_dir']}", f"--name={name}"),
            *(f"--lease={given['lease']}", f"--lease-s={given['lease_s']}"),
            *(f"--deadline-s={session['deadline_s']}", *threads, *loads, "--", "stage"),
            *(f"--plan={given['run_dir']}/plan.json", f"--session={stage['session']}"),
            *(f"--attempt={session['attempt']}", f"--host={self.host}"),
            *(f"--secret={folder}.secret", f"--programs={given['home']}/programs"),
            f"--tensors={session['tensors'][self.host]}",
            f"--records={given['run_dir']}/records/{name}.jsonl",
            *(f"--progress={folder}.progress.jsonl", f"--link-state={state_dir}"),
            f"--points-from={folder}.points",
        ]
        script = LAUNCH.format(
            lease=shlex.quote(given["lease"]),
            points=shlex.quote(f"{folder}.points"),
            site=shlex.quote(given["site"]),
            command=shlex.join(command),
        )
        launched = self._command(script, "\n".join(stage["points"]))
        if launched.get("failed"):
            said = (launched.get("stderr") or launched["msg"]).strip()
            raise SessionFailed(f"{self.host}: {said}")

    def _entrust(self, path: str) -> None:
        """Write the secret into a file of the host; a module's arguments would go to its log."""
        lease = shlex.quote(self.given["lease"])
        script = ENTRUST.format(lease=lease, secret=shlex.quote(path))
        secret = self.given["secret"].encode()
        done = self._low_level_execute_command(script, sudoable=False, in_data=secret)
        if done["rc"] != 0:
            raise SessionFailed(f"{self.host}: secret not written: {done['stderr'].strip()}")

    def _wait(self, session: dict[str, Any], stages: list[str]) -> dict[str, Any]:
        """Wait for the stages, renewing the lease and showing progress."""
        hosts = " and ".join(" > ".join(lane["hosts"]) for lane in session["lanes"])
        title = (
            f"session {session['number']} of {session['of']}: {session['id']}, "
            f"{len(session['points'])} of {session['planned']} points on {hosts}"
        )
        same = ("run_dir", "lease", "lease_s", "poll_s")
        arguments = {key: self.given[key] for key in same} | {
            "name": session["name"],
            "playbook": self.playbook,
            "stages": stages,
            "title": title if self.host == next(iter(session["ranks"])) else "",
            "label": session["label"],
            "deadline_s": session["deadline_s"],
            "predicted_s": session["predicted_s"],
            "predicted_after_s": session["predicted_after_s"],
        }
        return self._action("session_wait", arguments)

    def _stop(self) -> None:
        """End the stages of the session that still run."""
        command = [*self.given["worker"], "stop", f"--run-dir={self.given['run_dir']}"]
        site = shlex.quote(self.given["site"])
        try:
            self._command(f"PYTHONPATH={site} exec {shlex.join(command)}")
        except AnsibleConnectionFailure as error:
            # The host ends them by itself when its lease has run out.
            Display().vv(f"{self.host}: stages not ended: {error.message}")

    def _fetch(self, session: dict[str, Any]) -> None:
        """Fetch the records of the host's stages, as far as there are any."""
        for lane in session["lanes"]:
            if self.host not in lane["hosts"]:
                continue
            name = f"{lane['name']}.jsonl"
            here = Path(self.given["results"], "records", self.host, name)
            there = f"{self.given['run_dir']}/records/{name}"
            found = self._action("session_fetch", {"src": there, "dest": str(here)})
            told = self._file(session["name"], self.host, "failed").exists()
            # The next sweep of this run fetches what is there.
            if found.get("failed") and not told:
                self._mark(session["name"], "failed", str(found["msg"]))

    def _action(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Run another action on this host; return its result."""
        task = self._task.copy()
        task.args = arguments
        names = ("connection", "play_context", "loader", "templar", "shared_loader_obj")
        own = {name: getattr(self, f"_{name}") for name in names}
        action = self._shared_loader_obj.action_loader.get(name, task=task, **own)
        found: dict[str, Any] = action.run(task_vars=self.task_vars)
        return found

    def _record_failures(self) -> None:
        """Record on the controller why sessions failed; where there is no space, do so later."""
        self.unrecorded = [each for each in self.unrecorded if not self._recorded(*each)]

    def _recorded(self, lane: dict[str, Any], attempt: int, reason: str) -> bool:
        """Record why an attempt at a lane failed, and tell whether that was done."""
        points = self._file(lane["name"], self.host, "points")
        points.write_text("\n".join(lane["points"]), encoding="utf-8")
        command = [
            *(self.given["controller_python"], "-m", "paretopipe_worker", "record-failure"),
            *(f"--results={self.given['results']}", f"--session={lane['session']}"),
            *(f"--attempt={attempt}", f"--points-from={points}", "--reason=-"),
        ]
        here = self.given["checkout"]
        done = subprocess.run(command, cwd=here, input=reason, capture_output=True, text=True)
        if done.returncode != 0:
            Display().error(f"{lane['name']}: failure not recorded: {done.stderr.strip()}")
        return done.returncode == 0

    def _note_time(self, session: dict[str, Any], began_ns: int) -> None:
        """Write down when the session ran, by the controller's clock, for readers who doubt."""
        line = {
            "sessions": [lane["session"] for lane in session["lanes"]],
            "attempt": session["attempt"],
            "began_unix_ns": began_ns,
            "ended_unix_ns": time.time_ns(),
        }
        try:
            # One short line is written as a whole, whoever else writes.
            with Path(self.given["results"], "sessions.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            Display().error(f"{session['name']}: its times are not noted: {error}")

    def _command(self, script: str, given: str = "") -> dict[str, Any]:
        """Run a shell script on the host as the user who logs in; return the module's result.

        It is run by the host's Python, which is what makes a part of one machine a host.
        """
        arguments = {"argv": ["sh", "-c", script], "stdin": given, "stdin_add_newline": False}
        become = self._connection.become
        self._connection.set_become_plugin(None)
        try:
            found: dict[str, Any] = self._execute_module(
                module_name="ansible.legacy.command",
                module_args=arguments,
                task_vars=self.task_vars,
            )
        finally:
            self._connection.set_become_plugin(become)
        return found

    @contextmanager
    def _presence(self) -> Iterator[None]:
        """Hold a lock for as long as this instance lives, by which others see that it does."""
        path = self._file(f"walk{self.walk}", self.host, "lock")
        with path.with_suffix(".new").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Under its own name nobody ever finds it without the lock.
            path.with_suffix(".new").rename(path)
            yield

    def _lost(self, host: str) -> bool:
        """Whether the instance of a host began its walk and has ended it, or was killed."""
        try:
            with self._file(f"walk{self.walk}", host, "lock").open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def _meet(self, name: str, hosts: Iterable[str], mark: str) -> None:
        """Wait until all hosts have made this mark at the session of this name."""
        for host in hosts:
            while not self._file(name, host, mark).exists():
                self._end_if_orphaned()
                if self._lost(host) and not self._file(name, host, mark).exists():
                    return  # what is to be done without it fails, and says so
                time.sleep(MEET_POLL_S)

    def _end_if_orphaned(self) -> None:
        """End this process where ansible-playbook was killed: nobody waits for it."""
        if os.getppid() != self.playbook:
            os._exit(1)

    def _told(self, session: dict[str, Any], mark: str) -> list[str]:
        """What the session's hosts wrote into their marks."""
        files = [self._file(session["name"], host, mark) for host in session["ranks"]]
        return [file.read_text(encoding="utf-8") for file in files if file.exists()]

    def _mark(self, name: str, mark: str, text: str = "") -> None:
        """Make a mark at the session of this name, whole at once."""
        path = self._file(name, self.host, mark)
        written = path.with_suffix(".new")
        written.write_text(text, encoding="utf-8")
        written.rename(path)

    def _file(self, name: str, host: str, kind: str) -> Path:
        """A file by which the instances tell one another, as ``session_wait`` names it."""
        return Path(constants.DEFAULT_LOCAL_TMP, f"{name}@{host}.{kind}")
