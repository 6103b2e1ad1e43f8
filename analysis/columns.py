"""``python -m analysis.columns``: the dictionary of all columns, which is ``docs/columns.md``."""

from __future__ import annotations

from analysis.column import Column, table
from analysis.links_columns import LINKS, TRANSFERS
from analysis.measures.attribution_columns import ATTRIBUTION
from analysis.prediction import predicting
from analysis.tables import (
    attainment,
    backend_costs,
    indicators,
    load_curve,
    stages,
    trace_segments,
)
from analysis.tables.columns import SECTIONS
from paretopipe_worker.plan.experiment import MIN_ITEMS

_OTHERS: dict[str, tuple[str, tuple[Column, ...]]] = {
    "stages.csv": (
        "One row per point and rank that takes part in it, also for points that failed: how the\n"
        "rank's stage computed, and how its host was meanwhile.",
        stages.COLUMNS,
    ),
    "indicators.csv": (
        "One row per front: how good it is as a whole.",
        indicators.COLUMNS,
    ),
    "attainment.csv": (
        "One row per corner of an attainment surface, for fronts of at least three replicates and\n"
        "two or three objectives: which figures one, half and all of the replicates attained.",
        attainment.COLUMNS,
    ),
    "load.csv": (
        "One row per point and offered rate, for experiments that offer load.",
        load_curve.COLUMNS,
    ),
    "segments.csv": (
        "One row per point and segment, where links follow traces. Segments that no leg reached\n"
        "and that were not certified are left out.",
        trace_segments.COLUMNS,
    ),
    "attribution.csv": (
        "One row per measured point, rank and kind of time. Each kind is measured between two\n"
        "time stamps of its own; none is computed as a remainder.",
        ATTRIBUTION,
    ),
    "predictions.csv": (
        "One row per point of the plan, measured or not: what it is expected to measure, from all\n"
        "other points and the hosts' profiles. docs/prediction.md says how.",
        predicting.COLUMNS,
    ),
    "backends.csv": (
        "One row per cut, backend and quantity, where a run has several backends; `python -m\n"
        "analysis.backends results/RUN` makes this table alone.",
        backend_costs.COLUMNS,
    ),
    "links.csv": (
        "One row per ordered pair of hosts, where `playbooks/links.yml` has measured their links;\n"
        "`python -m analysis.links results/links-TIME` makes the tables from what was measured.",
        LINKS,
    ),
    "transfers.csv": (
        "One row per ordered pair of hosts, size and kind of connection in a table of links.",
        TRANSFERS,
    ),
}
"""Further tables, each with a description and its columns."""


_PREAMBLE = """\
# Columns of points.csv and front.csv

`python -m analysis.pareto results/RUN` makes both tables from the raw records alone. `points.csv`
has one row per point of the plan, also for those that failed; `front.csv` has one row per point on
its Pareto front, by group and then latency. A number that was not measured is empty (null); nothing
is estimated. A mean over replicates is null where one of the replicates measured lacks the value.
What belongs to a rank is in `stages.csv`.

A replicate of a point counts only if its records are complete: they have the source's line that
ends the point, and the line that ends each leg from every rank that took part, all from one attempt
at the session. If several attempts are complete, the latest counts. The replicate is failed if a
leg has fewer than {minimum} items or its bytes did not cross. If a disturbed leg was measured
again, the last leg counts.

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
