"""Ansible action: ask a host what it is, without leaving anything there.

The worker package goes through a pipe to the host's Python, which keeps it in memory and runs
``paretopipe_worker.survey``: once as the user who logs in, and once as root, unless somebody else
could change that Python. It never fails: what could not be asked is null in `answer`, and a text
says why. The task needs ``become: true``.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
import time
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError  # type: ignore[import-untyped]
from ansible.plugins.action import ActionBase  # type: ignore[import-untyped]

SPEC: dict[str, dict[str, Any]] = {
    "python": {"type": "str", "required": True},
    "package": {"type": "path", "required": True},
    "question": {"type": "dict", "required": True},
    "given": {"type": "dict", "required": True},
    "emulate": {"type": "bool", "required": True},
    "guarded": {"type": "bool", "required": True},
    "answer": {"type": "dict", "required": True},
}

LOADER = """\
import json, os, sys
given = sys.stdin.buffer
question = json.loads(given.read(int(given.readline())))
archive = os.memfd_create("paretopipe_worker")
with open(archive, "wb", closefd=False) as file:
    file.write(given.read())
package = "/proc/self/fd/%d" % archive
sys.path.insert(0, package)
from paretopipe_worker.survey import survey
survey(question, package)
"""
"""Run by the host's Python in isolated mode. On its standard input are the size of the question,
the question, and the package."""

PARTS = """\
{{ command -v {python}
{python} -I -S -c 'import os, sys; print(sys.executable); print(os.path.dirname(os.__file__))'
}} | while read -r path; do namei -l -- "$path"; done
"""
"""The script that lists owners and modes of all folders, links and files by which root would run
the host's Python. It is run by the user who logs in."""

OLDEST = (3, 11)


class ActionModule(ActionBase):  # type: ignore[misc]
    """Ask one host."""

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the answer."""
        super().run(tmp, task_vars)
        _, self.given = self.validate_argument_spec(argument_spec=SPEC)
        answer = {**self.given["answer"], "given": self.given["given"]}
        if answer.get("unreachable") is not None:
            return {"changed": False, "answer": answer}
        ready = self.runs(answer)
        if ready:
            answer |= self.of_user()
        answer["sudo_problem"] = self.sudo_problem()
        if ready and answer["sudo_problem"] is None:
            answer |= self.of_root()
        return {"changed": False, "answer": answer}

    def runs(self, answer: dict[str, Any]) -> bool:
        """Whether the host's Python runs the survey, by what is known of it."""
        version = re.findall(r"\d+", answer.get("python") or "")[:2]
        fit = answer.get("system") == "Linux" and tuple(map(int, version)) >= OLDEST
        return fit and answer.get("python_problem") is None

    def of_user(self) -> dict[str, Any]:
        """What the user who logs in can tell, and when it was asked by the controller's clock."""
        question = {
            "part": "user",
            "home": self.given["given"]["home"],
            "worker_python": self.given["given"]["worker_python"],
            "ways": self.given["question"]["ways"],
        }
        sent_ns = time.time_ns()
        found, problem = self.ask(question, as_root=False)
        times = {"sent_unix_ns": sent_ns, "received_unix_ns": time.time_ns()}
        return {"user": found, "user_problem": problem, **times}

    def of_root(self) -> dict[str, Any]:
        """What only root can tell."""
        if self.given["guarded"] and (problem := self.not_roots()) is not None:
            return {"root": None, "root_problem": problem}
        question = {
            "part": "root",
            "ports": self.given["question"]["ports"],
            "links": [] if self.given["emulate"] else self.given["question"]["links"],
            "emulate": self.given["emulate"],
        }
        found, problem = self.ask(question, as_root=True)
        return {"root": found, "root_problem": problem}

    def not_roots(self) -> str | None:
        """Who but root can change the Python that root would run; None if nobody."""
        script = PARTS.format(python=shlex.quote(self.given["python"]))
        listed = self._low_level_execute_command(script, sudoable=False)
        _, _, listing = listed["stdout"].partition("f: ")
        try:
            problem = changeable(listing)
        except (IndexError, ValueError):
            return f"it is not known who can change {self.given['python']}: {reason(listed)}"
        # Root's search path may lead to another one than was looked at.
        self.given["python"] = listing.partition("\n")[0]
        return problem

    def sudo_problem(self) -> str | None:
        """Why the user cannot become root; None where that works, or nothing is needed for it."""
        if not self._connection.become:
            return None
        try:
            done = self._low_level_execute_command("id -u", sudoable=True)
        except AnsibleError as error:
            return " ".join(str(error.message).split())
        if done["rc"] != 0:
            return reason(done)
        user = done["stdout"].strip()
        return None if user == "0" else f"it leads to user {user}, not to root"

    def ask(
        self, question: dict[str, Any], as_root: bool
    ) -> tuple[dict[str, Any] | None, str | None]:
        """Ask the survey, and return its answer or why there is none."""
        text = json.dumps(question).encode()
        archive = Path(self.given["package"]).read_bytes()
        command = f"{shlex.quote(self.given['python'])} -I -S -c {shlex.quote(LOADER)}"
        try:
            done = self._low_level_execute_command(
                command, sudoable=as_root, in_data=b"%d\n%s%s" % (len(text), text, archive)
            )
            return dict(json.loads(done["stdout"])), None
        except AnsibleError as error:
            return None, " ".join(str(error.message).split())
        except (TypeError, ValueError, RecursionError):
            return None, reason(done)


def changeable(listing: str) -> str | None:
    """Who but root can change what paths lead to; None if nobody.

    Parameters
    ----------
    listing
        What ``namei -l`` prints, from the first path on.
    """
    for path, *parts in map(str.splitlines, listing.split("\nf: ")):
        for part, after in itertools.zip_longest(parts, parts[1:]):
            mode, owner, group, name = part.split(maxsplit=3)
            # In a folder with the sticky bit others cannot replace what belongs to root.
            sticky = after is not None and mode[9] in "tT"
            if owner != "root":
                who = f"belongs to user {owner}"
            elif mode.startswith("l"):
                continue
            elif mode[8] == "w" and not sticky:
                who = "may be changed by everybody"
            elif mode[5] == "w" and group != "root":
                who = f"may be changed by group {group}"
            else:
                continue
            return (
                f"{path}: its part {name} {who}. Root runs nothing that another user can change: "
                "choose by ansible_python_interpreter another Python, all of whose folders belong "
                "to root"
            )
    return None


def reason(done: dict[str, Any]) -> str:
    """Why a command failed: the last line that it said."""
    lines = [line.strip() for line in done["stderr"].splitlines() if line.strip()]
    return lines[-1] if lines else f"it ended with {done['rc']}"
