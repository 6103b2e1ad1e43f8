"""Text from people: how an error repeats it, and how a path in a spec is resolved."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

_MOST = 60
_LISTED = 40


def shown(value: object) -> str:
    """A value as an error repeats it: cut off, since people paste whole files by mistake."""
    # Of a large value only the beginning is converted.
    text = repr(value[: _MOST + 20] if isinstance(value, str | list | tuple) else value)
    return text if len(text) <= _MOST else f"{text[: _MOST - 3]}..."


def listed(names: Sequence[str]) -> str:
    """Names as an error lists them; of many names only the first."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def located(written: str, folder: Path) -> Path:
    """Make a path of a spec absolute.

    ``~`` is the home of the user who runs this; a relative path begins in `folder`, the spec's own.
    """
    return Path(os.path.abspath(folder / os.path.expanduser(written)))  # noqa: PTH100, PTH111


def is_path(written: str) -> bool:
    """Whether a word of a spec that may also be a name is the path of a file.

    A path has a ``/`` or a ``.``: every checkpoint has a suffix, and no library calls its weights
    so.
    """
    return "/" in written or "." in written
