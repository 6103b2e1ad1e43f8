"""``ansible-playbook``, which also tells where the controller's time goes: for benchmarks.

``python -m tests.helpers.counted_playbook FILE ARGUMENTS...`` appends JSON lines to FILE: one for
each task of each host (`host`, `action`, `wall_s`, and `own_s` and `others_s`, CPU seconds of the
worker process and of the commands that it waited for), and one for each play (`play`, `wall_s`, and
CPU seconds: `main_s` of the main process and `kept_s` of SSH's clients that keep connections).
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.cli import playbook  # type: ignore[import-untyped]
from ansible.executor import task_queue_manager  # type: ignore[import-untyped]
from ansible.executor.process import worker  # type: ignore[import-untyped]


def _cpu_s(who: int) -> float:
    """CPU seconds of this process, or of its children that have ended."""
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def _kept_s() -> float:
    """CPU seconds so far of the clients of SSH that run on in this network namespace."""
    own, ticks = Path("/proc/self/ns/net").readlink(), 0
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended meanwhile
            if (entry / "comm").read_text() == "ssh\n" and (entry / "ns/net").readlink() == own:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _counted(
    function: Callable[..., Any], told: Callable[..., dict[str, Any]], file: str
) -> Callable[..., Any]:
    """A function that also appends what its call took, as `told` names it."""

    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        began_s = time.monotonic()
        own_s, others_s = _cpu_s(resource.RUSAGE_SELF), _cpu_s(resource.RUSAGE_CHILDREN)
        try:
            return function(self, *arguments, **named)
        finally:
            line = told(
                self,
                *arguments,
                **named,
                wall_s=time.monotonic() - began_s,
                own_s=_cpu_s(resource.RUSAGE_SELF) - own_s,
                others_s=_cpu_s(resource.RUSAGE_CHILDREN) - others_s,
            )
            written = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.write(written, (json.dumps(line) + "\n").encode())
            os.close(written)

    return call


def _of_task(process: Any, **spent: float) -> dict[str, Any]:
    """A line about a task of a host."""
    return {"host": process._host.name, "action": process._task.action, **spent}


class _Kept:
    """What connections that are kept have taken since they were last asked."""

    def __init__(self) -> None:
        self.so_far_s = _kept_s()

    def of_play(
        self, _: Any, *, play: Any, wall_s: float, own_s: float, others_s: float
    ) -> dict[str, Any]:
        """A line about a play; what its workers took, they tell themselves."""
        before_s, self.so_far_s = self.so_far_s, _kept_s()
        spent = {"wall_s": wall_s, "main_s": own_s, "kept_s": self.so_far_s - before_s}
        return {"play": play.get_name(), **spent}


if __name__ == "__main__":
    file = sys.argv.pop(1)
    worker.WorkerProcess._run = _counted(worker.WorkerProcess._run, _of_task, file)
    manager = task_queue_manager.TaskQueueManager
    manager.run = _counted(manager.run, _Kept().of_play, file)
    playbook.main()
