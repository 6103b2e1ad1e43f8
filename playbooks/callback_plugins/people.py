"""Ansible's default screen output, without lines of no use to a person who waits for a sweep."""

from __future__ import annotations

import io
import sys
from typing import Any

from ansible.playbook.task_include import TaskInclude  # type: ignore[import-untyped]
from ansible.plugins.callback.default import (  # type: ignore[import-untyped]
    CallbackModule as Default,
)

DOCUMENTATION = """
name: people
type: stdout
short_description: Ansible's default output, shorter
description:
  - Messages are shown as text, and a task that reports progress is announced before it begins.
  - Arguments that passed their check, and files that were included, are not shown.
extends_documentation_fragment:
  - default_callback
  - result_format_callback
"""

REFUSALS = (".fail", ".assert", "check_variables")
"""Actions whose errors are written for people."""


class CallbackModule(Default):  # type: ignore[misc]
    """The default output, except for the kinds of tasks below."""

    CALLBACK_NAME = "people"

    def __init__(self) -> None:
        """Flush every line, also if the output is a file or a pipe."""
        super().__init__()
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(line_buffering=True)

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Announce a play, unless it has no hosts, as in check mode."""
        if play.hosts:
            super().v2_playbook_on_play_start(play)

    def v2_playbook_on_no_hosts_matched(self) -> None:
        """Print nothing: a limit that leaves out hosts was refused before."""

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """Announce a task that prints while it runs; other tasks are announced with a result."""
        super().v2_playbook_on_task_start(task, is_conditional)
        if task.action == "session_walk":
            self._print_task_banner(task)

    def v2_playbook_on_include(self, included_file: Any) -> None:
        """Print nothing: the tasks of the file are announced themselves."""

    def v2_runner_on_ok(self, result: Any) -> None:
        """Print the result of a task, and a message as plain text."""
        task = result.task
        if isinstance(task, TaskInclude) or task.action.endswith("validate_argument_spec"):
            return
        message = result.result.get("msg")
        if task.action.endswith(".debug") and isinstance(message, str):
            self._print_task_banner(task)
            self._display.display(message)
            return
        super().v2_runner_on_ok(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Print a refusal as plain text, without the place in the tasks where it was raised."""
        message = result.result.get("msg")
        if result.task.action.endswith(REFUSALS) and "results" not in result.result:
            if self._last_task_banner != result.task._uuid:  # of several hosts, the first
                self._print_task_banner(result.task)
            self._display.display(f"fatal: [{self.host_label(result)}]: {message}", color="red")
            return
        super().v2_runner_on_failed(result, ignore_errors)
