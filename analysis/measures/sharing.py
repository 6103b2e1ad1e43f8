"""How long the sources that share a sink's host really did so.

Each lane's sink wrote when its items came and went, by the one clock of their host. A lane's share
is the part of the time of its counted items in which every other lane had items under way there:
those of its warm-up, those that count, and those by which it kept up its load.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import pandas as pd

from analysis.column import LEAST, TOGETHER, Column
from analysis.measures.legs import TRY
from analysis.measures.reduction import together
from analysis.run import Run

LEAST_SHARE = 0.9
"""Share below which the lanes were apart for so long that it is said."""

COLUMNS: tuple[Column, ...] = (
    Column(
        "overlap_share",
        "",
        "Where several sources share the sink's host: share of the time of this one's counted "
        "items, at its sink, in which all the others had items under way there. The lesser of the "
        "latency and the throughput phase, least over replicates.",
        "there is one source, or nothing crosses, so that the sink's host has no part in the point",
        front=True,
        over=LEAST,
    ),
    Column(
        "overlap_note",
        "",
        f"The phases in which that is below {LEAST_SHARE:g}, in words.",
        "none is",
        over=TOGETHER,
    ),
)
"""Columns of ``points.csv``."""

_STEP = ["group", "attempt", "place", "leg"]
"""Columns that identify a leg of all lanes."""


def sharing(run: Run, counted: pd.DataFrame) -> pd.DataFrame:
    """How much of the legs that count all lanes were measured together.

    Parameters
    ----------
    counted
        Ends of the legs that count, of all ranks.

    Returns
    -------
    The columns of :data:`analysis.measures.legs.TRY`, and those of :data:`COLUMNS`; one row for
    each try of a point of several sources at which something crosses.
    """
    lanes = _lanes(run)
    sinks = counted.merge(lanes, on=["session", "point", "rank"])
    items = run.items.merge(lanes, on=["session", "point", "rank"])
    files = run.stages[["session", "attempt", "rank"]]
    # The kernel draws this id as it starts: clocks of two boots, or two machines, are not compared.
    boots = files.assign(boot=[facts.get("boot_id") for facts in run.stages["facts"]])
    loads = (
        items.groupby(["session", "rank", *_STEP], as_index=False)
        .agg(first_ns=("ready_ns", "min"), last_ns=("sent_ns", "max"))
        .merge(boots, on=["session", "attempt", "rank"], how="left")
    )
    of_step = dict(iter(loads.groupby(_STEP)))
    rows = []
    for leg in sinks.to_dict("records"):
        share = _share(leg, of_step[tuple(leg[name] for name in _STEP)])
        rows.append((*(leg[name] for name in TRY), share, _note(leg["phase"], share)))
    names = [column.name for column in COLUMNS]
    types = {"session": "str", "attempt": "int64", "point": "str", names[0]: "float64"}
    found = pd.DataFrame.from_records(rows, columns=[*TRY, *names]).astype(types)
    groups = found.groupby(TRY)
    table = groups[names[0]].agg(lambda shares: shares.min(skipna=False)).to_frame()
    return table.assign(**{names[1]: together(groups[names[1]])}).reset_index()


def _lanes(run: Run) -> pd.DataFrame:
    """The sink of each lane, and the place of each of its points, which is that of all lanes."""
    rows = [
        (session.group, session.id, point, place, len(session.placement) - 1)
        for session in run.plan.sessions
        if session.sources > 1
        for place, point in enumerate(session.points)
    ]
    return pd.DataFrame(rows, columns=["group", "session", "point", "place", "rank"]).astype(
        {"group": "str", "session": "str", "point": "str", "place": "int64", "rank": "int64"}
    )


def _share(leg: dict[Hashable, Any], loads: pd.DataFrame) -> float:
    """Share of a leg's counted time in which all lanes had items under way; null without a clock.

    Parameters
    ----------
    leg
        The leg at the lane's sink.
    loads
        When the items of each lane came and went at its sink in that leg.
    """
    others = loads[loads["session"] != leg["session"]]
    boots = loads["boot"]
    if boots.isna().any() or boots.nunique() > 1:
        return math.nan
    begin_ns = max(leg["start_ns"], *others["first_ns"])
    end_ns = min(leg["end_ns"], *others["last_ns"])
    return float(max(0, end_ns - begin_ns) / (leg["end_ns"] - leg["start_ns"]))


def _note(phase: str, share: float) -> str | None:
    """In words that the lanes were apart for long; None where they were not."""
    if not share < LEAST_SHARE:
        return None
    return f"{phase}: the other sources shared {share:.2f} of the time"
