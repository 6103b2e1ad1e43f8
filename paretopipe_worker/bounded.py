"""Files that others wrote: read up to a size, as UTF-8 and as JSON that means one thing.

Whoever reads such a file says how large it may be. So a file of a gigabyte is refused by its size,
before any of it is read. What Python's ``json`` would take, though no standard allows it, is
refused as well: numbers that are not finite, a key given twice, half of a character.
"""

from __future__ import annotations

import codecs
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MEGABYTE = 1_000_000

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class UnreadableFile(ValueError):
    """What a file holds is not read: why, and what is allowed. Who catches this names the file."""


def data(path: Path, most_bytes: int) -> bytes:
    """Read a file of at most `most_bytes`.

    Raises
    ------
    OSError
        When it cannot be opened or read.
    UnreadableFile
        When it is larger.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        # One that grows meanwhile, or has no size, is no larger either.
        found = file.read(most_bytes + 1) if size <= most_bytes else b""
    if max(size, len(found)) > most_bytes:
        raise UnreadableFile(f"has {max(size, len(found))} bytes; at most {most_bytes} are read")
    return found


def text(path: Path, most_bytes: int) -> str:
    """Read a file of at most `most_bytes` as UTF-8, without a byte order mark.

    Raises
    ------
    OSError, UnreadableFile
        As :func:`data`; also when it is no UTF-8, naming the line.
    """
    found = data(path, most_bytes)
    try:
        return found.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = found.count(b"\n", 0, error.start) + 1
        kind = " but UTF-16" if found.startswith(_UTF16) else ""
        raise UnreadableFile(
            f"line {line}: byte {error.start} is no UTF-8{kind}; allowed is UTF-8"
        ) from None


def document(path: Path, most_bytes: int) -> Any:
    """Read a file of at most `most_bytes` that holds JSON.

    Raises
    ------
    OSError, UnreadableFile
        As :func:`text` and :func:`parsed`.
    """
    return parsed(text(path, most_bytes))


def parsed(written: str) -> Any:
    """Read JSON of which no two readers can make two different things.

    Raises
    ------
    UnreadableFile
        When it is no JSON (the text names line and column), is nested too deeply, gives a key
        twice, or holds a number that is not finite or half of a character.
    """
    try:
        found = json.loads(
            written, object_pairs_hook=_unique, parse_constant=_constant, parse_float=_finite
        )
        if "\\ud" in written.lower():  # else no text can hold half of a character
            json.dumps(found, ensure_ascii=False).encode()
    except RecursionError:
        raise UnreadableFile("is nested too deeply") from None
    except UnicodeEncodeError:
        raise UnreadableFile("holds half of a character (\\ud800 to \\udfff)") from None
    except json.JSONDecodeError as error:
        raise UnreadableFile(
            f"is no JSON: line {error.lineno}, column {error.colno}: {error.msg}"
        ) from None
    except UnreadableFile:
        raise
    except ValueError as error:  # a whole number of thousands of digits
        raise UnreadableFile(f"is no JSON: {error}") from None
    return found


def lines(path: Path, most_bytes: int) -> Iterator[bytes]:
    """Read a file line by line, none of which may have more than `most_bytes`.

    The last one may lack its end.

    Raises
    ------
    OSError
        When it cannot be opened or read.
    UnreadableFile
        When a line is longer.
    """
    # As bytes, since a damaged file need not be text.
    with path.open("rb") as file:
        while line := file.readline(most_bytes + 1):
            if len(line) > most_bytes:
                raise UnreadableFile(f"has more than {most_bytes} bytes, the most that are read")
            yield line


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object whose keys differ."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise UnreadableFile(f"key {twice[:60]!r} is given twice")
    return found


def _constant(name: str) -> float:
    """Refuse what JSON has no word for."""
    raise UnreadableFile(f"holds {name}; numbers must be finite")


def _finite(written: str) -> float:
    """Refuse a number that is too large for a float."""
    value = float(written)
    if not math.isfinite(value):
        raise UnreadableFile(f"holds {written[:60]}; numbers must be finite")
    return value
