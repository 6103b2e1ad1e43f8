"""Environments of Python in which only a few packages are installed."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from tests import ROOT


def worker_packages() -> list[str]:
    """Names of what ``requirements-worker.txt`` lists."""
    lines = (ROOT / "requirements-worker.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line).name for line in lines if line and not line.startswith("#")]


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


def wheels(folder: Path, *names: str) -> Path:
    """Make a folder with a wheel for each of some packages and what they need; the folder.

    A wheel has its package's name, version and requirements, and what it installs points to the
    package of this environment: pip resolves and installs them as any other, in a moment.
    """
    folder.mkdir(parents=True)
    for distribution in _closure(*names):
        name = distribution.metadata["Name"].replace("-", "_")
        here = Path(str(distribution.locate_file(""))).resolve()
        info = f"{name}-{distribution.version}.dist-info"
        path = folder / f"{name}-{distribution.version}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as it:
            it.writestr(f"{name}_of_the_tests.pth", f"{here}\n")
            it.writestr(f"{info}/METADATA", distribution.read_text("METADATA") or "")
            it.writestr(
                f"{info}/WHEEL",
                "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            )
            it.writestr(f"{info}/RECORD", "")
    return folder


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
