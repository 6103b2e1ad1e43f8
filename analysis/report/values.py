"""Values as JSON has them: numbers of Python, and null for what is no finite number."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pandas as pd


def encoded(value: Any) -> bytes:
    """A document of values of Python and numpy as JSON.

    A figure that is infinite, or not a number, is not known: it is null.

    >>> encoded({"rate": float("inf"), "items": (1, float("nan"))})
    b'{"rate":null,"items":[1,null]}'
    """
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def plain(value: Any) -> Any:
    """The document that a reader of that JSON gets."""
    return orjson.loads(encoded(value))


def known(table: pd.DataFrame) -> pd.DataFrame:
    """The table with null in place of figures that are infinite."""
    figures = table.select_dtypes("float64")
    return table.assign(
        **{str(name): each.where(np.isfinite(each)) for name, each in figures.items()}
    )
