"""Errors that pydantic found in what a person wrote, as lines for that person."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from paretopipe_worker.usertext import shown

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails


def root_causes(error: ValidationError) -> list[ErrorDetails]:
    """All faults, except that a list is too short only because its bad entries were left out."""
    faults = error.errors()
    return [
        fault
        for fault in faults
        if fault["type"] != "too_short"
        or not any(
            other is not fault and other["loc"][: len(fault["loc"])] == fault["loc"]
            for other in faults
        )
    ]


def said(fault: ErrorDetails, allowed: Sequence[str], noun: str = "key") -> str:
    """What is wrong with a value, what is allowed, and what was given.

    Parameters
    ----------
    allowed
        Keys that the mapping around the value may have.
    noun
        What such a key is called.
    """
    if fault["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        near = difflib.get_close_matches(str(fault["loc"][-1]), allowed, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        return f"unknown {noun}{hint}; allowed: {', '.join(allowed)}"
    if fault["type"] in ("missing", "missing_argument"):
        return "is required"
    message = own_words(fault)
    return f"{message[0].lower()}{message[1:]}; got {shown(fault['input'])}"


def own_words(fault: ErrorDetails) -> str:
    """The text of a fault, without what pydantic puts before the text of our own validators."""
    return fault["msg"].removeprefix("Value error, ")


def key_path(location: Iterable[object]) -> str:
    """Write ``("links", 1, "rate_mbit")`` as ``links[1].rate_mbit``."""
    text = ""
    for part in location:
        name = shown(part) if len(str(part)) > 60 else str(part)  # a key may be anything
        text += f"[{part}]" if isinstance(part, int) else f".{name}" if text else name
    return text
