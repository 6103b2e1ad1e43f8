"""Whether a run agrees with an earlier one of the same experiment, in words for a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from analysis.column import OBJECTIVES
from analysis.compare import CompareError, TooFew, compare
from analysis.measures.replicates import replicates
from analysis.run import Run
from analysis.tables.comparison import KEY, LEAST
from analysis.tables.points import points
from analysis.tables.stages import stages

LATENCY, THROUGHPUT = OBJECTIVES

_CLOCK = 0.02
"""Share by which a host's clock must differ to be named as a cause."""

_TOLD = ("governor", "throttled")


def verdict(first: Run, second: Run) -> list[str]:
    """Compare two runs, the earlier one first.

    Returns
    -------
    The first line says how many points agree, each further one which does not, and what was other
    on its hosts. Where the runs cannot be compared, the lines say why.
    """
    try:
        document = compare(first, second)
    except TooFew:
        return list(_once(first, second))
    except CompareError as error:
        return str(error).splitlines()
    tested = {_key(row) for row in document["rows"]}
    differing: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in document["differing"]:
        differing.setdefault(_key(row), []).append(row)
    agree = len(tested) - len(differing)
    said = f"{agree} of {len(tested)} points agree"
    if missing := sum(document["only_in"]):
        said += f"; {missing} were measured in one of the runs only"
    tables = [_stages(run) for run in (first, second)]
    return [said, *(_told(rows, tables) for rows in differing.values())]


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    """What identifies a row's point in any run."""
    return tuple(row[name] for name in KEY)


def _stages(run: Run) -> pd.DataFrame:
    """A run's ranks, with what identifies their points in any run."""
    measured = replicates(run)
    known = points(run, measured=measured)[["point", *KEY]]
    table = stages(run, measured)[["point", "rank", "host", "compute_ms", "cpu_mhz_min", *_TOLD]]
    return known.merge(table, on="point").set_index([*KEY, "rank"]).sort_index()


def _told(rows: list[dict[str, Any]], tables: list[pd.DataFrame]) -> str:
    """One point that differs, in what, and what was other on its hosts."""
    changes = []
    for row in rows:
        percent = 100 * (row["ratio"] - 1)
        if row["objective"] == LATENCY:
            changes.append(f"{abs(percent):.2g} % {'slower' if percent > 0 else 'faster'}")
        else:
            said = "more" if percent > 0 else "less"
            changes.append(f"{abs(percent):.2g} % {said} throughput")
    doubt = "" if all(row["sound"] for row in rows) else " (some of its replicates are marked)"
    causes = "; ".join(_causes(_key(rows[0]), tables))
    where = f"{rows[0]['split']} over {rows[0]['link']}"
    return f"{where}: {', '.join(changes)}{doubt}" + (f"; {causes}" if causes else "")


def _causes(key: tuple[Any, ...], tables: list[pd.DataFrame]) -> Iterator[str]:
    """What was other on the hosts of a point: the stage's time, its clock, its governor."""
    before, after = (table.loc[key] for table in tables)
    for rank in before.index.intersection(after.index):
        old, new = before.loc[rank], after.loc[rank]
        found = []
        # Where either is unknown, the ratio is no number.
        ghz, then_ghz = float(old["cpu_mhz_min"]) / 1e3, float(new["cpu_mhz_min"]) / 1e3
        if abs(then_ghz / ghz - 1) > _CLOCK:
            found.append(f"its clock was {ghz:.1f} GHz, then {then_ghz:.1f}")
        told = [name for name in _TOLD if pd.notna(old[name]) and pd.notna(new[name])]
        found += [
            f"{name} was {old[name]}, then {new[name]}" for name in told if old[name] != new[name]
        ]
        times = f"{old['compute_ms']:.3g} ms, then {new['compute_ms']:.3g}"
        yield f"its stage on {new['host']} took {times}" + "".join(f" ({each})" for each in found)


def _once(first: Run, second: Run) -> Iterator[str]:
    """How two runs without replicates compare: their ratios, and that these prove nothing."""
    old, new = (points(run) for run in (first, second))
    both = old.merge(new, on=KEY, suffixes=("", "_new"))
    both = both[(both["status"] == "ok") & (both["status_new"] == "ok")]
    ratios = {name: (both[f"{name}_new"] / both[name]).dropna() for name in OBJECTIVES}
    said = [
        f"{name} {np.min(ratio):.3g} to {np.max(ratio):.3g} times, {np.median(ratio):.3g} in the "
        "median"
        for name, ratio in zip(("latency", "throughput"), ratios.values(), strict=True)
        if len(ratio)
    ]
    yield (
        f"{len(both)} points were measured in both runs, too seldom to tell whether they agree: "
        f"that needs {LEAST} or more replicates in each, see replicates in the experiment. The "
        f"second run has, of the first one's, {'; '.join(said)}"
    )
