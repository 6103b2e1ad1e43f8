"""Ansible action: wait for a host's stages, renewing the host's lease and showing its progress.

One instance per host runs on the controller, all at the same time. Each polls its host every few
seconds with one small shell command, since on inventory/local the controller shares two cores with
the stages. A host that several sources share has a stage for each; their ends are awaited one after
the other. When one stage fails, the other stages lose their links. They get a little time to end
and to say why, then the instances of their hosts give up too. So the reason of the stage that
failed first is among those reported, whichever instance polls first.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import time
from pathlib import Path
from typing import Any

from ansible import constants  # type: ignore[import-untyped]
from ansible.errors import AnsibleConnectionFailure  # type: ignore[import-untyped]
from ansible.plugins.action import ActionBase  # type: ignore[import-untyped]
from ansible.utils.display import Display  # type: ignore[import-untyped]

SPEC: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "required": True},
    "playbook": {"type": "int", "required": True},
    "run_dir": {"type": "path", "required": True},
    "lease": {"type": "path", "required": True},
    "lease_s": {"type": "float", "required": True},
    "poll_s": {"type": "float", "required": True},
    "deadline_s": {"type": "float", "required": True},
    "stages": {"type": "list", "elements": "str", "required": True},
    "predicted_s": {"type": "float", "required": True},
    "predicted_after_s": {"type": "float", "default": 0},
    "title": {"type": "str", "default": ""},
    "label": {"type": "str", "default": ""},
}

LOOK = """\
touch {lease} || exit 1
[ {supervisor} = self ] || timeout {wait_s} tail --pid={supervisor} -s 0.2 -f /dev/null
cat {status} 2>/dev/null || echo null
[ "$(cut -d " " -f 22 /proc/{supervisor}/stat 2>/dev/null)" = {ticks} ] && echo true || echo false
tail -c +{position} {progress} 2>/dev/null
true"""
"""The script of one poll. It renews the lease and waits until the supervisor of the stage ends,
for at most `wait_s`. Then it prints the status, whether the supervisor is alive, and new progress.
After a reboot another process may have the pid, which was then started at another time.
"""

AFTER_PEERS_S, AFTER_PEERS_POLL_S = 5.0, 0.5
"""Seconds that a stage has to end by itself after a peer failed, and between polls meanwhile."""


class StageFailed(Exception):
    """The stage, its host, or the stage of another host has failed: which, and why."""


class ActionModule(ActionBase):  # type: ignore[misc]
    """Wait until the stages that were launched under these names have ended.

    `name` is that under which the instances of all hosts tell one another that a stage failed.
    `playbook` is the process after whose end nobody waits: it may have ended before this began.
    """

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return when all stages have ended well; fail when one, here or elsewhere, has not."""
        super().run(tmp, task_vars)
        _, given = self.validate_argument_spec(argument_spec=SPEC)
        self.given = given
        self.prepare((task_vars or {})["inventory_hostname"])
        if given["title"]:
            Display().display(f"\n  {given['title']}")
        failures = list(filter(None, map(self.wait_for, given["stages"])))
        if failures:
            return {"failed": True, "msg": "; ".join(dict.fromkeys(failures))}
        return {"changed": False}

    def prepare(self, host: str) -> None:
        """Begin anew for a host that was not polled yet."""
        self.host = host
        self.started_s = time.monotonic()

    def wait_for(self, stage: str) -> str | None:
        """Wait for one stage; return why it, or that of another host, failed, or None."""
        self.stage = stage
        self.supervisor, self.ticks = "self", 0
        self.read_bytes = 0
        try:
            self._wait()
        except StageFailed as error:
            self._tell_peers(str(error))
            return str(error)
        return None

    def _wait(self) -> None:
        """Poll the host until its stage has ended, or shortly after a peer has failed."""
        name, lease_s = self.stage, self.given["lease_s"]
        playbook, reached_s = self.given["playbook"], time.monotonic()
        give_up_s = math.inf
        # If ansible-playbook was killed, this process must not renew the lease in its place.
        while os.getppid() == playbook:
            began_s = time.monotonic()
            # Read before the poll, so that this stage is polled at least once after a peer failed.
            peer = self._failed_peer()
            if peer is not None:
                give_up_s = min(give_up_s, began_s + AFTER_PEERS_S)
            poll_s = self.given["poll_s"] if peer is None else AFTER_PEERS_POLL_S
            try:
                if self._look(poll_s):
                    return
                reached_s = time.monotonic()
            except AnsibleConnectionFailure as error:
                # The stage runs on without us for as long as the lease holds.
                if time.monotonic() - reached_s > lease_s:
                    raise StageFailed(
                        f"{self.host}: not reached for {lease_s:g} s, so its lease has run out: "
                        f"{error.message}"
                    ) from error
            if peer is not None and time.monotonic() >= give_up_s:
                raise StageFailed(peer)
            if time.monotonic() - self.started_s > self.given["deadline_s"] + 2 * lease_s:
                raise StageFailed(f"{self.host}: stage of {name} still runs after its deadline")
            time.sleep(max(0.0, poll_s - (time.monotonic() - began_s)))

    def _look(self, wait_s: float) -> bool:
        """Poll once: renew the lease, show new progress, and tell whether the stage has ended well.

        If the stage is known to run, this takes `wait_s`, or less if the stage ends before.
        """
        output = self._shell(
            LOOK.format(
                lease=shlex.quote(self.given["lease"]),
                progress=self._file("progress.jsonl"),
                status=self._file("status.json"),
                supervisor=self.supervisor,
                ticks=self.ticks,
                position=self.read_bytes + 1,
                wait_s=wait_s,
            )
        )
        try:
            return self._heard(*output.split("\n", 2))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise StageFailed(f"{self.host}: answered {output[:60]!r}: {error}") from error

    def _heard(self, first: str, second: str, lines: str) -> bool:
        """Show new progress, and tell whether the stage has ended well, by what a poll printed."""
        found = json.loads(first) or {}
        self._show(lines)
        if found.get("state") == "ended":
            if found["exit_code"] == 0:
                return True
            raise StageFailed(self._ended(found["reason"]))
        if self.supervisor != "self" and not json.loads(second):
            raise StageFailed(self._ended("and its supervisor were killed, as a reboot does"))
        pid, ticks = found.get("pid"), found.get("start_ticks", 0)
        self.supervisor, self.ticks = "self" if pid is None else str(int(pid)), int(ticks)
        return False

    def _shell(self, script: str) -> str:
        """Run a shell script on the host, without Python and without becoming another user."""
        # In braces, because Ansible appends commands of its own.
        result = self._low_level_execute_command(f"{{ {script}\n}}", sudoable=False)
        if result["rc"] != 0:
            raise StageFailed(f"{self.host}: lease not renewed: {result['stderr'].strip()}")
        return str(result["stdout"])

    def _ended(self, how: str) -> str:
        """Say how the stage ended, and why: by its records, else by the last line of its log."""
        records = shlex.quote(f"{self.given['run_dir']}/records/{self.stage}.jsonl")
        end = self._shell(f"tail -n 1 {records} 2>/dev/null; true")
        with contextlib.suppress(ValueError):
            last = json.loads(end)
            if last["kind"] == "end":
                reason = str(last["reason"]).removeprefix(f"{self.host}: ")
                return f"{self.host}: stage {how}: {reason}"
        said = self._shell(f"tail -n 20 {self._file('log')} 2>/dev/null; true").split("\n")
        last = [line for line in said if line][-1:]
        if last and not how.startswith("exited"):
            # What a stage that was ended from outside said last need not be why.
            last = [f"the last line of its log is {last[0]}"]
        return ": ".join([f"{self.host}: stage {how}", *last])

    def _file(self, kind: str) -> str:
        """Path of one of the stage's files on the host, quoted for its shell."""
        return shlex.quote(f"{self.given['run_dir']}/{self.stage}.{kind}")

    def _show(self, text: str) -> None:
        """Print the points that were finished since the last poll."""
        complete = text[: text.rfind("\n") + 1]
        self.read_bytes += len(complete.encode())
        for line in complete.splitlines():
            point = json.loads(line)
            # Of sessions that run side by side, a line says whose it is.
            point["lane"] = point.get("lane") or self.given["label"]
            Display().display(progress_line(point, self._left_s(point["predicted_left_s"])))

    def _left_s(self, session_s: float) -> float:
        """Estimate the seconds left of the sweep, if `session_s` are predicted for this session.

        All predictions are corrected by the factor by which this session differs from its own.
        """
        whole_s = time.monotonic() - self.started_s + session_s
        pace: float = whole_s / self.given["predicted_s"]
        return pace * (session_s + float(self.given["predicted_after_s"]))

    def _failed_peer(self) -> str | None:
        """Return why the stage of another host has failed; None if none has."""
        pattern = self._failure_file("*")
        for path in sorted(pattern.parent.glob(pattern.name)):
            return path.read_text(encoding="utf-8")
        return None

    def _tell_peers(self, reason: str) -> None:
        """Tell the instances of the other hosts that this one has failed."""
        path = self._failure_file(self.host)
        written = path.with_suffix(".new")
        written.write_text(reason, encoding="utf-8")
        written.rename(path)

    def _failure_file(self, host: str) -> Path:
        """File by which the instance of `host` tells the others that it has failed."""
        return Path(constants.DEFAULT_LOCAL_TMP, f"{self.given['name']}@{host}.failed")


def progress_line(point: dict[str, Any], left_s: float) -> str:
    """Describe a finished point in one line."""
    width = len(str(point["of"]))
    rate = point["images_per_s"]
    # Null if the leg reached its maximum time before two whole windows of items.
    shown = "        -" if rate is None else f"{rate:9.2f}"
    numbers = (
        f"{shown} img/s {point['latency_ms']:9.2f} ms"
        if point["status"] == "ok"
        else f"failed: {point.get('reason')}"
    )
    lane = f"{point['lane']}  " if point.get("lane") else ""
    condition = f"{lane}{point['model']} {point['link']} {point['backend']}"
    return (
        f"  {condition}  split {point['done']:{width}} of {point['of']}  {point['split']:<14} "
        f"{numbers}  {time_left(left_s)}"
    )


def time_left(seconds: float) -> str:
    """Describe a time roughly, as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s left"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min left"
    return f"{seconds / 3600:.1f} h left"
