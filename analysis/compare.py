"""``python -m analysis.compare RUN_A RUN_B``: whether two runs of one experiment agree.

For each point and objective the replicates of both runs are compared as logarithms, so that a
difference is a ratio: Welch's t interval ("The generalization of 'Student's' problem when several
different population variances are involved", Biometrika 34, 1947), since runs need not vary alike.
Over all points and both objectives a difference is told only where it survives Holm's correction
("A simple sequentially rejective multiple test procedure", Scand. J. Statistics 6, 1979).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from analysis.columns import OBJECTIVES
from analysis.front import GROUP
from analysis.load import CONTROLLER, Run, RunError, load
from analysis.points import CONFIDENCE, planned
from analysis.replicates import replicates
from paretopipe_worker.plan import PlanError
from paretopipe_worker.records import RecordError

AIM_PERCENT = 5.0
"""Half-width of an interval that replicates should reach."""

_KEY = [*GROUP, "split"]


class CompareError(ValueError):
    """Two runs cannot be compared: what differs between them, or what they lack."""


def main(arguments: list[str] | None = None) -> int:
    """Print how two runs differ; return 0 whether they do or not, and 2 where they cannot."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.compare",
        description="Compare two runs point by point, over their replicates.",
    )
    parser.add_argument("runs", type=Path, nargs=2, metavar="RUN", help="a run, results/RUN")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    options = parser.parse_args(arguments)
    try:
        document = compare(*(load(path) for path in options.runs))
    except (RunError, PlanError, RecordError, CompareError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(document, indent=1) if options.json else text(document))
    return 0


def compare(first: Run, second: Run) -> dict[str, Any]:
    """Compare two runs at every point both measured.

    Returns
    -------
    A document of plain values: ``runs``, their names; ``confidence``; ``rows``, one per point and
    objective with the means of both runs (geometric, over replicates), the ``ratio`` of the second
    to the first with its interval ``low``, ``high``, ``half_width_percent``, ``p`` and, corrected,
    ``p_holm``, and whether they ``differ``; ``differing``, those rows that do;
    ``median_half_width_percent`` and ``aim_percent``; ``only_in``, by run how many points the other
    has not measured.

    Raises
    ------
    CompareError
        When the runs measured different things, share no point, or have too few replicates.
    """
    _same_things(first, second)
    sides = [_measured(run) for run in (first, second)]
    both = [key for key in sides[0] if key in sides[1]]
    if not both:
        raise CompareError(f"{first.path} and {second.path}: no point was measured in both")
    for run, side in zip((first, second), sides, strict=True):
        _replicated(run, side, both)
    rows = [
        dict(zip(_KEY, key, strict=True)) | _difference(objective, [side[key] for side in sides])
        for key in both
        for objective in OBJECTIVES
    ]
    for row, corrected in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = float(corrected)
        row["differ"] = bool(corrected < 1 - CONFIDENCE)
    return {
        "runs": [first.plan.run, second.plan.run],
        "confidence": CONFIDENCE,
        "rows": rows,
        "differing": [row for row in rows if row["differ"]],
        "median_half_width_percent": float(np.median([row["half_width_percent"] for row in rows])),
        "aim_percent": AIM_PERCENT,
        "only_in": [len(side) - len(both) for side in sides],
    }


def holm(values: Sequence[float]) -> NDArray[np.float64]:
    """Correct p-values for being many: the family-wise error stays what it is for one.

    The k-th smallest of n is multiplied by n - k + 1, and none becomes smaller than one before it.

    >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1.0, stepped)
    return corrected


def welch(first: ArrayLike, second: ArrayLike) -> tuple[float, float, float]:
    """Difference of two means, half of its interval, and the p-value of their being equal.

    Parameters
    ----------
    first, second
        At least two values each.
    """
    a, b = (np.asarray(values, dtype=np.float64) for values in (first, second))
    difference = float(b.mean() - a.mean())
    if np.ptp(a) == 0 and np.ptp(b) == 0:
        # Values that do not vary leave nothing to chance.
        return difference, 0.0, float(difference == 0)
    found = stats.ttest_ind(b, a, equal_var=False)
    low, high = found.confidence_interval(CONFIDENCE)
    return difference, float(high - low) / 2, float(found.pvalue)


def _difference(objective: str, sides: Sequence[pd.DataFrame]) -> dict[str, Any]:
    """One objective of one point, from the replicates of both runs."""
    logs = [np.log(side[objective].to_numpy(dtype=np.float64)) for side in sides]
    change, half, p = welch(*logs)
    return {
        "objective": objective,
        "means": [float(np.exp(values.mean())) for values in logs],
        "replicates": [len(values) for values in logs],
        "ratio": float(np.exp(change)),
        "low": float(np.exp(change - half)),
        "high": float(np.exp(change + half)),
        "half_width_percent": float(100 * np.expm1(half)),
        "p": p,
    }


_Key: TypeAlias = tuple[Any, ...]


def _measured(run: Run) -> dict[_Key, pd.DataFrame]:
    """The objectives of every replicate that was measured, by what the point is, in order."""
    table = replicates(run)
    table = table[table["status"] == "ok"].dropna(subset=list(OBJECTIVES))
    table = planned(run.plan)[["point", *_KEY]].merge(table[["point", *OBJECTIVES]], on="point")
    return {
        tuple(part[_KEY].to_dict("records")[0].values()): part[list(OBJECTIVES)]
        for _, part in table.groupby("point", sort=False)
    }


def _replicated(run: Run, side: dict[_Key, pd.DataFrame], both: Sequence[_Key]) -> None:
    """Refuse points of fewer than two replicates: they have no interval."""
    few = [key for key in both if len(side[key]) < 2]
    if few:
        names = dict(zip(_KEY, few[0], strict=True))
        raise CompareError(
            f"{run.path}: {len(few)} of {len(both)} points that both runs measured have fewer "
            f"than 2 replicates, as '{names['split']}' over link '{names['link']}'; at least 2 "
            "are needed: see replicates in the experiment"
        )


def _same_things(first: Run, second: Run) -> None:
    """Refuse runs whose figures differ for other reasons than chance, saying which.

    Raises
    ------
    CompareError
        One line for each thing that differs.
    """
    sides = [dict(_conditions(run)) for run in (first, second)]
    faults = [
        f"{name}: {sides[0][name]} in {first.plan.run}, {sides[1][name]} in {second.plan.run}"
        for name in sides[0]
        if name in sides[1] and sides[0][name] != sides[1][name]
    ]
    if faults:
        what = f"{first.path} and {second.path} did not measure the same"
        raise CompareError("\n  ".join([f"{what}; these must be equal:", *faults]))


def _conditions(run: Run) -> Iterator[tuple[str, str]]:
    """Everything that must be equal in two runs, by name, as text."""
    plan = run.plan
    for table in plan.tables:
        yield f"weights of {table.model}", table.weights_sha256[:12]
    for host in plan.hosts:
        yield f"device_emulated of {host.name}", f"{host.device_emulated:g}"
    for link in plan.experiment.links:
        yield f"link {link.name}", json.dumps(asdict(link))
    yield "tcp", json.dumps(asdict(plan.experiment.tcp))
    stages = run.sessions[run.sessions["rank"] != CONTROLLER]
    for name, files in stages.groupby("host"):
        for fact in ("allocator", "threads"):
            told = {json.dumps(facts.get(fact), sort_keys=True) for facts in files["facts"]}
            yield f"{fact} of {name}", " and ".join(sorted(told))
    for name, files in stages.groupby("link"):
        yield f"engine of link {name}", " and ".join(sorted(set(files["link_engine"])))


def text(document: dict[str, Any]) -> str:
    """The result for people."""
    first, second = document["runs"]
    rows = document["rows"]
    points = len(rows) // len(OBJECTIVES)
    parts = [f"{second} against {first}: {points} points measured in both, by replicates"]
    alone = [
        f"{count} more in {run}"
        for run, count in zip(document["runs"], document["only_in"], strict=True)
        if count
    ]
    if alone:
        parts[0] += f" ({', '.join(alone)})"
    if document["differing"]:
        parts.append(
            f"{len(document['differing'])} of {len(rows)} differences are not chance (Holm, "
            f"{1 - document['confidence']:.0%} for all together):\n" + _table(document["differing"])
        )
    else:
        parts.append(
            f"no difference: none of {len(rows)} excludes equality after Holm's correction "
            f"({1 - document['confidence']:.0%} for all together)"
        )
    width, aim = document["median_half_width_percent"], document["aim_percent"]
    said = "reached" if width <= aim else "missed: more replicates make it narrower"
    parts.append(
        f"median half-width of the {document['confidence']:.0%} intervals: {width:.2g} % "
        f"(aim: {aim:g} %, {said})"
    )
    return "\n\n".join(parts)


def _table(rows: list[dict[str, Any]]) -> str:
    """Differences, one a line."""
    frame = pd.DataFrame(rows)
    shown = frame[["model", "link", "backend", "split", "objective"]].copy()
    shown["ratio"] = frame["ratio"].map("{:.3f}".format)
    shown["interval"] = [
        f"{low:.3f} to {high:.3f}" for low, high in zip(frame["low"], frame["high"], strict=True)
    ]
    shown["p (Holm)"] = frame["p_holm"].map("{:.2g}".format)
    return shown.to_string(index=False)


if __name__ == "__main__":
    sys.exit(main())
