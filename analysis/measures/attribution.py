"""Where the time of every item went, by kind and rank.

On its way around the ring an item waits until a stage takes it (`queue`), is unpacked where it was
packed (`unpack`), copied to a device where there is one (`copy_in`), computed (`compute`), copied
back (`copy_out`), packed (`pack`), made ready for the wire (`serialise`), waits until the wire is
free (`send_queue`), and crosses to the next rank (`wire`). Packing and copying are durations that
the stage recorded. Each other part is the difference of two time stamps, less these.

All but the last are differences of one host's times. The two ends of a wire have clocks of their
own, so that its time needs their offset, and has the bound of that offset's error.
Around the whole ring the offsets cancel, and the sum of all wires needs none.

No part is computed as a remainder. A point is marked (``attribution_ok``) where a time stamp is
missing, or is before the one it follows.

A point's parts are means over the middle half of its items by latency. Such means ignore
stragglers as the median does, and unlike medians they add up.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.measures.attribution_columns import ATTRIBUTION, TOLERANCE
from analysis.measures.clocks import ahead
from analysis.measures.legs import TRY as _TRY
from analysis.measures.portions import portions
from analysis.measures.ranks import ranks_of
from paretopipe_worker.plan.plan import Plan

STEPS = ("unpack", "copy_in", "copy_out", "pack")
"""Kinds that not every item has; their times are null without them."""

KINDS = (
    *("queue", "unpack", "copy_in", "compute", "copy_out"),
    *("pack", "serialise", "send_queue", "wire"),
)
"""Kinds of time at one rank and on the wire after it, in the order an item passes them."""

TOTALS = {
    "compute_ms": "compute",
    "serialise_ms": "serialise",
    "wire_ms": "round_wire",
    "queue_ms": "waiting",
    "pack_ms": "packing",
    "copy_ms": "copying",
}
"""Columns of ``points.csv``, each the sum of one part over all ranks."""

CROSSING = ["serialise_ms", "wire_ms", "queue_ms"]
"""The totals that every message has a part in."""

ALWAYS = ["compute_ms", *CROSSING]
"""Those that every pipeline has."""

_PHASES = {"latency": "ms", "throughput": "loaded_ms"}
_LEG = [*_TRY, "phase", "leg"]
_ITEM = [*_LEG, "seq"]
_PART = ["rank", "kind"]
_SENDING = ("serialise", "send_queue", "wire")
_MESSAGE = ["serialise", "round_wire"]


def parts(items: pd.DataFrame, clocks: pd.DataFrame | None = None) -> pd.DataFrame:
    """Split the time of every counted item by rank and kind.

    Parameters
    ----------
    items
        Records of all ranks, as :class:`analysis.run.Run` holds them.
    clocks
        How far the ranks' clocks are ahead, see :func:`analysis.measures.clocks.comparisons`.
        Without them the times of single wires are null.

    Returns
    -------
    One row per item and rank. It has the milliseconds of each of :data:`KINDS`; ``bound_ms``, the
    bound of the error of ``wire``; ``round_wire``, the difference between two hosts' clocks, which
    alone means nothing, but whose sum over the ring is that of the wires; ``sends``, whether the
    rank sends a message, without which the message's parts are null; and, for the source,
    ``latency_ms``.
    """
    rows = _with_arrivals(_counted(items))
    departed = rows["departed_ns"].fillna(rows["packed_ns"])
    here = _ahead(rows, rows["rank"], departed, clocks)
    there = _ahead(rows, rows["to"], rows["received_ns"], clocks)
    steps = {name: rows[f"{name}_ns"].astype("Int64") for name in STEPS}
    took = {name: step.fillna(0) for name, step in steps.items()}
    copies = took["copy_in"] + took["copy_out"]
    parts_ns = steps | {
        "queue": rows["start_ns"] - rows["ready_ns"] - took["unpack"],
        "compute": rows["computed_ns"] - rows["start_ns"] - copies,
        "serialise": rows["packed_ns"] - rows["computed_ns"] - took["pack"],
        "send_queue": departed - rows["packed_ns"],
        "round_wire": rows["received_ns"] - departed,
        "latency": rows["latency_ns"],
    }
    table = rows[[*_ITEM, "rank"]].assign(**{name: _ms(ns) for name, ns in parts_ns.items()})
    table["wire"] = table["round_wire"] - (there["ms"] - here["ms"])
    table["bound_ms"] = there["bound_ms"] + here["bound_ms"]
    table["sends"] = rows["sent_ns"].notna()
    return table.rename(columns={"latency": "latency_ms"})


def sums(split: pd.DataFrame) -> pd.DataFrame:
    """Add each item's parts over the ranks.

    Parameters
    ----------
    split
        What :func:`parts` returns.

    Returns
    -------
    One row per item: the columns of :data:`TOTALS`, null where nothing is sent or a time stamp is
    missing; their sum ``attributed_ms``, null where a time stamp is missing; ``latency_ms``; and
    ``least_ms``, the smallest part, which is negative where two time stamps are in the wrong order.
    """
    table = split.assign(
        waiting=split["queue"] + split["send_queue"].where(split["sends"], 0),
        packing=split[["unpack", "pack"]].sum(axis=1, min_count=1),
        copying=split[["copy_in", "copy_out"]].sum(axis=1, min_count=1),
    )
    # An item that lacks a part must not have a sum either.
    lacking = table["waiting"].isna() | (table["sends"] & table[_MESSAGE].isna().any(axis=1))
    table["lacking"] = lacking
    groups = table.groupby(_ITEM, sort=False)
    added = groups[list(TOTALS.values())].sum(min_count=1)
    added = added.rename(columns={part: name for name, part in TOTALS.items()})
    whole = ~groups["lacking"].any()
    added["attributed_ms"] = added.sum(axis=1).where(whole)
    added["latency_ms"] = groups["latency_ms"].first()
    one_clock = table[[name for name in KINDS if name != "wire"]].min(axis=1)
    least = one_clock.groupby([table[name] for name in _ITEM], sort=False).min()
    added["least_ms"] = np.minimum(least, added["wire_ms"].fillna(0))
    return added.reset_index()


def totals(items: pd.DataFrame) -> pd.DataFrame:
    """Where the response latency of each try went, all ranks together.

    Returns
    -------
    Columns session, attempt, point; those of :data:`TOTALS`, of the latency phase's typical items;
    ``attributed_share`` and ``attribution_ok``, for which every item counts.
    """
    split = parts(items[items["phase"] == "latency"])
    every = sums(split)
    table = sums(split[_middle(split)]).groupby(_TRY)[list(TOTALS)].mean()
    every["share"] = every["attributed_ms"] / every["latency_ms"]
    every["off"] = (every["share"] - 1).abs().fillna(np.inf)
    worst = every.sort_values("off", kind="stable").drop_duplicates(_TRY, keep="last")
    worst = worst.set_index(_TRY)
    ordered = every.groupby(_TRY)["least_ms"].min() >= 0
    ok = (worst["off"] <= TOLERANCE) & ordered
    return table.assign(attributed_share=worst["share"], attribution_ok=ok).reset_index()


def attribution(
    items: pd.DataFrame, plan: Plan, measured: pd.DataFrame, clocks: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Make the table ``attribution.csv``.

    Parameters
    ----------
    items, clocks
        As :func:`parts` takes them.
    plan
        What was to be measured.
    measured
        One row per point and replicate, see :func:`analysis.measures.replicates.replicates`.

    Returns
    -------
    The columns :data:`analysis.measures.attribution_columns.ATTRIBUTION`: one row for each measured
    point, rank and kind that occurs, in the order of the plan and of an item's way.
    """
    complete = measured.loc[measured["status"] == "ok", _TRY]
    portion = [
        _by_try(parts(items[items["session"].isin(sessions)].merge(complete, on=_TRY), clocks))
        for sessions in portions(items, plan)
    ]
    each = pd.concat(portion).sort_index()
    # Null where a replicate lacks the value.
    means = each.groupby(["point", *_PART, "phase"]).mean(skipna=False).reset_index("phase")
    table = ranks_of(plan).merge(pd.DataFrame({"kind": KINDS}), how="cross")
    for phase, name in _PHASES.items():
        found = means.loc[means["phase"] == phase, "ms"].rename(name)
        table = table.join(found, on=["point", *_PART])
    bounds = means.loc[means["phase"] == "latency", "bound_ms"]
    table = table.join(bounds, on=["point", *_PART])
    there = pd.MultiIndex.from_frame(table[["point", *_PART]]).isin(means.index)
    return table.loc[there, [column.name for column in ATTRIBUTION]].reset_index(drop=True)


def _by_try(split: pd.DataFrame) -> pd.DataFrame:
    """Means of the typical items' parts, and the largest bound, by try, rank, kind and phase."""
    typical = split[_middle(split)]
    sending = list(_SENDING)
    typical[sending] = typical[sending].where(typical["sends"])
    typical["bound_ms"] = typical["bound_ms"].where(typical["sends"])
    tries = typical.groupby([*_TRY, "rank", "phase"])
    # As columns first: kinds as rows would be ten times as many rows to group.
    means = (
        tries[list(KINDS)]
        .mean()
        .assign(bound_ms=tries["bound_ms"].max(), sends=tries["sends"].any())
    )
    long = means.reset_index().melt(
        [*_TRY, "rank", "phase", "sends", "bound_ms"], list(KINDS), "kind", "ms"
    )
    long = long[long["sends"] | ~long["kind"].isin(_SENDING)]
    long = long[long["ms"].notna() | ~long["kind"].isin(STEPS)]
    long["bound_ms"] = long["bound_ms"].where(long["kind"] == "wire")
    return long.set_index([*_TRY, *_PART, "phase"])[["ms", "bound_ms"]]


def _middle(split: pd.DataFrame) -> pd.Series:
    """Which rows belong to the middle half of the items by latency, in each try and phase."""
    source = split[split["rank"] == 0]
    groups = source.groupby([*_TRY, "phase"])["latency_ms"]
    low, high = (groups.transform("quantile", edge) for edge in (0.25, 0.75))
    typical = source[_ITEM].assign(typical=source["latency_ms"].between(low, high))
    found = split[_ITEM].merge(typical, on=_ITEM, how="left")["typical"]
    return pd.Series(found.to_numpy(np.bool_), index=split.index)


def _counted(items: pd.DataFrame) -> pd.DataFrame:
    """The items that count, of all ranks: those in the last leg of each phase.

    The source decides which items count, since only it knows which were in flight at the end.
    """
    chosen = items[items["phase"].isin(list(_PHASES))]
    last = chosen.groupby([*_TRY, "phase"])["leg"].transform("max")
    chosen = chosen[chosen["leg"] == last]
    return chosen.merge(chosen.loc[chosen["rank"] == 0, _ITEM], on=_ITEM)


def _with_arrivals(rows: pd.DataFrame) -> pd.DataFrame:
    """Add to each rank's row of an item what the next rank recorded of the message.

    The columns added are ``to``, the next rank; ``departed_ns``, the message's departure by this
    rank's clock; and ``received_ns``, its arrival by the next rank's clock.
    """
    source = rows["rank"] == 0
    arrivals = rows[[*_ITEM, "departed_ns"]].assign(
        to=rows["rank"],
        received_ns=rows["ready_ns"].astype("Int64").where(~source, rows["done_ns"]),
    )
    last = rows.groupby(["session", "attempt"])["rank"].transform("max")
    arrivals["rank"] = (rows["rank"] - 1).where(~source, last)
    return rows.drop(columns="departed_ns").merge(arrivals, on=[*_ITEM, "rank"], how="left")


def _ahead(
    rows: pd.DataFrame, rank: pd.Series, stamps_ns: pd.Series, clocks: pd.DataFrame | None
) -> pd.DataFrame:
    """How far a rank's clock was ahead of the source's at time stamps of its own.

    Returns
    -------
    Columns ``ms`` and ``bound_ms``: 0 for the source, null for a rank whose offset is unknown.
    """
    source = rank == 0
    if clocks is None:
        unknown = pd.Series(np.nan, index=rows.index).mask(source, 0.0)
        return pd.DataFrame({"ms": unknown, "bound_ms": unknown})
    found = ahead(rows, rank, stamps_ns, clocks)
    found["bound_ms"] = found["bound_ms"].mask(source, 0.0)
    return found[["ms", "bound_ms"]].where(found["clock_note"].isna())


def _ms(ns: pd.Series) -> pd.Series:
    """Whole nanoseconds as milliseconds."""
    return pd.Series(ns.to_numpy(np.float64, na_value=np.nan) / 1e6, index=ns.index)
