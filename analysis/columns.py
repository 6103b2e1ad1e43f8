"""``python -m analysis.columns``: the dictionary of all columns, which is ``docs/columns.md``."""

from __future__ import annotations

from analysis.column import Column, table
from analysis.measures.attribution_columns import ATTRIBUTION
from analysis.tables import backend_costs, load_curve, trace_segments
from analysis.tables.columns import SECTIONS
from paretopipe_worker.plan.experiment import MIN_ITEMS

_OTHERS: dict[str, tuple[str, tuple[Column, ...]]] = {
    "load.csv": (
        "One row per point and offered rate, for experiments with legs of offered load.",
        load_curve.COLUMNS,
    ),
    "segments.csv": (
        "One row per point and segment, where links follow traces; without segments that no phase "
        "came to.",
        trace_segments.COLUMNS,
    ),
    "attribution.csv": (
        "One row per point measured, rank and kind of time. Each kind is the time between two\n"
        "time stamps of its own, none is what others leave over.",
        ATTRIBUTION,
    ),
    "backends.csv": (
        "One row per cut, backend and quantity, where a run has several backends; `python -m\n"
        "analysis.backends results/RUN` makes it alone.",
        backend_costs.COLUMNS,
    ),
}
"""Further tables, what is said of each, and its columns."""


_PREAMBLE = """\
# Columns of points.csv and front.csv

`python -m analysis.pareto results/RUN` makes both tables from the raw records alone. `points.csv`
has one row per point of the plan, also for those that failed; `front.csv` one row per point on its
Pareto front, by group and then latency. A number that was not measured is empty (null); nothing is
estimated. A mean over replicates is null where one of the replicates measured lacks the value.

A replicate of a point counts only where its records are complete: the source's closing line, and
the phases' closing lines of every rank that took part, all from one attempt at the session, the
latest such. It is failed where a phase has fewer than {minimum} items or its bytes did not cross.
Where a disturbed leg was measured again, the last leg of the phase counts.

This page is printed by `python -m analysis.columns`.
"""


def markdown() -> str:
    """The dictionary of columns, as ``docs/columns.md`` holds it."""
    lines = [_PREAMBLE.format(minimum=MIN_ITEMS)]
    for title, columns in SECTIONS.items():
        lines += [f"## {title}\n", *table(columns)]
        lines.append("")
    for name, (said, columns) in _OTHERS.items():
        lines += [f"# Columns of {name}\n\n{said}\n", *table(columns, fronts=False), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown(), end="")
