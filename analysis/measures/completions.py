"""Throughput from completions at the source, over whole windows, and reasons to doubt it."""

from __future__ import annotations

from typing import Any

import pandas as pd

from paretopipe_worker.plan.experiment import MIN_ITEMS
from paretopipe_worker.plan.window import needed, whole

LITTLE_OFF = 0.03
"""Share by which throughput times mean latency may differ from the window."""


def whole_windows(items: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Count the completions of each group's whole windows, and their time.

    Results may come home in bursts of a window each. A rate is therefore computed over whole
    windows only, see :func:`paretopipe_worker.plan.window.whole`.

    Parameters
    ----------
    items
        The source's items, with their ``done_ns``, ``latency_ns`` and the ``window`` of their leg.
    by
        Columns that identify a group.

    Returns
    -------
    One row per group: ``items``, their number; ``window``; ``periods``, the number of intervals
    between the completions of whole windows; ``seconds``, the time from the first of these
    completions to the last; ``mean_latency_ms`` of the items that completed in that time.
    """
    known = items.dropna(subset=["done_ns", "latency_ns"])
    ordered = known.sort_values([*by, "done_ns"], kind="stable").reset_index(drop=True)
    groups = ordered.groupby(by)
    number, size = groups.cumcount(), groups["done_ns"].transform("size")
    inside = number <= whole(size, ordered["window"])  # type: ignore[arg-type]
    counted, later = (ordered[part].groupby(by) for part in (inside, inside & (number > 0)))
    table = pd.DataFrame({"items": groups.size(), "window": groups["window"].first()})
    table["periods"] = counted.size() - 1
    table["seconds"] = (counted["done_ns"].max() - counted["done_ns"].min()) / 1e9
    table["mean_latency_ms"] = later["latency_ns"].mean().astype("float64") / 1e6
    return table


def rates(windows: pd.DataFrame) -> pd.Series:
    """Items per second of each row of `whole_windows`, null where items are too few."""
    enough = windows["periods"] + 1 >= needed(windows["window"])  # type: ignore[arg-type]
    enough &= (windows["items"] >= MIN_ITEMS) & (windows["seconds"] > 0)
    return (windows["periods"] / windows["seconds"]).where(enough).astype("float64")


def little(windows: pd.DataFrame) -> pd.Series:
    """Throughput times mean latency, divided by the window: 1 in steady state by Little's law.

    J. Little, "A proof for the queuing formula L = lambda W", Operations Research 9, 1961. The
    ratio is below 1 where places in the window stayed empty because the source was busy with other
    items.
    """
    in_flight = rates(windows) * windows["mean_latency_ms"] / 1e3
    return (in_flight / windows["window"]).astype("float64")


def off(windows: pd.DataFrame) -> pd.Series:
    """Whether that ratio is off 1 by more than it may; null where there is no throughput."""
    ratio = little(windows)
    return ((ratio - 1).abs() > LITTLE_OFF).astype("boolean").mask(ratio.isna())


def notes(windows: pd.DataFrame) -> pd.Series:
    """Why each row has no throughput, or a reason to doubt it; null where there is none."""
    known = zip(windows.to_dict("records"), rates(windows), little(windows), strict=True)
    texts = [_note(row, rate, ratio) for row, rate, ratio in known]
    return pd.Series(texts, index=windows.index, dtype="object").astype("str")


def _note(row: dict[Any, Any], rate: float, ratio: float) -> str | None:
    """The note of one leg."""
    if pd.isna(rate):
        least = max(MIN_ITEMS, needed(int(row["window"])))
        return (
            f"no throughput: {row['items']:.0f} items before the leg's maximum time; with "
            f"{row['window']:.0f} in flight {least} make two whole windows"
        )
    if abs(ratio - 1) <= LITTLE_OFF:
        return None
    if ratio < 1:
        free = f"{1 - ratio:.0%} of the window's places were free on average"
        return f"{free}: the source was busy with other items, or the leg was not steady"
    return f"not steady: throughput times mean latency is {ratio:.2f} times the window"
