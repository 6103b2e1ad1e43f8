"""How the values of several replicates, or of several legs, become one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.column import LEAST_REPLICATES, Column, Over

CONFIDENCE = 0.95
"""Confidence of every t-interval over replicates."""


def reduced(values: pd.DataFrame, by: Sequence[str], columns: Iterable[Column]) -> pd.DataFrame:
    """Reduce each group of rows to one row, each column by the rule that it has.

    Parameters
    ----------
    values
        The values, with the columns `by`.
    by
        Columns that tell groups apart.
    columns
        Columns of the result. Those without a rule (:attr:`analysis.column.Column.over`) are left
        out.

    Returns
    -------
    The columns `by` and those that have a rule, in the order of the groups' first rows.
    """
    rules = {column.name: column.over for column in columns if column.over is not None}
    keys = [values[name] for name in by]
    # All columns of a kind in one call: calls for each group and column would take too long.
    numbers = {
        how: [name for name, rule in rules.items() if rule.how == how]
        for how in ("mean", "sum", "worst", "min", "max")
    }
    flat = {
        name: _numbers(values[name], rules[name]) for names in numbers.values() for name in names
    }
    groups = pd.DataFrame(flat, index=values.index).groupby(keys, sort=False)
    found: dict[str, Any] = {}
    for how, names in numbers.items():
        rows = getattr(groups[names], "max" if how == "worst" else how)
        frame = rows(skipna=how in ("min", "max")) if names else pd.DataFrame()
        found |= {name: frame[name] for name in names}
    table = {}
    texts = values.groupby(keys, sort=False)
    halves = half_widths(groups[list({rule.of for rule in rules.values() if rule.of})])
    for name, rule in rules.items():
        if rule.how == "together":
            column = texts[name].agg(together)
        elif rule.how == "union":
            column = texts[name].agg(union)
        elif rule.of:
            half = halves[rule.of]
            column = found[rule.of] - half if rule.how == "low" else found[rule.of] + half
        elif rule.how == "worst":
            column = found[name].map(dict(enumerate(rule.order)))
        else:
            column = found[name]
        table[name] = column
    whole = pd.DataFrame(table, index=texts.size().index)
    return whole.astype({name: rule.dtype for name, rule in rules.items()}).reset_index()


def _numbers(values: pd.Series, rule: Over) -> pd.Series:
    """Values as numbers; a value of an order becomes its place in the order."""
    if rule.how == "worst":
        values = values.map({value: place for place, value in enumerate(rule.order)})
    return values.astype("float64")


def half_widths(groups: Any) -> pd.DataFrame:
    """Half of the t-interval of the mean of each group and column.

    It is null below :data:`analysis.column.LEAST_REPLICATES` values.
    """
    count = groups.size()
    quantile = pd.Series(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1), index=count.index)
    quantile = quantile.where(count >= LEAST_REPLICATES)
    halves: pd.DataFrame = groups.std(ddof=1).mul(quantile / np.sqrt(count), axis=0)
    return halves


def together(texts: pd.Series) -> str | None:
    """The different texts, joined; null where there is none."""
    return "; ".join(dict.fromkeys(texts.dropna())) or None


def union(lists: pd.Series) -> str | None:
    """The different words of comma-separated lists, in which ``no`` is an empty list.

    Null where all lists are.
    """
    known = lists.dropna()
    words = dict.fromkeys(word for text in known for word in text.split(", ") if word != "no")
    return ", ".join(words) or ("no" if len(known) else None)
