"""The parts of a point's response latency: how each looks, and how long it takes."""

from __future__ import annotations

import itertools
from typing import Any

import pandas as pd

from paretopipe_worker.plan.labels import hosts_of

_STAGES = ("#3b5b92", "#e0a458", "#8a6fae", "#6f9fc0")
STAGE = "stage {} compute"
_REST = "latency - compute (not attributed)"
_FORWARD = "wire forward"
_HOP = "wire {} to {}"
_BACK = "wire back"
_PACK, _COPY = "pack and unpack", "copy to and from a device"
_AROUND = "wire, there and back"
_HOPS = (
    {"facecolor": "#dcebe4", "hatch": "////"},
    {"facecolor": "#c3dccf", "hatch": "||||"},
    {"facecolor": "#eef6f1", "hatch": "++++"},
)
_WIRE = {"edgecolor": "#3f7d64"}
_OTHERS: dict[str, dict[str, Any]] = {
    _BACK: {"facecolor": "#a9cdbd", "hatch": "\\\\\\\\"} | _WIRE,
    _AROUND: {"facecolor": "#dcebe4", "hatch": "xxxx"} | _WIRE,
    "serialise": {"facecolor": "#a5323c"},
    _PACK: {"facecolor": "#e9b7bb", "edgecolor": "#a5323c", "hatch": "xxxx"},
    _COPY: {"facecolor": "#f3e3f5", "edgecolor": "#7b4b94", "hatch": "////"},
    "queue": {"facecolor": "white", "edgecolor": "0.2", "hatch": "....."},
    _REST: {"facecolor": "#d9d9d9", "edgecolor": "0.65", "hatch": "----"},
}
_KINDS = {
    **{"serialise": "serialise", "queue": "queue", "send_queue": "queue"},
    **{"pack": _PACK, "unpack": _PACK, "copy_in": _COPY, "copy_out": _COPY},
}


def parts_of(ranks: int) -> dict[str, dict[str, Any]]:
    """Parts of a bar from the bottom up, with their styles.

    They differ in brightness and hatch as well as in colour, so that they can be told apart in
    print.
    """
    colours = zip(range(ranks), itertools.cycle(_STAGES), strict=False)
    stages = {STAGE.format(rank): {"facecolor": colour} for rank, colour in colours}
    looks = zip(range(ranks - 1), itertools.cycle(_HOPS), strict=False)
    return stages | {wire(rank, ranks): look | _WIRE for rank, look in looks} | _OTHERS


def wire(rank: int, ranks: int) -> str:
    """The part that is the wire from a rank to the next."""
    return _HOP.format(rank, rank + 1) if ranks > 2 else _FORWARD


def heights(
    points: pd.DataFrame, stages: pd.DataFrame, attribution: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Milliseconds of each part of a bar in each point's latency, null where there is none.

    Returns
    -------
    The index of `points`, and a column for each of :func:`parts_of`.
    """
    rest = _unattributed(points, stages)
    if attribution is None or attribution.empty:
        return rest
    ranks, kind, rank = ranks_of(points), attribution["kind"], attribution["rank"]
    part = kind.map(_KINDS).mask(kind == "compute", rank.map(STAGE.format))
    sink = rank == rank.groupby(attribution["point"]).transform("max")
    wires = rank.map(lambda rank: wire(rank, ranks)).mask(sink, _BACK)
    part = part.mask(kind == "wire", wires)
    table = attribution["ms"].groupby([attribution["point"], part]).sum(min_count=1).unstack()
    table = table.reindex(points["point"]).set_axis(points.index).reindex(columns=rest.columns)
    # Without clocks that were compared only the sum of all hops is known.
    unclocked = attribution.loc[(kind == "wire") & attribution["ms"].isna(), "point"]
    unknown = points["point"].isin(unclocked)
    hops = [_BACK, *(wire(rank, ranks) for rank in range(ranks - 1))]
    table[hops] = table[hops].mask(unknown)
    table[_AROUND] = points["wire_ms"].where(unknown)
    lacking = table["queue"].isna()
    return table.mask(lacking, rest)


def styles_of(parts: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """The styles of the parts that :func:`heights` returns."""
    return parts_of((len(parts.columns) - len(_OTHERS) + 1) // 2)


def ranks_of(points: pd.DataFrame) -> int:
    """Ranks of the longest placement."""
    return max(len(hosts_of(placement)) for placement in points["placement"].unique())


def _unattributed(points: pd.DataFrame, stages: pd.DataFrame) -> pd.DataFrame:
    """Computation of the stages and the rest of the latency."""
    names = list(parts_of(ranks_of(points)))
    table = pd.DataFrame(index=points.index, columns=names, dtype="float64")
    computed = stages.pivot(index="point", columns="rank", values="compute_ms")
    computed = computed.reindex(points["point"]).set_axis(points.index)
    for rank in computed.columns:
        table[STAGE.format(rank)] = computed[rank]
    # Medians need not add up: a negative rest is not drawn, and the line shows the latency.
    table[_REST] = (points["latency_median_ms"] - table.sum(axis=1)).clip(lower=0)
    return table
