"""A stage that does not compute: it hands out records that were made before.

A Python that imports this as it starts has it in place of :mod:`paretopipe_worker.session.stage`.
One machine so holds the stages of hundreds of hosts. The records of all hosts lie in the folder
``recorded`` of that Python's environment.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

_REPLACED = "paretopipe_worker.session.stage"


class Options(dict[str, Any]):
    """What a stage is launched with, see :class:`paretopipe_worker.session.stage.Options`."""


def run(options: Options) -> int:
    """Write the stage's records and tell what was finished; return the exit status.

    Where ``recorded/HOST/SESSION.until`` names a file, that is waited for first.
    """
    records: Path = options["records"]
    records.parent.mkdir(parents=True, exist_ok=True)
    recorded = Path(sys.prefix, "recorded", options["host"])
    (recorded / records.name).with_suffix(".began").touch()
    held = (recorded / records.name).with_suffix(".until")
    while held.exists() and not Path(held.read_text(encoding="utf-8")).exists():
        time.sleep(0.02)
    progress = recorded / f"{records.stem}.progress"
    if progress.exists():
        shutil.copy(progress, options["progress"])
    shutil.copy(recorded / records.name, records)
    last = records.read_text(encoding="utf-8").splitlines()[-1]
    return 0 if json.loads(last)["status"] == "ok" else 1


class _Finder(importlib.abc.MetaPathFinder):
    """Finds this module under the other's name."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Say where the module of a stage is."""
        return importlib.util.spec_from_file_location(name, __file__) if name == _REPLACED else None


if __name__ != _REPLACED:
    sys.meta_path.insert(0, _Finder())
