"""The table ``segments.csv``: how points fared in each segment of the trace their link followed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis.certificate import WHEN, around, described, probes_of
from analysis.column import Column
from analysis.load import Run
from analysis.replicates import choose, tries
from paretopipe_worker.spec import MIN_ITEMS

_TRY = ["session", "attempt", "point"]
_PROBED = (("round_trip", "ms"), ("goodput", "mbit"))

COLUMNS: tuple[Column, ...] = (
    Column("point", "", "Id of the point, as in `points.csv`."),
    Column("model", "", "Model as the experiment names it."),
    Column("split", "", "Cuts of the pipeline."),
    Column("link", "", "Name of the link profile that follows a trace."),
    Column("backend", "", "How tensors cross the link."),
    Column("window", "items", "Items in flight in the throughput phase."),
    Column("segment", "", "Number of the segment, from 0."),
    Column("start_s", "s", "When it begins, in seconds from the beginning of the trace."),
    Column("duration_s", "s", "How long it lasts."),
    Column("asked", "", "What it asks of the link."),
    Column(
        "round_trip_before_ms",
        "ms",
        "Round trip of a small message, measured last before the point while the segment was held: "
        "median, then the mean over replicates; of datagrams, where packets are lost.",
    ),
    Column("round_trip_after_ms", "ms", "The same, measured first after the point."),
    Column(
        "goodput_before_mbit",
        "Mbit/s",
        "Tensor data per time of a bulk transfer forward, likewise; empty where packets are lost.",
    ),
    Column("goodput_after_mbit", "Mbit/s", "The same, measured first after the point."),
    Column(
        "latency_items",
        "items",
        "Items of the latency phase that began and ended in the segment, all replicates "
        "together. Items that saw the link change count for no segment.",
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
        "Images per second in the segment, by completions at the source: from the first to "
        "the last of those items each time that the segment came by, then the mean over "
        f"replicates with at least {MIN_ITEMS}. Empty also where no two were in one go.",
    ),
)
"""Columns of ``segments.csv``: empty where nothing was measured."""


def segments(run: Run) -> pd.DataFrame:
    """Every point over a link that follows a trace, by segment.

    Returns
    -------
    The columns :data:`COLUMNS`; no rows where no link follows a trace.
    """
    chosen = choose(tries(run))
    complete = chosen.loc[chosen["status"] == "ok", _TRY]
    items = run.items[run.items["rank"] == 0].merge(complete, on=_TRY)
    last = items.groupby([*_TRY, "phase"])["leg"].transform("max")
    items = items[items["leg"] == last]
    batches = {point.id: point.batch for point in run.plan.points}
    figures = latency(items).join(throughput(items, batches), how="outer").reset_index()
    rows = [
        row | _means(figures, row["point"], row["segment"]) | _path(run, complete, row)
        for row in _planned(run)
    ]
    frame = pd.DataFrame.from_records(rows, columns=[column.name for column in COLUMNS])
    return frame.astype({name: "Int64" for name in frame.columns if name.endswith("_items")})


def latency(items: pd.DataFrame) -> pd.DataFrame:
    """Response latency by try and segment, of the source's items that lay inside one."""
    inside = items[(items["phase"] == "latency") & items["segment"].notna()]
    groups = inside.groupby([*_TRY, "segment"])["latency_ns"]
    table = pd.DataFrame({"latency_items": groups.size()})
    median_ms = groups.median().astype("float64") / 1e6
    table["latency_median_ms"] = median_ms.where(table["latency_items"] >= MIN_ITEMS)
    return table


def throughput(items: pd.DataFrame, batches: dict[str, int]) -> pd.DataFrame:
    """Images per second by try and segment, by completions at the source.

    An item that saw the link change ends a stretch; the n completions of a stretch bound n - 1
    periods.
    """
    phase = items[items["phase"] == "throughput"].sort_values([*_TRY, "seq"])
    key = phase[[*_TRY, "segment"]].fillna({"segment": -1})
    begins = (key != key.shift()).any(axis=1)
    inside = phase.assign(stretch=begins.cumsum())[phase["segment"].notna()]
    stretches = inside.groupby([*_TRY, "segment", "stretch"])["done_ns"].agg(["size", "min", "max"])
    seconds = (stretches["max"] - stretches["min"]).astype("float64") / 1e9
    groups = stretches.assign(periods=stretches["size"] - 1, seconds=seconds)
    table = groups.groupby([*_TRY, "segment"])[["size", "periods", "seconds"]].sum()
    images = table["periods"] * table.index.get_level_values("point").map(batches)
    known = (table["size"] >= MIN_ITEMS) & (table["seconds"] > 0)
    return pd.DataFrame(
        {
            "throughput_items": table["size"],
            "throughput_images_s": (images / table["seconds"]).astype("float64").where(known),
        }
    )


def _planned(run: Run) -> list[dict[str, Any]]:
    """The points over traces, by segment."""
    rows = []
    for point in run.plan.points:
        link = run.plan.link(point.link)
        if link.timetable is None:
            continue
        own = {name: getattr(point, name) for name in ("model", "link", "backend", "window")}
        for number, part in enumerate(link.segments):
            row = {
                "point": point.id,
                "split": "+".join(point.split),
                "segment": number,
                "start_s": link.timetable.starts_s[number],
                "duration_s": link.timetable.durations_s[number],
                "asked": described(part.forward_path(len(point.placement))),
            }
            rows.append(own | row)
    return rows


def _means(figures: pd.DataFrame, point: str, segment: int) -> dict[str, Any]:
    """Figures of one point in one segment: items of all replicates, means of those that have it."""
    found = figures[(figures["point"] == point) & (figures["segment"] == segment)]
    return {
        name: int(found[name].sum()) if name.endswith("_items") else _mean(found[name])
        for name in figures.columns.difference([*_TRY, "segment"])
    }


def _path(run: Run, complete: pd.DataFrame, row: dict[str, Any]) -> dict[str, float]:
    """What the stages measured of the link while the segment was held."""
    tried = complete.loc[complete["point"] == row["point"], ["session", "attempt"]]
    source = run.probes[run.probes["rank"] == 0]
    found: dict[str, list[float]] = {
        f"{name}_{when}_{unit}": [] for when in WHEN for name, unit in _PROBED
    }
    for session, number in tried.itertuples(index=False, name=None):
        taken = source[(source["session"] == session) & (source["attempt"] == number)]
        [attempt] = [each for each in run.attempts.of(session) if each.number == number]
        taken = around(taken, attempt.points.index(row["point"]))
        for when, probe in probes_of(taken, row["segment"]).items():
            alone, goodput = probe["datagrams"], probe["goodput_mbit"]
            times = alone.round_trip_ns if alone else probe["round_trip_ns"]
            found[f"round_trip_{when}_ms"].append(np.median(times) / 1e6 if times else np.nan)
            found[f"goodput_{when}_mbit"].append(goodput[0] if goodput else np.nan)
    return {name: _mean(pd.Series(values, dtype="float64")) for name, values in found.items()}


def _mean(part: pd.Series) -> float:
    """The mean of what is known."""
    return float(part.astype("float64").mean())
