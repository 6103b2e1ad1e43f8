"""Environments of Python in which only a few packages are installed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement


def made(folder: Path, *names: str) -> Path:
    """Make an environment with some of this one's packages and what they need; its Python.

    The packages are linked to, so nothing is fetched.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    for distribution in _closure(*names):
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            target = Path(str(distribution.locate_file(top))).resolve()
            if not (site / top).exists():
                (site / top).symlink_to(target)
    return folder / "bin" / "python"


def _closure(*names: str) -> Iterator[metadata.Distribution]:
    """Distributions of these names and, again and again, those that they require."""
    todo, seen = list(names), set[str]()
    while todo:
        name = todo.pop().lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        distribution = metadata.distribution(name)
        yield distribution
        for text in distribution.requires or ():
            required = Requirement(text)
            if required.marker is None or required.marker.evaluate({"extra": ""}):
                todo.append(required.name)
