"""``python -m analysis.whatif results/RUN``: where to split over links that were never measured."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.answers.borders import Map, best_by_link
from analysis.answers.elsewhere import (
    LATENCY,
    MOST_SPLITS,
    THROUGHPUT,
    each_split,
    named,
    predicted,
    sentences,
)
from analysis.answers.telling import title
from analysis.disk import saying_why
from analysis.figures.whatif_figure import Regions, draw
from analysis.measures.replicates import replicates
from analysis.prediction.elsewhere import Base, Link, bases
from analysis.prediction.parts import PredictionError
from analysis.report.values import plain
from analysis.run import RunError, read
from paretopipe_worker.link.conditions import Condition
from paretopipe_worker.plan.plan import PlanError
from paretopipe_worker.records.files import RecordError
from paretopipe_worker.usertext import shown

TABLE = "whatif.csv"
"""The table of borders, beside points.csv."""

_NOTHING = (
    "say which link: --rate MBIT and --delay MS, such as --rate 10 --delay 40; or --map for the "
    "best split over links of many rates and delays"
)


@saying_why
def main(arguments: list[str] | None = None) -> int:
    """Predict splits over another link, or draw the map of links; return the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    link = _link(parser, options)
    try:
        run = read(options.run)
        models = list(dict.fromkeys(point.model for point in run.plan.points))
        if options.model not in (None, *models):
            parser.error(f"--model: one of {', '.join(models)}; got {shown(options.model)}")
        found, refused = bases(run, replicates(run), options.model)
        blocks = [_block(base, link) for base in found] if link else []
        files = _map(options, found, refused) if options.map else []
    except (RunError, PlanError, RecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    unknown = [f"nothing is predicted: {reason}" for reason in dict.fromkeys(refused)]
    for warning in (*run.warnings, *unknown):
        print(f"warning: {warning}", file=sys.stderr)
    document = {
        "run": run.plan.run,
        "asked": vars(link) if link else None,
        "predictions": blocks,
        "refused": refused,
        "files": [str(file) for file in files],
    }
    print(json.dumps(plain(document), indent=1) if options.json else _text(document))
    return 0 if blocks or files else 2


def _parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.whatif",
        description="Predict latency and throughput of every split over a link that was never "
        "measured, from what a run measured of its hosts. Predictions are never results.",
    )
    parser.add_argument("run", type=Path, help="the run's directory, results/RUN")
    for name, what in (("rate", "rate of the link, Mbit/s"), ("delay", "one-way delay, ms")):
        kind = _quantity(f"{name}_{'mbit' if name == 'rate' else 'ms'}")
        unit = "MBIT" if name == "rate" else "MS"
        parser.add_argument(f"--{name}", type=kind, metavar=unit, help=what)
        back = f"{what} on the way back, if it is another"
        parser.add_argument(f"--return-{name}", type=kind, metavar=unit, help=back)
    parser.add_argument("--model", help="only this model (default: all)")
    parser.add_argument(
        "--map",
        action="store_true",
        help=f"draw figures/whatif-MODEL, and write {TABLE}: the rates and delays at which the "
        "best split changes",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    return parser


def _quantity(field: str) -> Any:
    """Reads a number that a link's condition may have."""

    def read_it(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        try:
            Condition.parse({field: value})
        except ValueError as error:
            allowed = str(error).partition("; got")[0].partition(": ")[2]
            raise argparse.ArgumentTypeError(f"{allowed}; got {shown(text)}") from None
        return value

    return read_it


def _link(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Link | None:
    """The link that is asked for; none where only the map is."""
    asked = options.rate is not None, options.delay is not None
    if not any(asked) and not options.map:
        parser.error(_NOTHING)
    if any(asked) and not all(asked):
        parser.error(f"--{'delay' if asked[0] else 'rate'} is missing: {_NOTHING}")
    if not any(asked):
        return None
    return Link(options.rate, options.delay, options.return_rate, options.return_delay)


def _block(base: Base, link: Link) -> dict[str, Any]:
    """What is predicted of one pipeline; of every split, where there are not too many."""
    found = predicted(base, link)
    try:
        return found | {"predicted_splits": each_split(base, link)}
    except PredictionError:
        return found | {"predicted_splits": None}


def _map(options: argparse.Namespace, found: Sequence[Base], refused: list[str]) -> list[Path]:
    """Draw the maps and write their borders; return the files."""
    back = Link(1, 0, options.return_rate, options.return_delay)
    regions: dict[str, list[Regions]] = {}
    borders = []
    for base in found:
        try:
            made = best_by_link(base, back)
        except PredictionError as error:
            refused.append(str(error))
            continue
        borders.append(made.borders)
        regions.setdefault(base.about["model"], []).append(_regions(base, made, back))
    if not borders:
        return []
    table = options.run / TABLE
    pd.concat(borders).to_csv(table, index=False, float_format="%.6g", lineterminator="\n")
    drawn = (draw(model, rows, options.run / "figures") for model, rows in regions.items())
    return [table, *(file for files in drawn for file in files)]


def _regions(base: Base, made: Map, back: Link) -> Regions:
    """What the figure draws of a map."""
    about = title(base.about | {"link": ""}).partition("link : ")[2]
    given = (("rate", back.return_rate_mbit, "Mbit/s"), ("delay", back.return_delay_ms, "ms"))
    told = [f"{name} {value:g} {unit}" for name, value, unit in given if value is not None]
    way = f"; way back with {' and '.join(told)}" if told else ""
    errors = " and ".join(
        f"{'unknown' if error is None else f'{100 * error:.1f} %'} in {name}"
        for name, error in zip(("latency", "throughput"), base.left_out, strict=True)
    )
    return Regions(
        title=f"{about}{way}; leave-one-out error over link {base.about['link']}: {errors}",
        placement=base.about["placement"],
        splits=made.splits,
        rates=made.rates,
        delays=made.delays,
        best=made.best,
        links=[(link.name, link.rate_mbit, link.delay_ms) for link in base.links],
    )


def _text(document: dict[str, Any]) -> str:
    """The document as text: a block for each pipeline, and the files."""
    parts = ["\n".join(_told(block, document["asked"])) for block in document["predictions"]]
    if document["files"]:
        parts.append("\n".join(["written:", *(f"  {file}" for file in document["files"])]))
    return "\n\n".join(parts or ["nothing is predicted"])


def _told(block: dict[str, Any], asked: dict[str, Any]) -> Iterator[str]:
    """One pipeline: what it is, its predicted front as a table, and that in words."""
    way = f"{asked['rate_mbit']:g} Mbit/s and {asked['delay_ms']:g} ms"
    back = [
        f"{asked[name]:g} {unit}"
        for name, unit in (("return_rate_mbit", "Mbit/s"), ("return_delay_ms", "ms"))
        if asked[name] is not None
    ]
    link = f"of {way}" + (f", back {' and '.join(back)}" if back else "")
    count = block["predicted_splits"]
    of = f"{len(count)}" if count is not None else f"more than {MOST_SPLITS}"
    yield title(block | {"link": f"{link}, predicted"})
    yield f"predicted front, {len(block['predicted_front'])} of {of} splits:"
    rows = [
        {
            "split": named(row, block),
            "predicted latency ms": row[LATENCY],
            "predicted images/s": row[THROUGHPUT],
        }
        for row in block["predicted_front"]
    ]
    yield pd.DataFrame(rows).to_string(index=False, float_format="{:.2f}".format)
    yield from sentences(block)


if __name__ == "__main__":
    sys.exit(main())
