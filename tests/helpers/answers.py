"""What made-up hosts tell of themselves when they are asked whether they are fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paretopipe_worker.fitness import judging
from paretopipe_worker.fitness.answers import Answer, parse
from paretopipe_worker.fitness.findings import Finding
from paretopipe_worker.plan.plan import Plan
from tests.helpers.fake_plan import HOSTS

NOON_NS = 1_700_000_000 * 10**9

_DISK = {"path": "/home/ada/.paretopipe", "free_bytes": 10**9, "held_bytes": 0, "writable": True}
_USER = {
    **{"user": "ada", "python": "3.11.2", "os": "Debian GNU/Linux 12", "kernel": "6.1.0-rpi7"},
    **{"machine": "aarch64", "bits": 64, "page_bytes": 4096, "processor": "", "board": None},
    **{"free_memory_bytes": 10**9, "swaps": [], "disk": _DISK, "governors": {}, "throttling": None},
    **{"gpus": [], "tools": ["ip", "tc"], "addresses": ["10.0.0.1"], "worker": None},
    "ways": {"ports": {"29400": None, "29401": None}, "calls": []},
    **{"began_unix_ns": NOON_NS + 10**7, "ended_unix_ns": NOON_NS + 2 * 10**7},
}
_ROOT = {"user_id": 0, "sweeps": [], "holders": {}, "netem": {"problem": None, "warnings": []}}
_ANSWER = {
    "given": {"home": "~/.paretopipe", "worker_python": "", "governor": "performance"},
    **{"system": "Linux", "python": "3.11.2", "python_problem": None, "sudo_problem": None},
    **{"user": _USER, "user_problem": None, "root": _ROOT, "root_problem": None},
    **{"sent_unix_ns": NOON_NS, "received_unix_ns": NOON_NS + 3 * 10**7},
}


def raw(changes: dict[str, Any]) -> dict[str, Any]:
    """What is known of a host with which all is well but for `changes`, by dotted path."""
    document: dict[str, Any] = _copied(_ANSWER)
    for path, value in changes.items():
        *folders, name = path.split(".")
        place = document
        for folder in folders:
            place = place[folder]
        place[name] = value
    return document


def answer(**changes: Any) -> Answer:
    """The same, read; two underscores stand for a dot."""
    return parse(raw({path.replace("__", "."): value for path, value in changes.items()}))


def judged(
    answers: dict[str, Answer], plan: Plan | None = None, run: str = "", package_bytes: int = 10**6
) -> list[Finding]:
    """What is found of the hosts of made-up plans."""
    sweep = judging.Sweep(plan, run, package_bytes, 10**6, Path("/nowhere"))
    return list(judging.judge(HOSTS, answers, sweep))


def _copied(value: Any) -> Any:
    """The same dictionaries, anew."""
    return {k: _copied(v) for k, v in value.items()} if isinstance(value, dict) else value
