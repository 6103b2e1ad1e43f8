"""What a kind of foreign measurements is, and how its files are found and read.

What others measured is not what this project measures. Each kind has columns of its own names, none
of which is a column of points.csv, so that no figure can be taken for another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
from pydantic import ValidationError

from analysis.column import Column
from paretopipe_worker import bounded
from paretopipe_worker.usertext import shown

MOST_BYTES = 1_000_000
"""Size of the largest file that is read. A real one has a few thousand bytes."""

MOST_FILES = 10_000
"""Most files that one import reads."""

MOST_NAME_BYTES = 200
"""Longest name of a model, which becomes a part of a file's name."""

Row: TypeAlias = dict[str, Any]

IDENTITY = (
    Column("file", "", "Path of the file, from the folder that was named."),
    Column("model", "", "Model, as the files call it."),
    Column("condition", "", "What tells the file's measurements from others of the model."),
    Column("split", "", "The split, as the files number it."),
    Column("position", "", "Its number."),
)
"""Columns of every kind."""

GROUP = ("model", "condition")
"""Columns that the points of a front share."""


class ImportingError(ValueError):
    """Files cannot be imported: one line for each fault, with the file, and the key or line."""


@dataclass(frozen=True)
class Kind:
    """A kind of files.

    Parameters
    ----------
    said
        What it is and where from, in a sentence without an end.
    warnings
        What a reader must know of its figures.
    pattern
        Names of its files, as a glob.
    columns
        Its columns beside :data:`IDENTITY`.
    objectives
        Two columns, and whether less (``min``) or more (``max``) of each is better.
    nouns
        What the objectives are called, by column.
    rows
        Reads one file: its path, and its path from the folder that was named. Raises
        :class:`ImportingError`.
    """

    said: str
    warnings: tuple[str, ...]
    pattern: str
    columns: tuple[Column, ...]
    objectives: Mapping[str, str]
    nouns: Mapping[str, str]
    rows: Callable[[Path, Path], list[Row]]


@dataclass(frozen=True)
class Imported:
    """What was read.

    Parameters
    ----------
    points
        One row per split: :data:`IDENTITY` and the kind's columns.
    faults
        A line for each fault of the files that were left out.
    files
        How many files were read, and how many were found.
    """

    points: pd.DataFrame
    faults: tuple[str, ...]
    files: tuple[int, int]


def imported(kind: Kind, path: Path) -> Imported:
    """Read a file of a kind, or all of them in a folder and the folders below.

    A file with a fault is left out as a whole, since nobody knows what else of it is wrong.

    Raises
    ------
    ImportingError
        When there is no file of the kind, there are too many, or all have faults.
    """
    root = path if path.is_dir() else path.parent
    found = sorted(path.rglob(kind.pattern)) if path.is_dir() else [path]
    files = [file for file in found if file.is_file()]
    if not files or len(files) > MOST_FILES:
        raise ImportingError(
            f"{path}: allowed are a file, or a folder with 1 to {MOST_FILES} files that are named "
            f"{kind.pattern}; got {len(files)}"
        )
    rows: list[Row] = []
    faults: list[str] = []
    whose: dict[tuple[Any, ...], Path] = {}
    for file in files:
        try:
            read = kind.rows(file, file.relative_to(root))
            _check(read, file, whose)
        except ImportingError as error:
            faults += str(error).splitlines()
        else:
            rows += read
    if not rows:
        raise ImportingError("\n".join(faults))
    names = [column.name for column in (*IDENTITY, *kind.columns)]
    table = pd.DataFrame(rows, columns=names).astype(dict.fromkeys(kind.objectives, "float64"))
    table = table.sort_values([*GROUP, "position"], kind="stable").reset_index(drop=True)
    kept = table["file"].nunique()
    return Imported(table, tuple(faults), (kept, len(files)))


def content(file: Path) -> str:
    """The text of a file that somebody else wrote.

    Raises
    ------
    ImportingError
        When it is too large, or no UTF-8.
    """
    try:
        return bounded.text(file, MOST_BYTES)
    except OSError as error:
        raise ImportingError(f"{file}: cannot be read: {error.strerror}") from error
    except bounded.UnreadableFile as error:
        raise ImportingError(f"{file}: {error}") from error


def faults_of(error: ValidationError, where: str) -> list[str]:
    """What is wrong with values, a line for each, with the key."""
    lines = []
    for fault in error.errors(include_url=False):
        key = ".".join(map(str, fault["loc"]))
        got = "" if fault["type"] == "missing" else f"; got {shown(fault['input'])}"
        lines.append(f"{where}: {f'{key}: ' if key else ''}{fault['msg']}{got}")
    return lines


def _check(rows: Sequence[Row], file: Path, whose: dict[tuple[Any, ...], Path]) -> None:
    """Refuse a split that stands twice, or a name too long; else remember the splits."""
    keys = [(row["model"], row["condition"], row["split"]) for row in rows]
    for key in keys:
        if len(key[0].encode()) > MOST_NAME_BYTES:
            raise ImportingError(
                f"{file}: model: must have at most {MOST_NAME_BYTES} bytes; got {shown(key[0])}"
            )
        if key in whose or keys.count(key) > 1:
            raise ImportingError(
                f"{file}: split {key[2]} of {key[0]} ({key[1]}) stands in {whose.get(key, file)}, "
                "too; allowed is one measurement of each"
            )
    whose |= dict.fromkeys(keys, file)
