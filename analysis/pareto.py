"""``python -m analysis.pareto results/RUN``: tables, fronts, figures and a report."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import backends
from analysis.answers import limits
from analysis.answers.limits import Limit
from analysis.answers.telling import answers
from analysis.column import CHOICES, OBJECTIVES, chosen_objectives
from analysis.disk import saying_why
from analysis.figures import of_run
from analysis.figures.drawing import drawing
from analysis.figures.front_figure import THROUGHPUT
from analysis.measures import marks
from analysis.measures.attribution import attribution
from analysis.measures.clocks import comparisons
from analysis.measures.replicates import replicates
from analysis.prediction.parts import Parts
from analysis.prediction.predicting import predictions
from analysis.report import guided, html, terminal
from analysis.report.values import known, plain
from analysis.run import Run, RunError, processes, read
from analysis.tables import backend_costs, certainty, front
from analysis.tables.attainment import attainment
from analysis.tables.columns import FRONT
from analysis.tables.indicators import indicators
from analysis.tables.load_curve import load_curve
from analysis.tables.points import points
from analysis.tables.stages import stages
from analysis.tables.trace_segments import segments
from paretopipe_worker.plan.attempts import MEASURED
from paretopipe_worker.plan.plan import PlanError
from paretopipe_worker.records.files import RecordError

_MANY = 2_000
"""Points whose figures take longer than a further process takes to begin."""


@saying_why
def main(arguments: list[str] | None = None) -> int:
    """Recompute a run's tables and figures and print its fronts; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.pareto",
        description="Recompute points.csv, front.csv, figures/ and report.html of a run from its "
        "raw records, and print the Pareto fronts.",
    )
    parser.add_argument("run", type=Path, help="the run's directory, results/RUN")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    parser.add_argument(
        "--uncertified",
        action="store_true",
        help="let points on the front whose link was measured to be other than asked for",
    )
    parser.add_argument(
        "--objectives",
        type=given_objectives,
        default=OBJECTIVES,
        metavar="NAME,...",
        help=f"what the fronts weigh: some of {', '.join(CHOICES)} (default: latency,throughput); "
        "with error, number formats, runtimes and wire formats compete with one another",
    )
    limits.add_options(parser)
    options = parser.parse_args(arguments)
    try:
        document = analyse(
            options.run,
            uncertified=options.uncertified,
            objectives=options.objectives,
            limited=limits.given(options),
        )
    except (RunError, PlanError, RecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for warning in document["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    print(json.dumps(document, indent=1) if options.json else terminal.text(document))
    return 0


def given_objectives(text: str) -> dict[str, str]:
    """Objectives as people name them."""
    try:
        return chosen_objectives(text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def analyse(
    path: Path,
    *,
    uncertified: bool = False,
    objectives: Mapping[str, str] = OBJECTIVES,
    limited: Sequence[Limit] = (),
) -> dict[str, Any]:
    """Write the tables, ``figures/`` and the report of a run, and say what is in them.

    Parameters
    ----------
    path
        The run's directory.
    uncertified
        Whether points whose link was not as asked for may be on a front.
    objectives
        Those of the fronts, see :func:`analysis.tables.front.mark`.
    limited
        Limits within which a split is chosen.

    Returns
    -------
    A document of plain values:
    - ``run``: its name; ``uncertified`` and ``objectives``: as above; what :func:`_doubts` returns;
    - ``processes``, ``guided``: see :func:`analysis.run.processes`, :func:`guided.standing`;
    - those of :func:`analysis.answers.telling.answers`;
    - ``front``: the rows of ``front.csv``; ``load`` and ``backends``: those of ``load.csv`` and
      ``backends.csv``, which are written if load was offered and if there are several backends;
    - ``files``, ``report``; ``warnings``: see :class:`analysis.run.Run`.

    Raises
    ------
    RunError, PlanError, RecordError
        When there is no such run or it is damaged.
    """
    run = read(path)
    with drawing(of_run.pages, apart=len(run.plan.points) >= _MANY) as figures:
        clocks = comparisons(run)
        measured = replicates(run, clocks)
        tables = tables_of(run, measured, clocks, objectives, uncertified=uncertified)
        figures.begin(*_shown(tables, path, objectives))
        parts = Parts(run, measured)
        tables |= {"predictions.csv": known(predictions(run, measured, parts))}
        _write(tables, path)
        files, further = [path / name for name in tables], []
        if backend_costs.several(run):
            tables |= {"backends.csv": known(backend_costs.compare(run, measured))}
            further = backends.write(tables["backends.csv"], path)
        told = answers(tables["points.csv"], measured, objectives, limited, uncertified=uncertified)
        document = {
            "uncertified": uncertified,
            "objectives": dict(objectives),
            **_told(run, tables),
            **plain(told),
        }
        report = html.write(parts, tables, document)
        files += [*figures.files(), *further]
    return document | {"files": [str(file) for file in files], "report": str(report)}


def _told(run: Run, tables: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """What a document says of a run and its tables, but for answers and files."""
    return {
        "run": run.plan.run,
        **_doubts(tables["points.csv"]),
        "guided": guided.standing(run),
        "processes": processes(run),
        "front": _rows(tables["front.csv"]),
        "load": _rows(tables.get("load.csv")),
        "backends": _rows(tables.get("backends.csv")),
        "warnings": list(run.warnings),
    }


def _shown(
    tables: Mapping[str, pd.DataFrame], path: Path, objectives: Mapping[str, str]
) -> tuple[Any, ...]:
    """What :func:`analysis.figures.of_run.pages` takes."""
    attained = tables.get("attainment.csv") if dict(objectives) == OBJECTIVES else None
    return (
        tables["points.csv"],
        tables["stages.csv"],
        path / "figures",
        tables.get("load.csv"),
        tables["attribution.csv"],
        attained,
    )


def _write(tables: Mapping[str, pd.DataFrame], folder: Path) -> None:
    """Write tables by their file names."""
    for name, content in tables.items():
        content.to_csv(folder / name, index=False, float_format="%.9g", lineterminator="\n")


def tables_of(
    run: Run,
    measured: pd.DataFrame,
    clocks: pd.DataFrame,
    objectives: Mapping[str, str],
    *,
    uncertified: bool,
) -> dict[str, pd.DataFrame]:
    """The tables of a run, by file name, but for predictions and what needs several backends."""
    table = known(points(run, uncertified=uncertified, measured=measured, objectives=objectives))
    curve = load_curve(run, table, measured)
    tables = {
        "points.csv": table,
        "front.csv": front.fronts(table, objectives)[list(FRONT)],
        "stages.csv": stages(run, measured),
        "indicators.csv": indicators(table, measured, objectives, uncertified=uncertified),
        "attribution.csv": attribution(run.items, run.plan, measured, clocks),
    }
    surfaces = attainment(table, measured, objectives, uncertified=uncertified)
    tables |= {"attainment.csv": surfaces} if len(surfaces) else {}
    tables |= {"load.csv": curve} if len(curve) else {}
    if any(link.timetable for link in run.plan.experiment.links):
        tables["segments.csv"] = segments(run)
    return {name: known(table) for name, table in tables.items()}


def _doubts(table: pd.DataFrame) -> dict[str, Any]:
    """How many points were measured, and those whose figures are missing or in doubt.

    Returns
    -------
    ``without_interval``: see :func:`analysis.tables.certainty.without_interval`. ``points``: how
    many have each status. The others are lists of points. ``failures``: those without figures that
    were not skipped, why, and how often they were tried. ``marked``: the link
    was not as asked for, and in what. ``late``: a relay was late, and by how much. ``disturbed``: a
    host was disturbed. ``apart``: other sources were not measured for part of the time.
    ``unclocked``: there is no forward latency, and why. ``unattributed``: the parts do not add up
    to the latency. ``rateless``: there is no throughput, and why. ``unsteady``: a leg began before
    its items were steady. ``unresolved``: the replicates do not tell whether it is on the front.
    """
    ok, skipped = (table["status"] == status for status in ("ok", "skipped"))
    never = [
        table[f"{phase}_warmup_ended_by"].eq("never steady").fillna(False) for phase in MEASURED
    ]
    badly_attributed = table["attribution_ok"].eq(False).fillna(False)
    rateless = table[ok & table[THROUGHPUT].isna()]
    counts = table["status"].value_counts()
    return {
        "without_interval": certainty.without_interval(table),
        "points": {
            name: int(counts.get(name, 0)) for name in ("ok", "failed", "missing", "skipped")
        },
        "failures": _named(table[~ok & ~skipped], "status", "reason", "tries"),
        "marked": _named(table[marks.uncertified(table)], "link_certified", "link_certificate"),
        "late": _named(table[marks.late(table)], "relay_late_p99_ms"),
        "disturbed": _named(table[marks.disturbed(table)], "disturbances", "legs_again"),
        "apart": _named(table[marks.apart(table)], "overlap_share", "overlap_note"),
        "unclocked": _named(table[ok & table["clock_note"].notna()], "clock_note"),
        "unattributed": _named(table[badly_attributed], "attributed_share"),
        "rateless": _named(rateless, "throughput_note"),
        "unresolved": _named(table[_open(table)], *(each.name for each in certainty.COLUMNS)),
        "unsteady": _named(table[np.logical_or.reduce(never)]),
    }


def _open(table: pd.DataFrame) -> pd.Series:
    """Points that are neither surely on the front nor surely off it."""
    sure = table["front_probability"]
    return (sure > 1 - certainty.SURE) & (sure < certainty.SURE)


def _named(rows: pd.DataFrame, *columns: str) -> list[dict[str, Any]]:
    """Points with what identifies them and some further columns."""
    return _rows(rows[["point", *front.GROUP, "split", *columns]])


def _rows(table: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Rows as plain values, null where there is none; no rows of no table."""
    if table is None:
        return []
    rows: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=9))
    return rows


if __name__ == "__main__":
    sys.exit(main())
