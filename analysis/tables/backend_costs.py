"""``python -m analysis.tables.backend_costs results/RUN``: what the choice of backend costs, cut by cut.

Backends are compared pair by pair: the same model, split, placement, link, batch, window and dtype,
in the same replicate, so that what drifts between replicates is in both.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.figures.backend_figure import APART, doubts, draw
from analysis.measures.attribution import CROSSING, TOTALS
from analysis.measures.marks import disturbed, late
from analysis.measures.replicates import replicates
from analysis.run import Run, RunError, load
from analysis.tables.columns import OBJECTIVES
from analysis.tables.cost_columns import BACKENDS
from analysis.tables.points import half_widths, planned
from paretopipe_worker.plan.plan import PlanError
from paretopipe_worker.records import RecordError

LATENCY, THROUGHPUT = OBJECTIVES
QUANTITIES = (LATENCY, THROUGHPUT, APART, *TOTALS)

_CUT = ["model", "split", "placement", "link", "batch", "window", "dtype"]
_PLANNED = [*_CUT, "position", "payload_bytes", "return_bytes"]
_PAIR = ["backend", *_PLANNED]
_MARKS = {"late": late, "disturbed": disturbed}
"""Marks of replicates that are compared all the same; of certificates there is a column."""


def main(arguments: list[str] | None = None) -> int:
    """Compare a run's backends and print what each costs; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.tables.backend_costs",
        description="Write backends.csv and figures/overhead-MODEL of a run that has several "
        "backends, and print by how much they differ.",
    )
    parser.add_argument("run", type=Path, help="the run's directory, results/RUN")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    options = parser.parse_args(arguments)
    try:
        run = load(options.run)
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


def several(run: Run) -> bool:
    """Whether a run has backends to compare."""
    return len(run.plan.experiment.backends) > 1


def write(table: pd.DataFrame, path: Path) -> list[Path]:
    """Write ``backends.csv`` and the figures of a comparison into a run's directory; the files."""
    file = path / "backends.csv"
    table.to_csv(file, index=False, float_format="%.9g", lineterminator="\n")
    return [file, *draw(table, path / "figures")]


def compare(run: Run, measured: pd.DataFrame) -> pd.DataFrame:
    """Compare every other backend with the reference: `tcp`, or the first where it is missing.

    Parameters
    ----------
    run
        The run.
    measured
        One row per point and replicate, see :func:`analysis.measures.replicates.replicates`.

    Returns
    -------
    The columns :data:`analysis.tables.cost_columns.BACKENDS`, a row per cut, other backend and
    quantity, in the order of ``points.csv``.

    Raises
    ------
    RunError
        When the run has one backend only.
    """
    backends = run.plan.experiment.backends
    if not several(run):
        raise RunError(
            f"{run.path}: has one backend, {backends[0]}; a comparison needs at least two"
        )
    reference = "tcp" if "tcp" in backends else backends[0]
    known = planned(run.plan)[["point", "backend", *_PLANNED]]
    rows = measured[measured["status"] == "ok"].merge(known, on="point")
    rows[APART] = rows[CROSSING].sum(axis=1, skipna=False)
    rows = rows.assign(**{name: marked(rows) for name, marked in _MARKS.items()})
    keys = [*_PLANNED, "replicate"]
    figures = [*QUANTITIES, "link_certified", *_MARKS]
    base = rows.loc[rows["backend"] == reference, [*keys, *figures]]
    others = rows.loc[rows["backend"] != reference, [*keys, "backend", *figures]]
    pairs = others.merge(base, on=keys, suffixes=("", "_reference"))
    table = _differences(pairs).assign(reference=reference)
    order = known[["backend", *_PLANNED]].drop_duplicates().reset_index(names="order")
    ordered = table.merge(order, on=_PAIR).sort_values("order", kind="stable")
    return ordered[[column.name for column in BACKENDS]].reset_index(drop=True)


def _differences(pairs: pd.DataFrame) -> pd.DataFrame:
    """Rows of every cut and backend, a quantity after the other."""
    keys = [pairs[name] for name in _PAIR]
    value = pairs[list(QUANTITIES)].astype("float64")
    other = pairs[[f"{name}_reference" for name in QUANTITIES]].astype("float64")
    other = other.set_axis(list(QUANTITIES), axis="columns")
    figures = {
        "value": value,
        "reference_value": other,
        "difference": value - other,
        "ratio": value / other.where(other != 0),
    }
    groups = {name: figure.groupby(keys, sort=False) for name, figure in figures.items()}
    wide = {name: group.mean(skipna=False) for name, group in groups.items()}
    half = half_widths(groups["difference"])
    wide["difference_low"] = wide["difference"] - half
    wide["difference_high"] = wide["difference"] + half
    table = pd.concat({name: part.stack() for name, part in wide.items()}, axis="columns")
    table = table.rename_axis(index=[*_PAIR, "quantity"])
    certified = pairs[["link_certified", "link_certified_reference"]].astype("float64")
    marked = {
        f"{name}_pairs": (pairs[name] | pairs[f"{name}_reference"]).groupby(keys, sort=False).sum()
        for name in _MARKS
    }
    each = pd.DataFrame(
        {
            "pairs": groups["value"].size(),
            **marked,
            # Null where it is in a replicate.
            "link_certified": certified.min(axis="columns", skipna=False)
            .groupby(keys, sort=False)
            .min(skipna=False)
            .map({1.0: True, 0.0: False})
            .astype("boolean"),
        }
    )
    table = table.join(each, on=_PAIR)
    table["comes_from"] = None
    of_latency = table.index.get_level_values("quantity") == LATENCY
    table.loc[of_latency, "comes_from"] = _largest(wide["difference"]).array
    return table.reset_index()


def _largest(differences: pd.DataFrame) -> pd.Series:
    """The kind that differs most in the direction in which the latency does; null where none."""
    sign = np.where(differences[LATENCY] > 0, 1.0, -1.0)
    same = differences[list(TOTALS)].mul(sign, axis="index").fillna(0.0).to_numpy()
    kinds = np.array([name.removesuffix("_ms") for name in TOTALS], dtype=np.object_)
    return pd.Series(np.where(same.max(axis=1) > 0, kinds[same.argmax(axis=1)], None))


def text(table: pd.DataFrame) -> str:
    """The comparison for people: a table for each model, link and backend, and what it says."""
    parts = []
    group = ["model", "placement", "link", "backend", "reference", "batch", "window", "dtype"]
    for names, rows in table.groupby(group, sort=False):
        known = dict(zip(group, map(str, names), strict=True))
        title = (
            f"{known['model']} over link {known['link']}: {known['backend']} minus "
            f"{known['reference']}, {known['placement'].replace('>', ' > ')}, batch "
            f"{known['batch']}, window {known['window']}, {known['dtype']}"
        )
        parts.append("\n".join([title, _shown(rows), _said(rows)]))
    return "\n\n".join(parts or ["no cut was measured with two backends: nothing is compared"])


def _shown(rows: pd.DataFrame) -> str:
    """One line per cut: differences with half their interval, and where the latency's is from."""
    wide = rows.pivot(index=["position", "split", "payload_bytes"], columns="quantity")
    latency = rows.loc[rows["quantity"] == LATENCY].set_index(wide.index.names)
    half = (wide["difference_high"] - wide["difference"])[[LATENCY, THROUGHPUT]]
    difference = wide["difference"]
    shown = pd.DataFrame(
        {
            "latency ms": _with_half(difference[LATENCY], half[LATENCY]),
            "ratio": wide["ratio"][LATENCY].map("{:.3f}".format),
            "images/s": _with_half(difference[THROUGHPUT], half[THROUGHPUT]),
            **{name.replace("_", " "): difference[name].map(_signed) for name in TOTALS},
            "comes from": latency["comes_from"].fillna("-").replace("-", "nothing"),
        }
    )
    return shown.reset_index().drop(columns="position").to_string(index=False)


def _with_half(values: pd.Series, halves: pd.Series) -> list[str]:
    """Differences with half their interval, where there is one."""
    return [
        _signed(value) + ("" if pd.isna(half) else f" ± {half:.3f}")
        for value, half in zip(values, halves, strict=True)
    ]


def _signed(value: float) -> str:
    """A difference, or a dash where there is none."""
    return "-" if pd.isna(value) else f"{value:+.3f}"


def _said(rows: pd.DataFrame) -> str:
    """In words: how large the difference of the latency is, and which kind it comes from."""
    latency = rows[rows["quantity"] == LATENCY]
    median, apart = (
        rows.loc[rows["quantity"] == name, "difference"].median() for name in (LATENCY, APART)
    )
    counts = latency["comes_from"].value_counts()
    where = (
        f", which comes from {counts.index[0]} at {counts.iloc[0]} of {len(latency)} cuts"
        if len(counts)
        else ""
    )
    more = "more" if median > 0 else "less"
    backend, reference = latency[["backend", "reference"]].iloc[0]
    return (
        f"in the median over cuts {backend} takes {abs(median):.3f} ms {more} than "
        f"{reference}{where}; computing apart, the difference is {_signed(apart)} ms"
        + "".join(f"\n{doubt}" for doubt in doubts(latency))
    )


if __name__ == "__main__":
    sys.exit(main())
