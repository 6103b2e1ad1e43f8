"""What the page's script draws from: points and the parts of their latency, as plain values."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import to_hex

from analysis.figures import names as figure_names
from analysis.figures.captions import LINK, link_title, worded
from analysis.figures.latency_parts import heights, parts_of
from analysis.figures.names import sole
from analysis.figures.series import Series
from analysis.figures.style import palette
from analysis.measures import marks
from analysis.tables.front import GROUP
from paretopipe_worker.cuts import FIRST, LAST
from paretopipe_worker.plan.labels import busy, cuts_of, everything_on, hosts_of, split_label

FACETS = {
    "model": "Model",
    "placement": "Placement",
    "link": "Link",
    "backend": "Backend",
    "runtimes": "Runtime",
    "dtype": "Number format",
    "wire": "Wire format",
    "batch": "Batch",
    "window": "Window",
    "busy": "Hosts",
    "sources": "Sources",
}
"""The columns of :data:`analysis.tables.front.GROUP` in the order of their filters, by title."""

FIGURES = {
    "latency": "latency_median_ms",
    "latency_low": "latency_median_joint_low_ms",
    "latency_high": "latency_median_joint_high_ms",
    "throughput": "throughput_images_s",
    "throughput_low": "throughput_joint_low_images_s",
    "throughput_high": "throughput_joint_high_images_s",
    "probability": "front_probability",
    "further": "further_replicates",
    "payload": "payload_bytes",
    "energy": "energy_j_per_image",
    "error": "max_relative_error",
    "replicates": "replicates",
    "position": "position",
}
"""What the script knows of a point, and the column that has it."""

PREDICTED = {
    "predicted_latency": "predicted_latency_ms",
    "predicted_throughput": "predicted_throughput_images_s",
}
"""The same of the table of predictions; only of points that were not measured."""

_DIGITS = 6


def embedded(
    points: pd.DataFrame,
    stages: pd.DataFrame,
    attribution: pd.DataFrame,
    predictions: pd.DataFrame,
) -> dict[str, Any]:
    """Everything that is drawn, as a document of plain values.

    Parameters
    ----------
    points, stages, attribution
        The tables of these names.
    predictions
        The table ``predictions.csv``.

    Returns
    -------
    - ``facets``: what points are filtered by: column, title and its values in
      words, and in short;
    - ``coloured``: the facet whose values are shown together at first;
    - ``groups``: for each front the place of its value in each facet;
    - ``names``: of splits, in full and shortened;
    - ``fields``: what each row of ``points`` has, in that order: the columns of :data:`FIGURES`,
      the places of the group and the name, the rank that computes all by itself (null where
      several do), the status, marks, and the heights of ``parts``;
    - ``parts``: the parts of a latency, with their looks; ``colours``: those of groups.
    """
    values = {name: list(points[name].unique()) for name in FACETS}
    keys, called = keys_of(points), names(points)
    groups, different = groups_of(points), list(dict.fromkeys(called))
    parts = _parts(points, stages, attribution)
    columns = {
        "group": list(map(groups.get, keys)),
        "name": list(map({pair: place for place, pair in enumerate(different)}.get, called)),
        **_columns(points, predictions),
        "parts": [list(map(rounded, row)) for row in parts.to_numpy(dtype=np.float64)],
    }
    return {
        "facets": [
            {
                "column": name,
                "title": title,
                "values": [_worded(points, name, value) for value in values[name]],
                "short": [worded(name, value) for value in values[name]],
            }
            for name, title in FACETS.items()
        ],
        "coloured": list(FACETS).index(Series(points).name),
        "groups": [[values[name].index(value) for name, value in _by_facet(key)] for key in groups],
        "hosts": [hosts_of(str(dict(zip(GROUP, key, strict=True))["placement"])) for key in groups],
        "names": different,
        "fields": list(columns),
        "points": [list(row) for row in zip(*columns.values(), strict=True)],
        "parts": [_look(name, points) for name in parts.columns],
        "colours": list(map(to_hex, palette())),
    }


def keys_of(points: pd.DataFrame) -> list[tuple[Any, ...]]:
    """The values of :data:`analysis.tables.front.GROUP` of each point."""
    return list(points[list(GROUP)].itertuples(index=False, name=None))


def groups_of(points: pd.DataFrame) -> dict[tuple[Any, ...], int]:
    """The groups of points that are compared, each with its place on the page."""
    return {key: place for place, key in enumerate(dict.fromkeys(keys_of(points)))}


def _columns(points: pd.DataFrame, predictions: pd.DataFrame) -> dict[str, list[Any]]:
    """What is known of each point by itself, by field."""
    table = pd.DataFrame({name: points[of] for name, of in FIGURES.items()}).astype("float64")
    table = table.join(_predicted(points, predictions))
    marked = {name: marks.MARKS[name](points) for name in ("uncertified", "disturbed", "late")}
    return {
        "sole": soles(points),
        "status": list(points["status"]),
        "front": list(map(int, points["on_front"])),
        **{name: list(map(int, flags)) for name, flags in marked.items()},
        **{str(name): list(map(rounded, column)) for name, column in table.items()},
    }


def _by_facet(key: Iterable[Any]) -> Iterable[tuple[str, Any]]:
    """The values of a group in the order of the facets."""
    known = dict(zip(GROUP, key, strict=True))
    return [(name, known[name]) for name in FACETS]


def _predicted(points: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """The predictions of points that have no figures."""
    known = predictions.set_index("point").reindex(points["point"]).set_axis(points.index)
    table = pd.DataFrame({name: known[of] for name, of in PREDICTED.items()}).astype("float64")
    return table[points["status"].ne("ok")].reindex(points.index)


def _parts(points: pd.DataFrame, stages: pd.DataFrame, attribution: pd.DataFrame) -> pd.DataFrame:
    """Milliseconds of each part of a latency that any point has."""
    table = heights(points, stages, attribution)
    return table.loc[:, table.notna().any()]


def _look(part: str, points: pd.DataFrame) -> dict[str, Any]:
    """How a part of a latency is called and drawn."""
    ranks = max(len(hosts_of(placement)) for placement in points["placement"].unique())
    style = parts_of(ranks)[part]
    fill, edge = (to_hex(style.get(name, "0.5")) for name in ("facecolor", "edgecolor"))
    return {"name": part, "fill": fill, "hatch": style.get("hatch", "")[:1], "edge": edge}


def names(points: pd.DataFrame) -> list[tuple[str, str]]:
    """What each point's split is called: in full, an endpoint by its host, and shortened."""
    full = []
    for split, placement in zip(points["split"], points["placement"], strict=True):
        cuts, hosts = cuts_of(split), hosts_of(placement)
        idle = [host for host in hosts if host not in busy(cuts, hosts)]
        between = split_label(dict.fromkeys(cut for cut in cuts if cut not in (FIRST, LAST)))
        between += f" (no {', '.join(idle)})" if idle else ""
        full.append(everything_on(cuts, hosts) or between)
    return list(zip(full, figure_names.called(points), strict=True))


def soles(points: pd.DataFrame) -> list[int | None]:
    """The rank that computes all of each point, None where several do."""
    return [None if pd.isna(rank) else int(rank) for rank in sole(points)]


def _worded(points: pd.DataFrame, name: str, value: Any) -> str:
    """A value of a facet in words."""
    return link_title(points, value) if name == LINK else worded(name, value)


def rounded(value: float) -> float | int | None:
    """A figure with a few digits, null where there is none."""
    if not math.isfinite(value):
        return None
    short = float(f"{value:.{_DIGITS}g}")
    return int(short) if short == int(short) else short
