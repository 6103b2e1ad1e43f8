"""Ansible action: gather a host's facts, or note why that is not possible.

It never fails, so that the hosts after it are asked all the same. Facts are set as Ansible's own
setup does. Beside them it returns `answer`: why the host is not reached, or what Python it has.
"""

from __future__ import annotations

import re
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError  # type: ignore[import-untyped]
from ansible.plugins.action import ActionBase  # type: ignore[import-untyped]

SPEC: dict[str, dict[str, Any]] = {
    "gather_subset": {"type": "list", "elements": "str", "required": True},
}

VERSION = 'import sys; print("%d.%d.%d %s" % (sys.version_info[:3] + (sys.platform,)))'
"""What any Python understands that there has ever been."""


class ActionModule(ActionBase):  # type: ignore[misc]
    """Gather the facts of one host."""

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return facts and answer."""
        super().run(tmp, task_vars)
        _, given = self.validate_argument_spec(argument_spec=SPEC)
        try:
            done = self._execute_module("ansible.builtin.setup", given, task_vars=task_vars)
            facts = done.get("ansible_facts", {})
            if not done.get("failed"):
                known = {
                    "system": facts["ansible_system"],
                    "python": facts["ansible_python_version"],
                }
                return {"ansible_facts": facts, "answer": known}
            return {"ansible_facts": facts, "answer": self.python(done)}
        except AnsibleConnectionFailure as error:
            return {"answer": {"unreachable": said(error)}}
        except AnsibleError as error:
            return {"answer": {"python_problem": said(error)}}

    def python(self, done: dict[str, Any]) -> dict[str, Any]:
        """Tell which Python the host has that cannot run Ansible's modules, and why."""
        path = str(self._used_interpreter or "python3").removeprefix("#!")
        found = self._low_level_execute_command(f"{path} -c '{VERSION}'", sudoable=False)
        words = found["stdout"].split()
        if found["rc"] == 0 and len(words) == 2:
            system = "Linux" if words[1].startswith("linux") else words[1]
            why = f"{path} is {words[0]} and cannot run Ansible's modules: {done.get('msg')}"
            return {"system": system, "python": words[0], "python_problem": why}
        why = last_line(found["stderr"]) or f"it ended with {found['rc']}"
        return {"python_problem": f"{path} does not run: {why}"}


def said(error: AnsibleError) -> str:
    """What an error of Ansible says, on one line."""
    return re.sub(r"\s+", " ", str(error.message)).strip()


def last_line(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
