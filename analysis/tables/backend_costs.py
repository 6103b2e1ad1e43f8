"""The table ``backends.csv``: what the choice of backend costs, cut by cut.

Backends are compared in pairs that have the same model, split, placement, link, batch, window and
dtype, and are of the same replicate, so that drift between replicates affects both.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.column import LEAST_REPLICATES, OBJECTIVES, Column
from analysis.measures.attribution import ALWAYS, CROSSING
from analysis.measures.marks import disturbed, late
from analysis.measures.reduction import half_widths
from analysis.run import Run, RunError
from analysis.tables import front
from analysis.tables.points import planned

LATENCY, THROUGHPUT = OBJECTIVES
APART = "crossing_ms"
QUANTITIES = (LATENCY, THROUGHPUT, APART, *ALWAYS)

COLUMNS = (
    Column("model", "", "As in points.csv, like the next fourteen."),
    Column("split", "", ""),
    Column("position", "", ""),
    Column("placement", "", ""),
    Column("link", "", ""),
    Column("batch", "images", ""),
    Column("window", "items", ""),
    Column("dtype", "", ""),
    Column("runtimes", "", ""),
    Column("wire", "", ""),
    Column("busy", "", ""),
    Column("sources", "", ""),
    Column("payload_bytes", "bytes", ""),
    Column("return_bytes", "bytes", ""),
    Column("backend", "", "The backend that is compared."),
    Column("reference", "", "The backend it is compared with."),
    Column(
        "quantity",
        "",
        "What is compared: a column of points.csv (latency, throughput, or the part of the latency "
        "that went into one kind), or `crossing_ms`, the sum of these kinds without compute. The "
        "latter is the cost of the backend, whatever the speed of the stages in the two sessions.",
    ),
    Column(
        "pairs",
        "",
        "Replicates in which both backends were measured. The row is computed from these.",
    ),
    Column(
        "late_pairs", "", "Pairs of which either was measured while a relay was late (`link_late`)."
    ),
    Column("disturbed_pairs", "", "Pairs of which either was measured on a disturbed host."),
    Column("value", "as the quantity", "Mean of the backend compared.", "a replicate lacks it"),
    Column("reference_value", "as the quantity", "Mean of the reference.", "a replicate lacks it"),
    Column(
        "difference",
        "as the quantity",
        "The backend minus the reference in the same replicate, mean of these differences.",
        "a replicate lacks either",
    ),
    Column(
        "difference_low",
        "as the quantity",
        "Low end of the 95 % t-interval of `difference` over replicates.",
        f"fewer than {LEAST_REPLICATES} pairs",
    ),
    Column(
        "difference_high",
        "as the quantity",
        "High end of that interval.",
        f"fewer than {LEAST_REPLICATES} pairs",
    ),
    Column(
        "ratio",
        "",
        "The backend over the reference in the same replicate, mean of these ratios.",
        "a replicate lacks either, or the reference is 0",
    ),
    Column(
        "comes_from",
        "",
        "For `latency_median_ms`: the kind with the largest difference in the direction in which "
        "the latency differs.",
        "another quantity, or no kind differs in that direction",
    ),
    Column(
        "link_certified",
        "",
        "Whether the link was what was asked for with both backends, see points.csv.",
        "nothing was asked of the link",
    ),
)

_CUT = ["split", *(name for name in front.GROUP if name != "backend")]
_PLANNED = [*_CUT, "position", "payload_bytes", "return_bytes"]
_PAIR = ["backend", *_PLANNED]
_MARKS = {"late": late, "disturbed": disturbed}
"""Marks of replicates that are compared all the same. For certificates there is a column."""


def several(run: Run) -> bool:
    """Whether a run has backends to compare."""
    return len(run.plan.experiment.backends) > 1


def compare(run: Run, measured: pd.DataFrame) -> pd.DataFrame:
    """Compare every other backend with the reference, which is `tcp` or else the first one.

    Parameters
    ----------
    run
        The run.
    measured
        One row per point and replicate, see :func:`analysis.measures.replicates.replicates`.

    Returns
    -------
    The columns :data:`COLUMNS`, one row per cut, backend other than the reference, and quantity, in
    the order of ``points.csv``.

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
    return ordered[[column.name for column in COLUMNS]].reset_index(drop=True)


def _differences(pairs: pd.DataFrame) -> pd.DataFrame:
    """The rows of every cut and backend, one per quantity."""
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
            # Null where a replicate has no certificate.
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
    """The kind that differs most in the latency's direction; null where none does."""
    sign = np.where(differences[LATENCY] > 0, 1.0, -1.0)
    same = differences[ALWAYS].mul(sign, axis="index").fillna(0.0).to_numpy()
    kinds = np.array([name.removesuffix("_ms") for name in ALWAYS], dtype=np.object_)
    return pd.Series(np.where(same.max(axis=1) > 0, kinds[same.argmax(axis=1)], None))
