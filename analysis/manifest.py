"""``python -m analysis.manifest results/RUN``: what was run, where and with what.

The overhead of a session, its time outside measurement, is computed without comparing clocks. Each
stage process knows its lifetime on its own host's clock. The overhead is the longest lifetime of
the session's processes, less the time that the source spent measuring. The time by which processes
on different hosts started one after the other is not in it, since no clock here shows that time.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import turns
from analysis.disk import saying_why
from analysis.measures.certificate import COLUMNS, certificates, paths_of
from analysis.provenance import FACTS, VARIABLES, checkout, packages, read_manifest, told, written
from analysis.report import guided
from analysis.run import Run, RunError, of_stages, processes, read
from paretopipe_worker.plan import identity
from paretopipe_worker.plan.plan import PlanError
from paretopipe_worker.plan.plan import written as resolved
from paretopipe_worker.records.files import RecordError
from paretopipe_worker.records.lines import COUNTED_PHASES

MEASURING = ("clock", "probe", "warmup", *COUNTED_PHASES)
"""Kinds of time in which the link or a point is measured; all other time is overhead."""


@saying_why
def main(arguments: list[str] | None = None) -> int:
    """Write a run's manifest; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.manifest", description="Write manifest.json of a run."
    )
    parser.add_argument("run", type=Path, help="the run's directory, results/RUN")
    parser.add_argument(
        "--hosts",
        type=argparse.FileType(encoding="utf-8"),
        metavar="FILE",
        help="a JSON object with Ansible's `facts` and the `inventory`'s variables, both by host "
        "name; - for standard input",
    )
    options = parser.parse_args(arguments)
    try:
        # By a file: of hundreds of hosts this is more than an argument may hold.
        known = _known(options.hosts.read()) if options.hosts else {}
        file = options.run / "manifest.json"
        facts, inventory = (_with_earlier(file, key, known) for key in ("facts", "inventory"))
        document = manifest(read(options.run), facts, inventory)
    except (RunError, PlanError, RecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = json.dumps(_plain(document), indent=1, allow_nan=False)
    file.write_text(f"{text}\n", encoding="utf-8")
    print(file)
    return 0


def manifest(
    run: Run,
    facts: dict[str, Any] | None = None,
    inventory: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything needed to repeat a run, and where its time went.

    ``spec`` asks for the same as the experiment's file, and ``experiment`` has its links resolved.
    Each of ``hosts`` begins with what the plan knows of it. ``beside`` lists the attempts that ran
    at the same time as a session's, by the controller's clock; it is null where nobody knows.
    ``guided`` says how a guided sweep stands or ended (:func:`analysis.report.guided.standing`).

    Parameters
    ----------
    run
        The run.
    facts, inventory
        Ansible's facts and the inventory's variables by host. Only those that cannot be secret are
        kept (see :mod:`analysis.provenance`).
    """
    plan = run.plan
    verdicts, at_once = certificates(run), turns.beside(run.path)
    return {
        "run": plan.run,
        "experiment": resolved(plan.experiment),
        "spec": written(plan.experiment),
        "seed": plan.experiment.seed,
        "plan_sha256": identity.digest(plan),
        "weights_sha256": {table.model: table.weights_sha256 for table in plan.tables},
        "predicted_hours": plan.predicted_hours,
        "guided": guided.standing(run),
        "checkout": checkout(Path(__file__).resolve().parent.parent),
        "controller": {
            "python": platform.python_version(),
            "kernel": platform.release(),
            "libc": " ".join(platform.libc_ver()),
            "packages": packages(),
        },
        "hosts": [
            asdict(host)
            | {
                "inventory": told((inventory or {}).get(host.name), VARIABLES),
                "facts": told((facts or {}).get(host.name), FACTS),
            }
            | _environments(run, host.name)
            for host in plan.hosts
        ],
        "sessions": [
            _session(run, files, verdicts, at_once)
            for _, files in run.sessions.groupby(["session", "attempt"])
        ],
        "stage_processes": processes(run),
        "warnings": list(run.warnings),
    }


def overhead(files: pd.DataFrame) -> dict[str, Any] | None:
    """The overhead of one attempt at a session, as this module defines it.

    Parameters
    ----------
    files
        The rows of :attr:`analysis.run.Run.sessions` of one attempt.

    Returns
    -------
    ``lifetime_s``, ``measurement_s`` and ``overhead_s``, or null where a file has no end line.
    """
    stages = of_stages(files)
    source = stages[stages["rank"] == 0]
    if source.empty or (stages["status"] == "truncated").any():
        return None
    lifetime_s = float((stages["end_ns"] - stages["process_start_ns"]).max()) / 1e9
    shares = source["shares_ns"].iloc[0]
    measurement_s = sum(shares.get(kind, 0) for kind in MEASURING) / 1e9
    return {
        "lifetime_s": lifetime_s,
        "measurement_s": measurement_s,
        "overhead_s": lifetime_s - measurement_s,
    }


def _session(
    run: Run,
    files: pd.DataFrame,
    verdicts: pd.DataFrame,
    at_once: Mapping[turns.Attempt, list[str]],
) -> dict[str, Any]:
    """How one attempt at a session ended on each host, its link, and where its time went."""
    session, attempt = str(files["session"].iloc[0]), int(files["attempt"].iloc[0])
    walked = run.points[(run.points["session"] == session) & (run.points["attempt"] == attempt)]
    spent = overhead(files)
    if spent is not None:
        count = len(walked)
        spent["points"] = count
        spent["overhead_per_point_s"] = spent["overhead_s"] / count if count else None
    return {
        "session": session,
        "attempt": attempt,
        "hosts": {
            str(row["host"]): {
                "status": row["status"],
                "reason": row["reason"],
                "shares_s": _shares(row),
                "transport": row["transport"],
                "link_engine": row["link_engine"],
                "tcp": row["tcp"],
                "network": row["facts"].get("network"),
            }
            for row in files.to_dict("records")
        },
        "certificate": _certificate(run, session, attempt, verdicts),
        "overhead": spent,
        "beside": at_once.get((session, attempt)),
    }


def _certificate(
    run: Run, session: str, attempt: int, verdicts: pd.DataFrame
) -> dict[str, Any] | None:
    """What was asked of the link, and the verdict on the points between two measurements of it.

    Null where no stage left records.
    """
    found = verdicts[(verdicts["session"] == session) & (verdicts["attempt"] == attempt)]
    if found.empty:
        return None
    paths = {
        number: [asdict(way) for way in path]
        for number, path in paths_of(run.plan, session).items()
    }
    told = json.loads(found[["point", *COLUMNS]].to_json(orient="records", double_precision=9))
    stretches: list[dict[str, Any]] = []
    for row in told:
        point = row.pop("point")
        if not stretches or not row.items() <= stretches[-1].items():
            stretches.append({"points": []} | row)
        stretches[-1]["points"].append(point)
    return {"asked": paths.get(None, paths), "stretches": stretches}


def _shares(row: dict[Any, Any]) -> dict[str, float] | None:
    """Seconds of one process by kind; the remainder of its lifetime is ``other``."""
    if row["status"] == "truncated":
        return None
    shares = {kind: spent / 1e9 for kind, spent in row["shares_ns"].items()}
    lifetime_s = (row["end_ns"] - row["process_start_ns"]) / 1e9
    return shares | {"other": lifetime_s - sum(shares.values())}


def _environments(run: Run, host: str) -> dict[str, Any]:
    """The environments that stages on one host recorded, each with its sessions."""
    found: list[dict[str, Any]] = []
    for row in run.sessions[run.sessions["host"] == host].to_dict("records"):
        facts = {name: value for name, value in row["facts"].items() if name != "network"}
        environment = {"versions": row["versions"], "code_sha256": row["code_sha256"]}
        environment |= {"facts": facts}
        name = f"{row['session']}.{row['attempt']}"
        for known in found:
            if environment.items() <= known.items():
                known["sessions"].append(name)
                break
        else:
            found.append(environment | {"sessions": [name]})
    return {"environments": found}


def _with_earlier(file: Path, key: str, known: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """What is known of each host under a key, else what the manifest from before says of it.

    A run may be analysed again when its hosts are not there to be asked.
    """
    try:
        hosts = read_manifest(file.parent)["hosts"]
        earlier = {host["name"]: host[key] for host in hosts if host[key]}
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        earlier = {}  # there is none, or it is damaged: it is written anew
    now = {host: told for host, told in known.get(key, {}).items() if told}
    return {**earlier, **now} or None


def _plain(document: dict[str, Any]) -> dict[str, Any]:
    """A document as JSON has it: null for what a table has no value of."""
    plain: dict[str, Any] = json.loads(json.dumps(document), parse_constant=lambda _: None)
    return plain


def _known(text: str) -> dict[str, dict[str, Any]]:
    """What is known of the hosts beside the records.

    Raises
    ------
    RunError
        When it is not what the command takes.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise RunError(f"--hosts: is not JSON: {error}") from error
    if not isinstance(value, dict) or not all(isinstance(part, dict) for part in value.values()):
        raise RunError("--hosts: must be a JSON object of objects: facts and inventory, by host")
    return value


if __name__ == "__main__":
    sys.exit(main())
