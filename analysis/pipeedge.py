"""``python -m analysis.pipeedge``: profiles to and from the files of PipeEdge's scheduler."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.disk import saying_why
from analysis.measures.replicates import replicates
from analysis.prediction.exact import Choice, Fleet, front_of_orders
from analysis.prediction.pipeedge import Files, PipeEdgeError, fleets, read
from analysis.prediction.pipeedge_export import exported
from analysis.run import RunError
from analysis.run import read as read_run
from paretopipe_worker.plan.plan import PlanError
from paretopipe_worker.records.files import RecordError
from paretopipe_worker.usertext import shown

_FULL = 10**9
"""Items in flight in a pipeline that is always full, as PipeEdge's scheduler takes it to be."""

LACKS = (
    "These files hold no delay, no way back and no software's part of a message: latencies "
    "predicted from them are lower bounds."
)


@saying_why
def main(arguments: list[str] | None = None) -> int:
    """Write PipeEdge's files, or predict from them; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.pipeedge",
        description="Exchange profiles with PipeEdge's scheduler "
        "(models.yml, device_types.yml, devices.yml).",
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    out = verbs.add_parser("export", help="write the profile of a run's hosts")
    out.add_argument("run", type=Path, help="the run's directory, results/RUN")
    out.add_argument("folder", type=Path, help="the folder of the files, which is made")
    out.add_argument("--link", help="the link whose rates are taken (default: the plan's first)")
    into = verbs.add_parser("import", help="predict the exact front of what files describe")
    into.add_argument("folder", type=Path, help="the folder of the files")
    into.add_argument("--json", action="store_true", help="print one JSON document instead")
    options = parser.parse_args(arguments)
    try:
        print(_export(options) if options.verb == "export" else _import(options))
    except (RunError, PlanError, RecordError, PipeEdgeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _export(options: argparse.Namespace) -> str:
    """Write a run's files, and say what they lack."""
    run = read_run(options.run)
    links = [link.name for link in run.plan.experiment.links]
    link = options.link or links[0]
    if link not in links:
        raise PipeEdgeError(f"--link: one of {', '.join(links)}; got {shown(link)}")
    files, left_out = exported(run, replicates(run), link)
    written = [f"  {file}" for file in files.write(options.folder)]
    about = f"bw_Mbps is what link {link} was measured to carry."
    return "\n".join(["written:", *written, about, *left_out, LACKS])


def _import(options: argparse.Namespace) -> str:
    """The exact fronts of what files describe."""
    files = read(options.folder)
    blocks = []
    for about, fleet in fleets(files):
        rows = [
            _row(files, fleet, choice, about["batch"]) for choice in front_of_orders(fleet, _FULL)
        ]
        blocks.append(about | {"predicted_front": rows})
    if options.json:
        return json.dumps({"folder": str(options.folder), "fronts": blocks}, indent=1)
    parts = ["\n".join(_told(block)) for block in blocks]
    return "\n\n".join([*(parts or ["no host has a profile of a model"]), LACKS])


def _row(files: Files, fleet: Fleet, choice: Choice, batch: int) -> dict[str, Any]:
    """A choice: which host has which layers, from 1, as PipeEdge's scheduler writes it."""
    free = {kind: iter(hosts) for kind, hosts in files.devices.items()}
    ends = [0, *choice.cuts, len(fleet.places) - 1]
    stages = [
        {"host": next(free[kind]), "layers": [begin + 1, end]}
        for kind, (begin, end) in zip(choice.hosts, itertools.pairwise(ends), strict=True)
    ]
    return {
        "stages": stages,
        "predicted_latency_ms": choice.latency_ms,
        "predicted_throughput_images_s": batch * choice.throughput_per_s,
    }


def _told(block: dict[str, Any]) -> Iterator[str]:
    """One front in lines."""
    yield (
        f"{block['model']}, batch {block['batch']}, {block['dtype']}: predicted front over all "
        "orders and subsets of hosts"
    )
    if not block["predicted_front"]:
        yield "no split fits into the memory of its hosts"
        return
    rows = [
        {
            "layers": _layers(row["stages"]),
            "predicted latency ms": row["predicted_latency_ms"],
            "predicted images/s": row["predicted_throughput_images_s"],
        }
        for row in block["predicted_front"]
    ]
    yield pd.DataFrame(rows).to_string(index=False, float_format="{:.2f}".format)


def _layers(stages: Sequence[dict[str, Any]]) -> str:
    """Which host has which layers."""
    return ", ".join(
        f"{stage['host']} {stage['layers'][0]}-{stage['layers'][1]}" for stage in stages
    )


if __name__ == "__main__":
    sys.exit(main())
