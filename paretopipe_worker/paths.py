"""What a path in an experiment spec means; the standard library alone."""

from __future__ import annotations

import os
from pathlib import Path


def located(written: str, folder: Path) -> Path:
    """Where a path leads that was written in a spec, absolute.

    ``~`` is the home of who runs this, and a relative path begins in `folder`, the spec's own.
    """
    return Path(os.path.abspath(folder / os.path.expanduser(written)))  # noqa: PTH100, PTH111
