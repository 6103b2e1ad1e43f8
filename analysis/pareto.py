"""``python -m analysis.pareto results/RUN``: tables, fronts and figures from raw records alone."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import backends
from analysis.figures import front_figure
from analysis.measures import marks
from analysis.measures.attribution import attribution
from analysis.measures.clocks import comparisons
from analysis.measures.replicates import replicates
from analysis.run import RunError, load, processes
from analysis.tables import backend_costs, front
from analysis.tables.columns import FRONT
from analysis.tables.load_curve import load_curve
from analysis.tables.points import points
from analysis.tables.trace_segments import segments
from paretopipe_worker.plan.attempts import MEASURED
from paretopipe_worker.plan.plan import PlanError
from paretopipe_worker.records.files import RecordError

_MARKS = ("link_certified", "link_certificate")
_SHOWN = {
    "split": "split",
    "latency_median_ms": "latency ms",
    "throughput_images_s": "images/s",
    "payload_bytes": "payload bytes",
    "output": "output",
}


def main(arguments: list[str] | None = None) -> int:
    """Recompute a run's results and print its fronts; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.pareto",
        description="Recompute points.csv, front.csv and figures/ of a run from its raw records, "
        "and print the Pareto fronts.",
    )
    parser.add_argument("run", type=Path, help="the run's directory, results/RUN")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    parser.add_argument(
        "--uncertified",
        action="store_true",
        help="let points on the front whose link was measured to be other than asked for",
    )
    options = parser.parse_args(arguments)
    try:
        document = analyse(options.run, uncertified=options.uncertified)
    except (RunError, PlanError, RecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for warning in document["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    print(json.dumps(document, indent=1) if options.json else text(document))
    return 0


def analyse(path: Path, *, uncertified: bool = False) -> dict[str, Any]:
    """Write the tables and ``figures/`` of a run, and say what is in them.

    Where a link followed a trace also ``segments.csv``.

    Parameters
    ----------
    path
        The run's directory.
    uncertified
        Whether points whose link was not as asked for may be on a front.

    Returns
    -------
    A document of plain values: ``run``, ``points`` (how many of each status), ``failures`` (the
    points without figures, why, and how often they were tried), ``marked`` (those whose link was
    not as asked for, and why), ``late`` (those during which a relay was late, and by how much),
    ``disturbed`` (those measured on a disturbed host), ``unclocked`` (those without a forward
    latency, and why), ``processes`` (see :func:`analysis.run.processes`), ``uncertified``,
    ``front`` (the rows of ``front.csv``), ``load`` (those of ``load.csv``, which is written where
    load was offered), ``backends`` (those of ``backends.csv``, where there are several),
    ``unattributed`` (the points whose parts do not add up), ``rateless`` (those without a
    throughput, and why), ``unsteady`` (those of which a phase began before items were steady),
    ``files``, ``warnings``.

    Raises
    ------
    RunError, PlanError, RecordError
        When there is no such run or it is damaged.
    """
    run = load(path)
    measured = replicates(run)
    table = points(run, uncertified=uncertified, measured=measured)
    best = front.fronts(table)[list(FRONT)]
    curve = load_curve(run, table, measured)
    parts = attribution(run.items, run.plan, measured, comparisons(run))
    tables = {"points.csv": table, "front.csv": best, "attribution.csv": parts}
    tables |= {"load.csv": curve} if len(curve) else {}
    if any(link.timetable for link in run.plan.experiment.links):
        tables["segments.csv"] = segments(run)
    for name, content in tables.items():
        content.to_csv(path / name, index=False, float_format="%.9g", lineterminator="\n")
    drawn = front_figure.draw(table, path / "figures", curve, parts)
    compared = backend_costs.compare(run, measured) if backend_costs.several(run) else None
    if compared is not None:
        drawn += backends.write(compared, path)
    failures = table[table["status"] != "ok"]
    marked = table[marks.uncertified(table)]
    late = table[marks.late(table)]
    shaken = table[marks.disturbed(table)]
    rateless = table[(table["status"] == "ok") & table[front_figure.THROUGHPUT].isna()]
    never = [
        table[f"{phase}_warmup_ended_by"].eq("never steady").fillna(False) for phase in MEASURED
    ]
    unsteady = table[np.logical_or.reduce(never)]
    unclocked = table[(table["status"] == "ok") & table["clock_note"].notna()]
    unattributed = table[table["attribution_ok"].eq(False).fillna(False)]
    counts = table["status"].value_counts()
    return {
        "run": run.plan.run,
        "points": {name: int(counts.get(name, 0)) for name in ("ok", "failed", "missing")},
        "failures": _rows(failures[["point", *front.GROUP, "split", "status", "reason", "tries"]]),
        "marked": _rows(marked[["point", *front.GROUP, "split", *_MARKS]]),
        "late": _rows(late[["point", *front.GROUP, "split", "relay_late_p99_ms"]]),
        "disturbed": _rows(shaken[["point", *front.GROUP, "split", "disturbances", "legs_again"]]),
        "unclocked": _rows(unclocked[["point", *front.GROUP, "split", "clock_note"]]),
        "unattributed": _rows(unattributed[["point", *front.GROUP, "split", "attributed_share"]]),
        "rateless": _rows(rateless[["point", *front.GROUP, "split", "throughput_note"]]),
        "unsteady": _rows(unsteady[["point", *front.GROUP, "split"]]),
        "processes": processes(run),
        "uncertified": uncertified,
        "front": _rows(best),
        "load": _rows(curve),
        "backends": [] if compared is None else _rows(compared),
        "files": [str(file) for file in (*(path / name for name in tables), *drawn)],
        "warnings": list(run.warnings),
    }


def text(document: dict[str, Any]) -> str:
    """The result for people: each front as a table, what failed, where the files are."""
    parts = []
    best = pd.DataFrame(document["front"])
    if best.empty:
        why = "all points are marked"
        if len(document["rateless"]) == document["points"]["ok"]:
            why = "no point has a throughput"
        if not document["points"]["ok"]:
            why = "no point was measured"
        parts.append(f"{why}: there is no front")
    else:
        for group, rows in best.groupby(list(front.GROUP), sort=False):
            parts.append(f"{_title(dict(zip(front.GROUP, group, strict=True)))}\n{_table(rows)}")
    counts = document["points"]
    total = sum(counts.values())
    said = f"{counts['ok']} of {total} points measured"
    said += "".join(f", {counts[name]} {name}" for name in ("failed", "missing") if counts[name])
    parts.append("\n".join([said, *_reasons(document["failures"])]))
    if document["rateless"]:
        parts.append("\n".join(_rateless(document["rateless"])))
    if document["unsteady"]:
        parts.append(_unsteady(document["unsteady"]))
    if document["marked"]:
        parts.append("\n".join(_marks(document["marked"], document["uncertified"])))
    if document["late"]:
        parts.append("\n".join(_late(document["late"])))
    if document["disturbed"]:
        parts.append("\n".join(_disturbed(document["disturbed"])))
    if document["unclocked"]:
        parts.append("\n".join(_unclocked(document["unclocked"])))
    if document["unattributed"]:
        parts.append("\n".join(_unattributed(document["unattributed"])))
    if document["backends"]:
        parts.append(backends.text(pd.DataFrame(document["backends"])))
    parts.append(_processes(document["processes"]))
    parts.append("\n".join(["written:", *(f"  {file}" for file in document["files"])]))
    return "\n\n".join(parts)


def _title(group: dict[str, Any]) -> str:
    """What a front is of."""
    return (
        f"{group['model']} over link {group['link']}: {group['placement'].replace('>', ' > ')}, "
        f"{group['backend']}, batch {group['batch']}, window {group['window']}, {group['dtype']}"
    )


def _table(rows: pd.DataFrame) -> str:
    """The points of one front, lowest latency first."""
    shown = rows[list(_SHOWN)].rename(columns=_SHOWN)
    return shown.to_string(index=False, float_format=lambda value: f"{value:.2f}")


def _reasons(failures: list[dict[str, Any]]) -> list[str]:
    """Why points have no figures: each reason once, with those it holds for, and their tries."""
    splits: dict[str, list[str]] = {}
    for row in failures:
        where = f"{row['split']} ({row['model']}, {row['link']}, {row['backend']}"
        where += f"; {_count(row['tries'], 'try', 'tries')})" if row["tries"] else ")"
        splits.setdefault(row["reason"], []).append(where)
    return [
        f"  {reason}: {', '.join(where[:3])}" + (f" and {len(where) - 3} more" * (len(where) > 3))
        for reason, where in splits.items()
    ]


def _marks(rows: list[dict[str, Any]], uncertified: bool) -> list[str]:
    """Which points' links were not as asked for, by link, and what follows."""
    where = "on the front all the same" if uncertified else "left off the front; see --uncertified"
    reasons: dict[str, int] = {}
    for row in rows:
        text = f"{row['link']}: {row['link_certificate']}"
        reasons[text] = reasons.get(text, 0) + 1
    said = f"{len(rows)} points have a link that was not as asked for ({where}):"
    again = "  -e retry_uncertified=true measures them again"
    return [said, *(f"  {count} over {text}" for text, count in reasons.items()), again]


def _rateless(rows: list[dict[str, Any]]) -> list[str]:
    """Which points have a latency and no throughput, with one of the reasons for each link."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        reasons.setdefault(row["link"], []).append(row["throughput_note"])
    said = f"{_count(len(rows), 'point')} without a throughput (throughput_note):"
    return [said, *(f"  {len(by)} over {link}: {by[0]}" for link, by in reasons.items())]


def _unsteady(rows: list[dict[str, Any]]) -> str:
    """How many points were measured before their items were steady, by link."""
    links = pd.Series([row["link"] for row in rows]).value_counts(sort=False)
    where = ", ".join(f"{count} over {link}" for link, count in links.items())
    return (
        f"{_count(len(rows), 'point')} of which a phase began although its items never became "
        f"steady (…_warmup_ended_by; see phases.warmup_items): {where}"
    )


def _late(rows: list[dict[str, Any]]) -> list[str]:
    """During how many points of each link a relay was late, and by how much at most."""
    worst: dict[str, list[float]] = {}
    for row in rows:
        worst.setdefault(row["link"], []).append(row["relay_late_p99_ms"])
    said = f"{len(rows)} points were measured while the relay was late (link_late):"
    return [
        said,
        *(f"  {len(by)} over {link}: by {max(by):.1f} ms at most" for link, by in worst.items()),
    ]


def _disturbed(rows: list[dict[str, Any]]) -> list[str]:
    """Which points were measured on a disturbed host, by link, and by what."""
    shown = []
    for row in rows[:5]:
        first, *others = row["disturbances"].split("; ")
        more = f", and {len(others)} more" if others else ""
        shown.append(f"  {row['split']} over {row['link']}: {first}{more}")
    return [
        f"{_count(len(rows), 'point')} measured on a disturbed host (disturbed), after "
        f"{_count(int(sum(row['legs_again'] for row in rows)), 'leg')} measured again:",
        *shown,
        *([f"  and {len(rows) - 5} more, see disturbances in points.csv"] if rows[5:] else []),
    ]


def _unclocked(rows: list[dict[str, Any]]) -> list[str]:
    """How many points have no forward latency, with one of the reasons for each link."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        reasons.setdefault(row["link"], []).append(row["clock_note"])
    said = f"{_count(len(rows), 'point')} without a forward latency (clock_note):"
    return [said, *(f"  {len(by)} over {link}: {by[0]}" for link, by in reasons.items())]


def _unattributed(rows: list[dict[str, Any]]) -> list[str]:
    """How many points' parts do not add up to their latency, by link and backend."""
    where: dict[str, list[str]] = {}
    for row in rows:
        where.setdefault(f"{row['link']}, {row['backend']}", []).append(row["split"])
    said = f"{_count(len(rows), 'point')} whose time is not all attributed (attribution_ok):"
    return [said, *(f"  {len(by)} over {at}: {', '.join(by[:3])}" for at, by in where.items())]


def _processes(told: dict[str, int]) -> str:
    """How many stage processes were started, as the records prove."""
    said = f"{_count(told['started'], 'stage process', 'stage processes')} started for "
    said += f"{_count(told['attempts'], 'session')}, in which {told['points']} points were walked"
    if told["cut_short"]:
        said += f"; {told['cut_short']} of the processes ended without a last line"
    return said


def _count(number: int, one: str, several: str | None = None) -> str:
    """A number of things in words."""
    return f"{number} {one if number == 1 else several or one + 's'}"


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain values, null where there is none."""
    rows: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=9))
    return rows


if __name__ == "__main__":
    sys.exit(main())
