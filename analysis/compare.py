"""``python -m analysis.compare RUN_A RUN_B``: whether two runs of one experiment agree.

For each point and objective the replicates of both runs are compared by their logarithms, so that a
difference is a ratio. The interval is Welch's, since the two runs may have different variances
("The generalization of 'Student's' problem when several different population variances are
involved", Biometrika 34, 1947). Over all points and both objectives a difference is reported only
if it survives Holm's correction ("A simple sequentially rejective multiple test procedure", Scand.
J. Statistics 6, 1979).

Chance is not the only reason for which runs differ. Replicates whose link was not what was asked
for did not measure the same thing: they are left out, as they are left off fronts, unless
``--uncertified`` asks for them. Replicates during which a relay was late or a host was disturbed
are compared, since on small machines they are the majority; but every row has their number, and a
difference that rests on any of them is reported apart from the others.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.column import OBJECTIVES
from analysis.disk import saying_why
from analysis.measures.marks import MARKS
from analysis.measures.reduction import CONFIDENCE
from analysis.measures.replicates import replicates
from analysis.run import Run, RunError, read
from analysis.tables.comparison import KEY, LEAST, lost_of, text
from analysis.tables.fronts_compared import fronts, welch
from analysis.tables.points import planned
from paretopipe_worker.plan.plan import PlanError
from paretopipe_worker.records.files import RecordError

AIM_PERCENT = 5.0
"""Half-width that the intervals should not exceed."""


class CompareError(ValueError):
    """Two runs cannot be compared: the message says what differs or is missing."""


class TooFew(CompareError):
    """Two runs measured the same, but too seldom to tell whether they agree."""


@saying_why
def main(arguments: list[str] | None = None) -> int:
    """Print how two runs differ; return 0, or 2 where they cannot be compared."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.compare",
        description="Compare two runs point by point, over their replicates.",
    )
    parser.add_argument("runs", type=Path, nargs=2, metavar="RUN", help="a run, results/RUN")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    parser.add_argument(
        "--uncertified",
        action="store_true",
        help="compare replicates, too, whose link was measured to be other than asked for",
    )
    options = parser.parse_args(arguments)
    try:
        runs = [read(path) for path in options.runs]
        document = compare(*runs, uncertified=options.uncertified)
    except (RunError, PlanError, RecordError, CompareError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(document, indent=1) if options.json else text(document))
    return 0


def compare(first: Run, second: Run, *, uncertified: bool = False) -> dict[str, Any]:
    """Compare two runs at every point that both measured.

    Parameters
    ----------
    first, second
        The runs.
    uncertified
        Whether replicates whose link was not as asked for count.

    Returns
    -------
    A document of plain values:

    - ``runs``: the names of both; ``confidence``; ``uncertified``;
    - ``rows``: one per point and objective. Each has the ``means`` of both runs (geometric, over
      replicates); the number of their ``replicates``; ``marks``, for each run a count of each of
      :data:`analysis.measures.marks.MARKS`; ``sound``, whether all these counts are 0; the
      ``ratio`` of the second run to the first with its interval ``low`` and ``high`` and its
      ``half_width_percent``; ``p``; ``p_holm``, the same after correction; and ``differ``;
    - ``differing``: the rows whose runs differ;
    - ``median_half_width_percent`` and ``aim_percent``;
    - ``fronts``: see :func:`analysis.tables.fronts_compared.fronts`;
    - ``left_out``: for each run how many ``replicates`` do not count, and by ``reasons`` what of
      their links was not as asked for;
    - ``too_few``: the points and objectives of which a run has fewer than two replicates that
      count;
    - ``only_in``: for each run how many of its points the other has not measured.

    Raises
    ------
    CompareError
        When the runs measured different things or share no point, or when no shared point has
        enough replicates.
    """
    _same_things(first, second)
    every = [_measured(run) for run in (first, second)]
    kept = [side if uncertified else side[~side["uncertified"]] for side in every]
    # A point all of whose replicates are left out was measured all the same.
    measured = [list(_keys(side)) for side in every]
    both = [key for key in measured[0] if key in set(measured[1])]
    if not both:
        raise CompareError(f"{first.path} and {second.path}: no point was measured in both")
    rows, too_few = _rows(kept, both)
    left_out = [_left_out(side, counted) for side, counted in zip(every, kept, strict=True)]
    if not rows:
        raise TooFew(_nothing(first, second, too_few, left_out))
    return {
        "runs": [first.plan.run, second.plan.run],
        "confidence": CONFIDENCE,
        "uncertified": uncertified,
        "rows": rows,
        "differing": [row for row in rows if row["differ"]],
        "median_half_width_percent": float(np.median([row["half_width_percent"] for row in rows])),
        "aim_percent": AIM_PERCENT,
        "fronts": fronts(kept),
        "left_out": left_out,
        "too_few": too_few,
        "only_in": [len(side) - len(both) for side in measured],
    }


def _rows(
    sides: Sequence[pd.DataFrame], keys: Sequence[tuple[Any, ...]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Compare the replicates of both runs at each point and objective.

    Returns
    -------
    The comparisons, and the points and objectives of which a run has too few replicates.
    """
    points = [dict(list(side.groupby(KEY, sort=False))) for side in sides]
    rows: list[dict[str, Any]] = []
    too_few: list[dict[str, Any]] = []
    for key, objective in itertools.product(keys, OBJECTIVES):
        parts = [side.get(key, _NONE).dropna(subset=objective) for side in points]
        row = dict(zip(KEY, key, strict=True)) | _counted(objective, parts)
        if min(row["replicates"]) < LEAST:
            too_few.append(row)
        else:
            rows.append(row | _difference(*(part[objective] for part in parts)))
    for row, corrected in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = float(corrected)
        row["differ"] = bool(corrected < 1 - CONFIDENCE)
    return rows, too_few


def holm(values: Sequence[float]) -> NDArray[np.float64]:
    """Correct many p-values, so that the family-wise error rate is that of a single test.

    The k-th smallest of n is multiplied by n - k + 1, and made no smaller than the one before it.

    >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1.0, stepped)
    return corrected


def _counted(objective: str, sides: Sequence[pd.DataFrame]) -> dict[str, Any]:
    """How many replicates each run has for one objective of one point, and their marks."""
    marks = [{name: int(side[name].sum()) for name in MARKS} for side in sides]
    return {
        "objective": objective,
        "replicates": [len(side) for side in sides],
        "marks": marks,
        "sound": not any(count for counts in marks for count in counts.values()),
    }


def _difference(*sides: pd.Series) -> dict[str, Any]:
    """Compare the replicates of both runs for one objective of one point."""
    logs = [np.log(side.to_numpy(dtype=np.float64)) for side in sides]
    change, half, p = welch(*logs)
    return {
        "means": [float(np.exp(values.mean())) for values in logs],
        "ratio": float(np.exp(change)),
        "low": float(np.exp(change - half)),
        "high": float(np.exp(change + half)),
        "half_width_percent": float(100 * np.expm1(half)),
        "p": p,
    }


def _keys(side: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    """What identifies each point of a run, in order."""
    return side[KEY].drop_duplicates().itertuples(index=False, name=None)


def _measured(run: Run) -> pd.DataFrame:
    """Every measured replicate in order, with what identifies its point, and its marks."""
    table = replicates(run)
    table = table[table["status"] == "ok"]
    marks = {name: marked(table) for name, marked in MARKS.items()}
    table = table[["point", "replicate", "link_certificate", *OBJECTIVES]].assign(**marks)
    return planned(run.plan)[["point", *KEY]].merge(table, on="point")


_NONE = pd.DataFrame(columns=[*OBJECTIVES, *MARKS])
"""No replicates at all."""


def _left_out(every: pd.DataFrame, counted: pd.DataFrame) -> dict[str, Any]:
    """How many replicates do not count, and why."""
    lost = every.drop(counted.index)
    reasons = lost["link"] + ": " + lost["link_certificate"].astype("str")
    return {"replicates": len(lost), "reasons": reasons.value_counts(sort=False).to_dict()}


def _nothing(
    first: Run,
    second: Run,
    too_few: Sequence[dict[str, Any]],
    left_out: Sequence[dict[str, Any]],
) -> str:
    """Why nothing can be compared, and what to do about it."""
    row = too_few[0]
    few = [run for run, count in zip((first, second), row["replicates"], strict=True) if count < 2]
    count = len(too_few) // len(OBJECTIVES)
    said = (
        f"{few[0].path}: {count} of {count} points that both runs measured have fewer than "
        f"{LEAST} replicates that count, as '{row['split']}' over link '{row['link']}'; at least "
        f"{LEAST} are needed: see replicates in the experiment"
    )
    return "\n".join([said, *lost_of([first.plan.run, second.plan.run], left_out)])


def _same_things(first: Run, second: Run) -> None:
    """Refuse runs whose figures differ for other reasons than chance, and name these.

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
    stages = run.stages
    for name, files in stages.groupby("host"):
        for fact in ("allocator", "threads"):
            told = {json.dumps(facts.get(fact), sort_keys=True) for facts in files["facts"]}
            yield f"{fact} of {name}", " and ".join(sorted(told))
    for name, files in stages.groupby("link"):
        yield f"engine of link {name}", " and ".join(sorted(set(files["link_engine"])))


if __name__ == "__main__":
    sys.exit(main())
