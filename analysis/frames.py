"""Records of one kind as a frame: decoded line by line, kept as columns.

Each line is checked as it is read (:mod:`paretopipe_worker.records.files`), and is an object of
Python only until its block is full: then the block becomes arrays, which take a tenth of the
memory.
"""

from __future__ import annotations

from dataclasses import fields
from operator import attrgetter
from typing import Any

import numpy as np
import pandas as pd

from paretopipe_worker.records.clocks import Clock
from paretopipe_worker.records.lines import Header, Record

KEYS = ("session", "attempt", "replicate", "host", "rank")
"""Fields of a file's header that each of its records has as columns."""

_BLOCK = 10_000
"""Records that are objects at the same time."""

_DTYPES = {
    "int": "int64",
    "int | None": "Int64",
    "float": "float64",
    "float | None": "float64",
    "bool": "bool",
    "bool | None": "boolean",
    "tuple[int, ...]": "object",
    "tuple[float, ...]": "object",
    "tuple[tuple[int, ...], ...]": "object",
    "tuple[Transfer, ...]": "object",
    "Datagrams | None": "object",
    "tuple[Exchange, ...]": "object",
    "Health | None": "object",
    "Energy": "object",
    "Energy | None": "object",
    "tuple[str, ...]": "object",
}


class Frame:
    """A frame that grows by one record after the other.

    Its columns are :data:`KEYS` and the fields of the kind of record. The rank of a clock record,
    which is not its writer's, is ``other``. Dtypes are the same whether or not there are rows.

    Parameters
    ----------
    kind
        The class of the records.
    """

    def __init__(self, kind: type[Record]) -> None:
        own = {field.name: str(field.type) for field in fields(kind) if field.name != "kind"}
        told = {key: str(Header.__dataclass_fields__[key].type) for key in KEYS}
        if kind is Clock:
            own = {"other" if name == "rank" else name: text for name, text in own.items()}
        self._dtypes = {name: _DTYPES.get(text, "str") for name, text in (told | own).items()}
        self._values = attrgetter(*(field.name for field in fields(kind) if field.name != "kind"))
        self._single = len(own) == 1
        self._rows: list[tuple[Any, ...]] = []
        self._blocks: dict[str, list[pd.Series]] = {name: [] for name in self._dtypes}

    def add(self, keys: tuple[Any, ...], record: Record) -> None:
        """Add a record of the file whose header has these `keys`."""
        values = self._values(record)
        self._rows.append((*keys, values) if self._single else keys + values)
        if len(self._rows) == _BLOCK:
            self._close_block()

    def _close_block(self) -> None:
        """Turn the rows that are objects into arrays."""
        columns = zip(*self._rows, strict=True) if self._rows else [()] * len(self._dtypes)
        for (name, dtype), values in zip(self._dtypes.items(), columns, strict=True):
            self._blocks[name].append(_column(values, dtype))
        self._rows.clear()

    def whole(self) -> pd.DataFrame:
        """All rows; nothing can be added any more."""
        self._close_block()
        # One column after the other, so that at most one is held twice.
        columns = {
            name: pd.concat(self._blocks.pop(name), ignore_index=True) for name in self._dtypes
        }
        return pd.DataFrame(columns, copy=False)


def _column(values: tuple[Any, ...], dtype: str) -> pd.Series:
    """Values of one dtype. Pandas takes three times as long for the whole numbers of items."""
    if dtype == "int64":
        return pd.Series(np.array(values, np.int64))
    if dtype == "Int64":
        known = np.array(values, np.object_)
        null = np.array([value is None for value in values], np.bool_)
        known[null] = 1
        return pd.Series(pd.arrays.IntegerArray(known.astype(np.int64), null))
    return pd.Series(values, dtype=dtype)
