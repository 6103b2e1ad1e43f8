"""The table ``segments.csv``: latency and throughput by segment of the trace of a link."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from analysis.column import Column
from analysis.measures import completions
from analysis.measures.certificate import WHEN, around, described
from analysis.measures.legs import TRY, that_count
from analysis.measures.replicates import choose, tries
from analysis.run import Run
from paretopipe_worker.link import samples
from paretopipe_worker.plan.experiment import MIN_ITEMS
from paretopipe_worker.plan.labels import split_label

_PROBED = (("round_trip", "ms"), ("goodput", "mbit"))

COLUMNS: tuple[Column, ...] = (
    Column("point", "", "Id of the point, as in `points.csv`."),
    Column("model", "", "Model as the experiment names it."),
    Column("split", "", "Cuts of the pipeline."),
    Column("link", "", "Name of the link profile that follows a trace."),
    Column("backend", "", "How tensors cross the link."),
    Column("window", "items", "Items in flight in the throughput phase."),
    Column("segment", "", "Number of the segment, from 0."),
    Column(
        "certified_as",
        "",
        "The segment of the same condition, this one or another, that the sessions held and "
        "certified; empty where no segment of its condition was (of a long trace at most "
        f"{samples.MOST} are).",
    ),
    Column("start_s", "s", "When the segment begins, in seconds from the beginning of the trace."),
    Column("duration_s", "s", "How long the segment lasts."),
    Column("asked", "", "What the segment asks of the link."),
    Column(
        "round_trip_before_ms",
        "ms",
        "Round trip of a small message, measured last before the point while the segment was held: "
        "median, then the mean over replicates; where packets are lost, that of datagrams.",
    ),
    Column("round_trip_after_ms", "ms", "The same, measured first after the point."),
    Column(
        "goodput_before_mbit",
        "Mbit/s",
        "Tensor data per time of a bulk transfer forward, over the slowest hop, likewise; empty "
        "where packets are lost.",
    ),
    Column("goodput_after_mbit", "Mbit/s", "The same, measured first after the point."),
    Column(
        "latency_items",
        "items",
        "Items of the latency phase that began and ended in the segment, over all replicates. "
        "Items during which the link changed count for no segment.",
    ),
    Column(
        "latency_median_ms",
        "ms",
        "Median of their response latencies, then the mean over replicates with at least "
        f"{MIN_ITEMS}.",
    ),
    Column(
        "throughput_items",
        "items",
        "Items of the throughput phase that began and ended in the segment.",
    ),
    Column(
        "throughput_images_s",
        "images/s",
        "Images per second in the segment, from completions at the source: those of whole windows "
        "each time the segment was in force, as for `throughput_images_s` of points.csv, then the "
        "mean over replicates that have two such windows in total.",
    ),
)
"""Columns of ``segments.csv``: empty where nothing was measured."""

_PLANNED = [column.name for column in COLUMNS[: [c.name for c in COLUMNS].index("asked") + 1]]


def segments(run: Run) -> pd.DataFrame:
    """Every point over a link that follows a trace, by segment.

    Returns
    -------
    The columns :data:`COLUMNS`; there are no rows where no link follows a trace. Segments that no
    leg reached and that were not certified are left out.
    """
    chosen = choose(tries(run))
    complete = chosen.loc[chosen["status"] == "ok", TRY]
    items, ends = (frame[frame["rank"] == 0] for frame in that_count(run, complete))
    batches = {point.id: point.batch for point in run.plan.points}
    items = items.merge(ends[[*TRY, "leg", "window"]], on=[*TRY, "leg"])
    figures = _means(latency(items).join(throughput(items, batches), how="outer"))
    rows = pd.DataFrame.from_records(list(_planned(run, set(figures["segment"]))), columns=_PLANNED)
    table = rows.astype({"segment": "Int64", "certified_as": "Int64"})
    table = table.merge(figures, how="left", on=["point", "segment"])
    table = table.merge(_probed(run, complete), how="left", on=["point", "certified_as"])
    counts = [name for name in table.columns if name.endswith("_items")]
    table[counts] = table[counts].fillna(0).astype("Int64")
    return table[[column.name for column in COLUMNS]]


def latency(items: pd.DataFrame) -> pd.DataFrame:
    """Response latency by try and segment, of the source's items that lay inside one segment."""
    inside = items[(items["phase"] == "latency") & items["segment"].notna()]
    groups = inside.groupby([*TRY, "segment"])["latency_ns"]
    table = pd.DataFrame({"latency_items": groups.size()})
    median_ms = groups.median().astype("float64") / 1e6
    table["latency_median_ms"] = median_ms.where(table["latency_items"] >= MIN_ITEMS)
    return table


def throughput(items: pd.DataFrame, batches: dict[str, int]) -> pd.DataFrame:
    """Images per second by try and segment, from completions at the source.

    An item during which the link changed ends a stretch. The whole windows of completions of each
    stretch count, and a throughput needs two of them.

    Parameters
    ----------
    items
        The source's items of legs that count, with the ``window`` of their leg.
    batches
        Images in an item of each point.
    """
    phase = items[items["phase"] == "throughput"].sort_values([*TRY, "seq"])
    key = phase[[*TRY, "segment"]].fillna({"segment": -1})
    begins = (key != key.shift()).any(axis=1)
    inside = phase.assign(stretch=begins.cumsum())[phase["segment"].notna()]
    stretches = completions.whole_windows(inside, [*TRY, "segment", "stretch"])
    groups = stretches.groupby([*TRY, "segment"])
    table = groups[["items", "periods", "seconds"]].sum().join(groups["window"].first())
    images = table.index.get_level_values("point").map(batches).to_numpy()
    return pd.DataFrame(
        {
            "throughput_items": table["items"],
            "throughput_images_s": images * completions.rates(table),
        }
    )


def _planned(run: Run, reached: set[int]) -> Iterator[dict[str, Any]]:
    """The points whose link follows a trace, by segment that a leg reached or was certified."""
    for link in run.plan.experiment.links:
        points = [point for point in run.plan.points if point.link == link.name]
        if link.timetable is None or not points:
            continue
        starts, durations = link.timetable.starts_s, link.timetable.durations_s
        certified = samples.alike(link.conditions, link.certified)
        numbers = sorted(reached | set(link.certified))
        parts = {n: link.segment(n) for n in numbers if n < len(starts)}
        for point in points:
            own = {name: getattr(point, name) for name in ("model", "link", "backend", "window")}
            for number, part in parts.items():
                yield own | {
                    "point": point.id,
                    "split": split_label(point.split),
                    "segment": number,
                    "certified_as": certified.get(number),
                    "start_s": starts[number],
                    "duration_s": durations[number],
                    "asked": described(part.forward_path(len(point.placement))),
                }


def _means(figures: pd.DataFrame) -> pd.DataFrame:
    """Figures by point and segment: sums of items, and means over replicates that have any."""
    groups = figures.reset_index().groupby(["point", "segment"])
    how = {name: "sum" if name.endswith("_items") else "mean" for name in figures.columns}
    return groups.agg(how).reset_index().astype({"segment": "Int64"})


def _probed(run: Run, complete: pd.DataFrame) -> pd.DataFrame:
    """What the stages measured of the link around each point, by point and held segment."""
    probes = run.probes[(run.probes["rank"] == 0) & run.probes["segment"].notna()]
    taken = dict(list(probes.groupby(["session", "attempt"])))
    rows = []
    for session, number, point in complete[TRY].itertuples(index=False, name=None):
        if (session, number) not in taken:
            continue
        [attempt] = [each for each in run.attempts.of(session) if each.number == number]
        near = around(taken[session, number], attempt.points.index(point))
        for probe in near.to_dict("records"):
            alone, goodput, when = probe["datagrams"], probe["goodput_mbit"], probe["when"]
            times = alone.round_trip_ns if alone else probe["round_trip_ns"]
            rows.append(
                {"session": session, "point": point, "certified_as": probe["segment"]}
                | {f"round_trip_{when}_ms": np.median(times) / 1e6 if times else np.nan}
                | {f"goodput_{when}_mbit": min(goodput[:-1], default=np.nan)}
            )
    figures = [f"{name}_{when}_{unit}" for when in WHEN for name, unit in _PROBED]
    table = pd.DataFrame.from_records(rows, columns=["session", "point", "certified_as", *figures])
    table = table.astype({"certified_as": "Int64"} | dict.fromkeys(figures, "float64"))
    # Mean of each session first, so that all replicates have the same weight.
    by_session = table.groupby(["session", "point", "certified_as"])[figures].mean().reset_index()
    return by_session.groupby(["point", "certified_as"])[figures].mean().reset_index()
