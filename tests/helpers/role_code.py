"""Python files of roles, which lie outside every package."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType


def module(path: Path) -> ModuleType:
    """Import a Python file that lies outside every package."""
    # ansible.module_utils replaces sys.intern, and torch._dynamo can be imported only while that is
    # still a built-in. torch imports it late, and other tests of this process need it.
    importlib.import_module("torch._dynamo")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made
