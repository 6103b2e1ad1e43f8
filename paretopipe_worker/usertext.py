"""What people write: how an error repeats it, and what a path in a spec means."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

_MOST = 60
_LISTED = 40


def shown(value: object) -> str:
    """Repeat a value in an error, bounded, since people paste whole files by mistake."""
    # Not the whole text of what may be large: its beginning is as good.
    text = repr(value[: _MOST + 20] if isinstance(value, str | list | tuple) else value)
    return text if len(text) <= _MOST else f"{text[: _MOST - 3]}..."


def listed(names: Sequence[str]) -> str:
    """Join names for people; of many, only the first are listed."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def located(written: str, folder: Path) -> Path:
    """Make a path of a spec absolute.

    ``~`` is the home of who runs this, and a relative path begins in `folder`, the spec's own.
    """
    return Path(os.path.abspath(folder / os.path.expanduser(written)))  # noqa: PTH100, PTH111
