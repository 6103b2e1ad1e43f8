"""What people wrote, as an error shows it: bounded, since they paste whole files by mistake."""

from __future__ import annotations

from collections.abc import Sequence

_MOST = 60
_LISTED = 40


def shown(value: object) -> str:
    """A value as an error shows it."""
    # Not the whole text of what may be large: its beginning is as good.
    text = repr(value[: _MOST + 20] if isinstance(value, str | list | tuple) else value)
    return text if len(text) <= _MOST else f"{text[: _MOST - 3]}..."


def listed(names: Sequence[str]) -> str:
    """Names for people: the first of them, where they are many."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
