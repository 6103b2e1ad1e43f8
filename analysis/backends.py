"""``python -m analysis.backends results/RUN``: what the choice of backend costs at each cut."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pandas as pd

from analysis.disk import saying_why
from analysis.figures.backend_figure import draw
from analysis.measures.replicates import replicates
from analysis.report.backends import text
from analysis.run import RunError, read
from analysis.tables.backend_costs import compare
from paretopipe_worker.plan.plan import PlanError
from paretopipe_worker.records.files import RecordError


@saying_why
def main(arguments: list[str] | None = None) -> int:
    """Compare a run's backends and print what each costs; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.backends",
        description="Write backends.csv and figures/backends-MODEL of a run that has several "
        "backends, and print by how much they differ.",
    )
    parser.add_argument("run", type=Path, help="the run's directory, results/RUN")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    options = parser.parse_args(arguments)
    try:
        run = read(options.run)
        table = compare(run, replicates(run))
    except (RunError, PlanError, RecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    files = [str(file) for file in write(table, options.run)]
    rows = json.loads(table.to_json(orient="records", double_precision=9))
    document = {"run": run.plan.run, "backends": rows, "files": files}
    written = "\n".join(["written:", *(f"  {file}" for file in files)])
    print(json.dumps(document, indent=1) if options.json else f"{text(table)}\n\n{written}")
    return 0


def write(table: pd.DataFrame, path: Path) -> list[Path]:
    """Write ``backends.csv`` and its figures into a run's directory; return the files."""
    file = path / "backends.csv"
    table.to_csv(file, index=False, float_format="%.9g", lineterminator="\n")
    return [file, *draw(table, path / "figures")]


if __name__ == "__main__":
    sys.exit(main())
