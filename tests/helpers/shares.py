"""Hosts that are sent the tensors of their own stages only, as a sweep sends them."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from paretopipe_worker.__main__ import main
from tests.helpers.sessions import Lab


def todo(made: Lab, **free_bytes: int | None) -> dict[str, Any]:
    """What a sweep has left to do, once it knows the memory that is free on each host."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        memory = dict.fromkeys([h.name for h in made.plan.hosts]) | free_bytes
        known = made.results / "known.json"
        known.write_text(json.dumps({"memory": memory}))
        where = ("--results", str(made.results), "--cache", str(made.cache))
        assert main(["todo", *where, "--known", str(known)]) == 0
    found: dict[str, Any] = json.loads(printed.getvalue())
    return found


def sent(made: Lab, found: dict[str, Any], session: str) -> Lab:
    """The same run, each of whose hosts has the files that it is sent and no others."""
    [task] = [task for task in found["sessions"] if task["id"] == session]
    files: dict[str, Path] = {}
    for host, tensors in task["tensors"].items():
        folder = made.results / f"programs-{host}"
        folder.mkdir()
        for name in found["files"][host]:
            shutil.copy(made.cache / "programs" / name, folder)
        files[host] = folder / tensors
    return replace(made, files=files)
