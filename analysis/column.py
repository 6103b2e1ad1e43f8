"""What a column of a table is, and how a dictionary of columns is printed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

PERCENTILE_ITEMS = {90: 64, 95: 130, 99: 662}
"""Items without which a percentile is not reported. With this many, the second largest item is an
upper bound of the percentile with 99 % confidence (MLPerf Inference's LoadGen). The percentile
itself is interpolated between items and is no such bound, so that it is reported with an interval.
"""

PERCENTILE_CONFIDENCE = 0.99
"""Confidence of that interval, in each replicate."""

WHOLE = (
    "`batch * m` over the time from the first completion to the m-th one after it, where m of the "
    "n completions make up whole windows, `m = floor((n - 1) / window) * window`"
)
"""How a throughput is computed."""

UNMEASURED = "no replicate was measured"

LEAST_REPLICATES = 3
"""Replicates of a point below which it has no interval, and nothing is said of how sure its place
is. Of two values an interval is about four times as wide as of three, and tells nobody anything."""


OBJECTIVES = {"latency_median_ms": "min", "throughput_images_s": "max"}
"""The objectives of a front: columns, and whether less or more of each is better."""

CHOICES = {
    "latency": "latency_median_ms",
    "throughput": "throughput_images_s",
    "memory": "peak_rss_bytes",
    "error": "max_relative_error",
    "energy": "energy_j_per_image",
    "bytes": "payload_bytes",
}
"""Columns that people may choose as objectives, by the names that they choose them by. Of all but
the objectives above less is better."""


def chosen_objectives(names: Iterable[str]) -> dict[str, str]:
    """Objectives by their names: columns, and whether less or more of each is better.

    Raises
    ------
    ValueError
        When a name is unknown, or none is given.

    Examples
    --------
    >>> chosen_objectives(["throughput", "error"])
    {'throughput_images_s': 'max', 'max_relative_error': 'min'}
    """
    asked = list(names)
    unknown = [name for name in asked if name not in CHOICES]
    if unknown or not asked:
        found = repr(unknown[0]) if unknown else "none"
        raise ValueError(f"objectives: allowed are some of {', '.join(CHOICES)}; got {found}")
    columns = [CHOICES[name] for name in asked]
    return {column: OBJECTIVES.get(column, "min") for column in columns}


@dataclass(frozen=True)
class Over:
    """How several values, those of a point's replicates above all, become one.

    Parameters
    ----------
    how
        ``mean``, ``sum`` and ``worst`` are null where one of the values is; ``min`` and ``max``
        pass over nulls. ``worst`` takes the last in `order`. ``together`` joins the different texts
        by ``; ``, ``union`` the words of comma-separated lists. ``low`` and ``high`` are the ends
        of the t-interval of the mean of another column, `of`.
    dtype
        Of the result.
    order
        All values from best to worst.
    of
        Name of the column whose interval it is.
    """

    how: Literal["mean", "min", "max", "sum", "worst", "together", "union", "low", "high"]
    dtype: str = "float64"
    order: tuple[object, ...] = ()
    of: str = ""


MEAN = Over("mean")
LEAST, MOST, SUM = Over("min"), Over("max"), Over("sum")
FEWEST, GREATEST, TOTAL = Over("min", "Int64"), Over("max", "Int64"), Over("sum", "Int64")
"""The same for whole numbers."""
TOGETHER, UNION = Over("together", "str"), Over("union", "str")


def worst(*order: object) -> Over:
    """The worst value decides; `order` is from best to worst."""
    flags = all(isinstance(value, bool) for value in order)
    return Over("worst", "boolean" if flags else "str", order)


ANY, ALL = worst(False, True), worst(True, False)
"""Of flags: whether one value is true, and whether all are."""


@dataclass(frozen=True)
class Column:
    """One column of a table.

    `null` says when there is no value, `front` whether ``front.csv`` has the column too, and `over`
    how the values of replicates become the one of the table; it is None where no replicate has one.
    """

    name: str
    unit: str
    meaning: str
    null: str = ""
    front: bool = False
    over: Over | None = None


def interval(name: str, unit: str, of: str) -> Iterator[Column]:
    """Both ends of the confidence interval of the column `of`; ``{}`` in `name` is the end."""
    for end in ("low", "high"):
        yield Column(
            name.format(end),
            unit,
            f"{end.capitalize()} end of the 95 % t-interval of `{of}` over replicates.",
            f"fewer than {LEAST_REPLICATES} replicates were measured",
            front=True,
            over=Over(end, of=of),
        )


def percentiles(of: str) -> Iterator[Column]:
    """Percentiles of a latency, each with its interval.

    Parameters
    ----------
    of
        The latency, in words.
    """
    for percentile, needed in PERCENTILE_ITEMS.items():
        null = f"a replicate has fewer than {needed} items"
        name = f"latency_p{percentile}"
        yield Column(
            f"{name}_ms",
            "ms",
            f"{percentile}th percentile of {of}, interpolated linearly between items: mean over "
            "replicates.",
            null,
            over=MEAN,
        )
        for end in ("low", "high"):
            yield Column(
                f"{name}_{end}_ms",
                "ms",
                f"{end.capitalize()} end of the interval between order statistics that contains "
                f"that percentile with {PERCENTILE_CONFIDENCE:.0%} confidence in each replicate: "
                "mean over replicates, whose confidence is at least 100 - r % for r replicates.",
                null,
                over=MEAN,
            )


_DIRECTIONS = {"min": "minimise", "max": "maximise"}


def table(columns: Iterable[Column], *, fronts: bool = True) -> Iterator[str]:
    """Lines of a Markdown table of columns; `fronts` adds objectives and what is in front.csv."""
    titles = ["column", "unit", *(["objective", "in front.csv"] if fronts else [])]
    titles += ["meaning", "null when"]
    yield "| " + " | ".join(titles) + " |"
    yield "|" + "---|" * len(titles)
    for column in columns:
        cells = [f"`{column.name}`", column.unit]
        if fronts:
            cells.append(_DIRECTIONS.get(OBJECTIVES.get(column.name, ""), ""))
            cells.append("yes" if column.front else "")
        yield "| " + " | ".join([*cells, column.meaning, column.null]) + " |"
