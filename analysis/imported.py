"""``python -m analysis.imported KIND PATH -o FOLDER``: fronts of what others measured."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.answers.choosing import knee, listed
from analysis.disk import saying_why
from analysis.figures.imported_figure import imported_fronts
from analysis.figures.style import save
from analysis.importing import metric_files, time_tables
from analysis.importing.kinds import GROUP, Imported, ImportingError, Kind, imported
from analysis.tables.front import is_nondominated
from paretopipe_worker.plan.plan import slug

KINDS = {"metrics": metric_files.KIND, "times": time_tables.KIND}
"""What can be imported, by the name that people give."""

NOT_OURS = "measured by others: no replicates are known, so no interval is shown"

_PRINTED = 10
_FAULTS = 20


@saying_why
def main(arguments: list[str] | None = None) -> int:
    """Import files, write their points, fronts and figures; return 0, or 2 where none can be."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.imported",
        description="Read measurements that other tools made, and draw their Pareto fronts.",
    )
    parser.add_argument("kind", choices=sorted(KINDS), help="what the files are")
    parser.add_argument("path", type=Path, help="a file, or a folder that holds such files")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FOLDER", help="where results go"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    options = parser.parse_args(arguments)
    kind = KINDS[options.kind]
    try:
        if (options.output / "plan.json").exists():
            raise ImportingError(f"{options.output}: is the folder of a run; name another folder")
        read = imported(kind, options.path)
    except ImportingError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 2
    for line in (*kind.warnings, *_left_out(read)):
        print(f"warning: {line}", file=sys.stderr)
    document = analyse(kind, read, options.output)
    print(json.dumps(document, indent=1) if options.json else text(document))
    return 0


def analyse(kind: Kind, read: Imported, folder: Path) -> dict[str, Any]:
    """Write ``imported.csv`` and ``figures/`` of what was read.

    Returns
    -------
    A document of plain values: ``said``, where it comes from; ``warnings``; ``faults``; ``files``,
    how many were read and how many found; ``fronts``, for each model and condition its points,
    best first, and ``choice``, a sentence; ``written``, the files.
    """
    objectives = list(kind.objectives)
    whole = read.points.dropna(subset=objectives)
    on_front = pd.Series(False, index=read.points.index)
    for _, group in whole.groupby(list(GROUP), sort=False):
        on_front[group.index] = is_nondominated(group[objectives], list(kind.objectives.values()))
    points = read.points.assign(on_front=on_front)
    folder.mkdir(parents=True, exist_ok=True)
    points.to_csv(folder / "imported.csv", index=False, float_format="%.9g", lineterminator="\n")
    return {
        "said": f"{kind.said}, {NOT_OURS}",
        "warnings": list(kind.warnings),
        "faults": list(read.faults),
        "files": list(read.files),
        "fronts": list(_fronts(points, kind)),
        "written": [str(folder / "imported.csv"), *map(str, _draw(points, kind, read, folder))],
    }


def _fronts(points: pd.DataFrame, kind: Kind) -> Iterator[dict[str, Any]]:
    """Each front, and what to take of it."""
    objectives = list(kind.objectives)
    nouns = listed(kind.nouns.values())
    for key, group in points.groupby(list(GROUP), sort=False):
        best = group[group["on_front"]].sort_values(objectives)
        about = dict(zip(GROUP, key, strict=True)) | {"splits": len(group)}
        if best.empty:
            choice = f"no split has both {nouns}"
        elif len(best.drop_duplicates(objectives)) == 1:
            choice = f"take split {best['split'].iloc[0]}: the best in {nouns} alike"
        else:
            split = best.loc[knee(best, kind.objectives), "split"]
            choice = f"take split {split}: the knee of the front of {nouns}"
        rows = json.loads(best[["split", *objectives]].to_json(orient="records"))
        yield about | {"points": rows, "choice": choice}


def _draw(points: pd.DataFrame, kind: Kind, read: Imported, folder: Path) -> Iterator[Path]:
    """The figures of all models."""
    units = {column.name: column.unit for column in kind.columns}
    axes = {
        name: f"{noun[0].upper()}{noun[1:]} ({units[name]}" for name, noun in kind.nouns.items()
    }
    notes = [f"{kind.said}, {NOT_OURS}", *kind.warnings, *_left_out(read)[:1]]
    for model, group in points.groupby("model", sort=False):
        if group["on_front"].any():
            (folder / "figures").mkdir(exist_ok=True)
            pages = imported_fronts(group, kind.objectives, axes, notes)
            yield from save(pages, folder / "figures", f"imported-{slug(str(model))}")


def text(document: dict[str, Any]) -> str:
    """The fronts as text; of many the first ones."""
    parts = [document["said"]]
    for front in document["fronts"][:_PRINTED]:
        rows = pd.DataFrame(front["points"]).to_string(index=False, float_format="{:.2f}".format)
        choice = f"{front['choice'][0].upper()}{front['choice'][1:]}."
        heading = f"{front['model']}, {front['condition']}: {front['splits']} splits"
        parts.append("\n".join([heading, *([rows] if front["points"] else []), choice]))
    if more := len(document["fronts"]) - _PRINTED:
        parts += [f"and {more} more fronts, see imported.csv"] if more > 0 else []
    kept, found = document["files"]
    parts.append("\n".join([f"{kept} of {found} files read; written:", *document["written"]]))
    return "\n\n".join(parts)


def _left_out(read: Imported) -> list[str]:
    """How many files were left out, and the first of their faults."""
    kept, found = read.files
    if kept == found:
        return []
    more = len(read.faults) - _FAULTS
    shown = [*read.faults[:_FAULTS], *([f"and {more} more faults"] if more > 0 else [])]
    return [f"{found - kept} of {found} files have faults and are left out", *shown]


if __name__ == "__main__":
    sys.exit(main())
