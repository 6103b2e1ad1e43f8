"""What a column of a table is, and how a dictionary of columns is printed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

PERCENTILE_ITEMS = {90: 64, 95: 130, 99: 662}
"""Items a percentile needs to be told. With so many the second largest is an upper bound of it with
99 % confidence (MLPerf Inference's LoadGen); the quantile between items is not, so that it has an
interval beside it."""

PERCENTILE_CONFIDENCE = 0.99
"""Of that interval, in each replicate."""

STAGES = 2
"""Stages of a pipeline in this version."""

WHOLE = (
    "`batch * m` over the time from the first to the m-th completion after it, where m of the n "
    "completions make up whole windows, `m = floor((n - 1) / window) * window`"
)
"""How a throughput is computed."""

UNMEASURED = "no replicate was measured"
IDLE = "the rank has no part in this split"


OBJECTIVES = {"latency_median_ms": "min", "throughput_images_s": "max"}
"""What a front is of: columns, and whether less or more of each is better."""


@dataclass(frozen=True)
class Column:
    """One column of a table.

    `null` says when there is no value; `front` whether ``front.csv`` has the column too.
    """

    name: str
    unit: str
    meaning: str
    null: str = ""
    front: bool = False


def interval(name: str, unit: str, of: str) -> Iterator[Column]:
    """Both ends of a confidence interval."""
    for end in ("low", "high"):
        yield Column(
            name.format(end),
            unit,
            f"{end.capitalize()} end of the 95 % t-interval of {of} over replicates.",
            "fewer than two replicates were measured",
            front=True,
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
            f"{percentile}th percentile of {of} (between items linearly), then the mean over "
            "replicates.",
            null,
        )
        for end in ("low", "high"):
            yield Column(
                f"{name}_{end}_ms",
                "ms",
                f"{end.capitalize()} end of the interval of order statistics in which that lies, "
                f"with {PERCENTILE_CONFIDENCE:.0%} confidence in each replicate: the mean over "
                "replicates, which r of them make true with 100 - r % at least.",
                null,
            )


_DIRECTIONS = {"min": "minimise", "max": "maximise"}


def table(columns: Iterable[Column], *, fronts: bool = True) -> Iterator[str]:
    """Lines of a Markdown table of columns; `fronts` is whether objectives and fronts matter."""
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
