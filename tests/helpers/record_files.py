"""Changing record files line by line, as a test wants them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def rewrite(path: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Replace each line by what `change` returns; it drops a line by returning None."""
    lines = [change(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines if line is not None))


def edit(path: Path, change: Callable[[dict[str, Any]], object], kind: str = "item") -> None:
    """Let `change` modify each line of one kind, by default the items."""

    def changed(line: dict[str, Any]) -> dict[str, Any]:
        if line["kind"] == kind:
            change(line)
        return line

    rewrite(path, changed)
