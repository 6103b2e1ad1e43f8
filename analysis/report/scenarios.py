"""Pipelines as the page computes them: what would be over a link that was never measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.captions import LINK, worded
from analysis.prediction.costs import Costs, Hop
from analysis.prediction.messages import asked_byte_ms
from analysis.prediction.parts import Parts, PredictionError, group_of
from analysis.report.embedded import names, soles
from analysis.tables.front import GROUP
from paretopipe_worker.plan.labels import placement_label, split_label
from paretopipe_worker.plan.plan import Point

ASKED = (LINK, "window")
"""What the page asks for in place of what was measured."""

MS_PER_BYTE_AT_1_MBIT = asked_byte_ms(1)
"""For how long a wire of 1 Mbit/s is busy with a byte of tensor data."""


def scenarios(
    parts: Parts, points: pd.DataFrame, predictions: pd.DataFrame
) -> list[dict[str, Any]]:
    """The parts of every pipeline of a run, each once for all of its links and windows.

    Parameters
    ----------
    parts
        The parts of the run's pipelines.
    points
        The table ``points.csv``, which has the order.
    predictions
        The table ``predictions.csv``, which has the errors.

    Returns
    -------
    For each pipeline whose parts are known a document of plain values: ``title``, what it differs
    in from the others; ``batch``; ``link``, the one over which the software's part of a message was
    measured; ``window``, null where it is chosen by what was measured; ``latency_error`` and
    ``throughput_error`` over that link; ``ms_per_byte_at_1_mbit``; the fields of
    :class:`analysis.prediction.costs.Costs`; ``splits``, each a list of places, their ``names``, in
    full and shortened, and ``sole``, the rank that computes all.
    """
    errors = predictions.set_index("point")[["latency_error", "throughput_error"]]
    order = {point: place for place, point in enumerate(points["point"])}
    by_group: dict[tuple[object, ...], list[Point]] = {}
    for point in sorted(parts.run.plan.points, key=lambda point: order[point.id]):
        by_group.setdefault(tuple(group_of(point).values()), []).append(point)
    found: dict[tuple[object, ...], dict[str, Any]] = {}
    for alike in by_group.values():
        about = {name: value for name, value in group_of(alike[0]).items() if name not in ASKED}
        key = tuple(about.values())
        if key in found:
            continue
        try:
            made = parts.costs(alike[0], parts.sessions_of(alike))
        except PredictionError:
            continue  # Another link may do; of a pipeline without any the page has no prediction.
        alike = [point for point in alike if _known(made, point)]
        if not alike:
            continue
        off: dict[Any, Any] = errors.loc[alike[0].id].to_dict()
        found[key] = {
            "title": "",
            "link": alike[0].link,
            "window": None if alike[0].window == "auto" else alike[0].window,
            "batch": alike[0].batch,
            **off,
            "ms_per_byte_at_1_mbit": MS_PER_BYTE_AT_1_MBIT,
            **_plain(made),
            **_splits(made, alike),
        }
    for key, title in zip(found, _titles(list(found)), strict=True):
        found[key]["title"] = title
    return list(found.values())


def _known(made: Costs, point: Point) -> bool:
    """Whether all parts are known that a point has."""
    places = made.index([point.split])
    return bool(np.isfinite([made.latency_ms(places), made.busiest_ms(places)]).all())


def _titles(abouts: Sequence[tuple[object, ...]]) -> list[str]:
    """What each pipeline differs in from the others."""
    names = [name for name in GROUP if name not in ASKED]
    differ = [len(set(values)) > 1 for values in zip(*abouts, strict=True)]
    return [
        ", ".join(
            worded(name, value)
            for name, value, tells in zip(names, about, differ, strict=True)
            if tells
        )
        for about in abouts
    ]


def _plain(made: Costs) -> dict[str, Any]:
    """Costs as plain values; a hop is its delay and its milliseconds per byte, message, byte."""
    return {
        "waiting_ms": made.waiting_ms.tolist(),
        "busy_ms": made.busy_ms.tolist(),
        "forward_bytes": made.forward_bytes.tolist(),
        "return_bytes": made.return_bytes,
        "hops": [astuple(hop) for hop in made.hops],
        "back": [_hop(hop) for hop in made.back],
        "item_ms": list(made.item_ms) or [0.0] * len(made.hosts),
        "slowing": list(made.slowing) or [0.0] * len(made.hosts),
    }


def _hop(hop: Hop | None) -> tuple[float, ...] | None:
    """A way back, where there is one."""
    return None if hop is None else astuple(hop)


def _splits(made: Costs, points: list[Point]) -> Mapping[str, Any]:
    """The splits of some points, in the order of the data."""
    places = {tuple(made.index([point.split])[0].tolist()): point.split for point in points}
    table = pd.DataFrame(
        {
            "split": [split_label(places[place]) for place in sorted(places)],
            "placement": placement_label(made.hosts),
        }
    )
    return {"splits": sorted(places), "names": names(table), "sole": soles(table)}
