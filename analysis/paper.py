"""``python -m analysis.paper results/RUN``: figures and tables of a run for a paper."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pandas as pd

from analysis.column import OBJECTIVES
from analysis.disk import saying_why
from analysis.figures import front_figure
from analysis.figures.breakdown import breakdown
from analysis.figures.load_figure import load_figure
from analysis.figures.pages import COLUMN_IN
from analysis.figures.style import KINDS, save
from analysis.measures.clocks import comparisons
from analysis.measures.replicates import replicates
from analysis.pareto import given_objectives, tables_of
from analysis.prediction.predicting import predictions
from analysis.report.values import known
from analysis.run import RunError, read
from analysis.tables.front import fronts
from analysis.tables.latex import latex
from paretopipe_worker.plan.plan import PlanError, slug
from paretopipe_worker.records.files import RecordError

FORMATS = (*KINDS, "csv", "parquet", "tex")
"""Formats of figures, and of tables."""

_WIDEST_IN = 20.0


@saying_why
def main(arguments: list[str] | None = None) -> int:
    """Write the figures and tables, and print their names; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.paper",
        description="Write the figures and tables of a run in the formats and sizes of a paper, "
        "from its raw records.",
    )
    parser.add_argument("run", type=Path, help="the run's directory, results/RUN")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="where they go (default: RUN/paper)"
    )
    parser.add_argument(
        "--formats",
        type=_formats,
        default=FORMATS,
        metavar="NAME,...",
        help=f"some of {', '.join(FORMATS)} (default: all)",
    )
    parser.add_argument(
        "--width",
        type=_width,
        default=COLUMN_IN,
        metavar="INCHES",
        help=f"width of a column, for the figures of fronts (default: {COLUMN_IN:g})",
    )
    parser.add_argument(
        "--objectives",
        type=given_objectives,
        default=OBJECTIVES,
        metavar="NAME,...",
        help="as python -m analysis.pareto takes them",
    )
    parser.add_argument("--uncertified", action="store_true", help="as analysis.pareto takes it")
    options = parser.parse_args(arguments)
    folder = options.output or options.run / "paper"
    try:
        run = read(options.run)
        clocks = comparisons(run)
        measured = replicates(run, clocks)
        tables = tables_of(
            run, measured, clocks, options.objectives, uncertified=options.uncertified
        )
        tables |= {"predictions.csv": known(predictions(run, measured))}
    except (RunError, PlanError, RecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    for warning in (*run.warnings, *_without_figures(tables["points.csv"])):
        print(f"warning: {warning}", file=sys.stderr)
    for file in (
        *write_tables(tables, folder, options.formats, options.objectives),
        *draw(tables, folder, options.formats, options.width, options.objectives),
    ):
        print(file)
    return 0


def write_tables(
    tables: Mapping[str, pd.DataFrame],
    folder: Path,
    formats: Collection[str],
    objectives: Mapping[str, str],
) -> Iterator[Path]:
    """Write all tables as CSV and Parquet, and for each model its front and points as LaTeX.

    Parameters
    ----------
    tables
        By the names of their CSV files.
    """
    for name, table in tables.items():
        if "csv" in formats:
            table.to_csv(folder / name, index=False, float_format="%.9g", lineterminator="\n")
            yield folder / name
        if "parquet" in formats:
            file = (folder / name).with_suffix(".parquet")
            table.to_parquet(file, index=False)
            yield file
    if "tex" in formats:
        for model, points in tables["points.csv"].groupby("model", sort=False):
            measured = points[points["status"] == "ok"]
            for kind, rows in (("front", fronts(measured, objectives)), ("points", measured)):
                if len(rows):
                    file = folder / f"{kind}-{slug(str(model))}.tex"
                    file.write_text(latex(rows, objectives), encoding="utf-8")
                    yield file


def draw(
    tables: Mapping[str, pd.DataFrame],
    folder: Path,
    formats: Collection[str],
    width_in: float,
    objectives: Mapping[str, str],
) -> Iterator[Path]:
    """Write each panel of fronts as a figure of a column's width, and the other figures as pages.

    ``captions.txt`` has what the notes on a page of fronts say.
    """
    kinds = [kind for kind in KINDS if kind in formats]
    attained = tables.get("attainment.csv") if dict(objectives) == OBJECTIVES else None
    captions = []
    for model, points in tables["points.csv"].groupby("model", sort=False):
        if not kinds or not (points["status"] == "ok").any():
            continue
        stages, name = tables["stages.csv"], slug(str(model))
        panels = front_figure.columns(points, stages, attained, width_in)
        for number, (figure, caption) in enumerate(panels, start=1):
            title = f"front-{name}-{number}"
            captions.append(f"{title}: {caption}\n")
            yield from save([figure], folder, title, kinds)
        yield from save(
            breakdown(points, stages, tables["attribution.csv"]), folder, f"breakdown-{name}", kinds
        )
        if "load.csv" in tables:
            offered = tables["load.csv"][tables["load.csv"]["model"] == model]
            if len(offered):
                yield from save(load_figure(points, stages, offered), folder, f"load-{name}", kinds)
    if captions:
        (folder / "captions.txt").write_text("\n".join(captions), encoding="utf-8")
        yield folder / "captions.txt"


def _without_figures(points: pd.DataFrame) -> Iterator[str]:
    """Say which models have no figures."""
    for model, rows in points.groupby("model", sort=False):
        if not (rows["status"] == "ok").any():
            yield f"{model} has no figures: none of its {len(rows)} points was measured"


def _formats(text: str) -> tuple[str, ...]:
    """Formats as people name them."""
    names = tuple(text.split(","))
    unknown = [name for name in names if name not in FORMATS]
    if unknown:
        said = f"allowed are some of {', '.join(FORMATS)}; got {unknown[0]!r}"
        raise argparse.ArgumentTypeError(said)
    return names


def _width(text: str) -> float:
    """A width in inches."""
    try:
        width = float(text)
    except ValueError:
        width = 0.0
    if not 2 <= width <= _WIDEST_IN:
        raise argparse.ArgumentTypeError(f"must be 2 to {_WIDEST_IN:g} inches; got {text!r}")
    return width


if __name__ == "__main__":
    sys.exit(main())
