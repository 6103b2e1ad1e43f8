"""What a host tells of itself before a sweep, when nothing is installed on it yet.

The playbook sends this package to a host's Python through a pipe (role ``preflight``): nothing is
written to the host's disk. So only Python's standard library may be imported here.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paretopipe_worker.host import equipment, sweeping, ways
from paretopipe_worker.shaping import ShapingError
from paretopipe_worker.shaping.command import trial


def survey(question: Mapping[str, Any], package: str) -> None:
    """Answer a question; print the answer as JSON.

    Parameters
    ----------
    question
        `part` says which answer is wanted: that of the user who logs in (``user``), or that of root
        (``root``). See :func:`of_user` and :func:`of_root` for what else it has.
    package
        Where this package was loaded from, as an entry of PYTHONPATH.
    """
    began_ns = time.time_ns()
    part = of_user(question, package) if question["part"] == "user" else of_root(question)
    print(json.dumps({**part, "began_unix_ns": began_ns, "ended_unix_ns": time.time_ns()}))


def of_user(question: Mapping[str, Any], package: str) -> dict[str, Any]:
    """Facts that an ordinary user can read: the machine, its worker, its ways to other hosts.

    Parameters
    ----------
    question
        `home` and `worker_python` of the worker, and `ways` (a :class:`ways.Question`, or null).
    """
    home = Path(question["home"]).expanduser()
    asked = question["ways"]
    # First of all, since other hosts do the same at this moment.
    found = ways.look(ways.Question(**asked)) if asked else ways.Answer()
    return {
        **equipment.facts(home),
        "worker": equipment.worker(question["worker_python"], home, package),
        "ways": asdict(found),
    }


def of_root(question: Mapping[str, Any]) -> dict[str, Any]:
    """Facts that only root can read: sweeps of all users, who has a port, whether links are shaped.

    Parameters
    ----------
    question
        `ports`, `links` (profiles with the host's ways, to be tried) and `emulate`.
    """
    problem, warnings = None, []
    try:
        warnings = trial(question["links"], tuple(question["ports"]), question["emulate"])
    except ShapingError as error:
        problem = str(error)
    return {
        "user_id": os.geteuid(),
        "sweeps": sweeping.sweeps(),
        "holders": sweeping.holders(question["ports"]),
        "netem": {"problem": problem, "warnings": warnings},
    }
