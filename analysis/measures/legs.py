"""The legs of points: which of them count, how they ended, what crossed, and what disturbed them.

A point has one leg for each phase of the experiment, and for each offered rate. A leg that was
disturbed is measured again: then the last leg counts, and those before it stay in the records.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from analysis.column import (
    ANY,
    FEWEST,
    GREATEST,
    TOGETHER,
    TOTAL,
    UNMEASURED,
    Column,
    worst,
)
from analysis.measures.certificate import LATE_MS
from analysis.measures.reduction import together
from analysis.run import Run
from paretopipe_worker.plan.attempts import MEASURED

TRY = ["session", "attempt", "point"]
"""Columns that identify one attempt at one replicate of a point."""


def last_legs(legs: pd.DataFrame) -> pd.DataFrame:
    """The legs that count, as the source saw them: the last of each phase and offered rate.

    Returns
    -------
    The columns of :data:`TRY`, phase, leg.
    """
    source = legs[legs["rank"] == 0].sort_values("leg", kind="stable")
    last = source.drop_duplicates([*TRY, "phase", "offered_per_s"], keep="last")
    return last[[*TRY, "phase", "leg"]].reset_index(drop=True)


def of_last_legs(frame: pd.DataFrame, legs: pd.DataFrame) -> pd.DataFrame:
    """The rows of items, or of legs, that belong to a leg that counts."""
    return frame.merge(last_legs(legs), on=[*TRY, "phase", "leg"])


def that_count(run: Run, complete: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The items and the ends of the legs that count, of all ranks.

    Parameters
    ----------
    complete
        The tries that count, with the columns of :data:`TRY`.
    """
    legs = run.legs.merge(complete, on=TRY)
    return of_last_legs(run.items, legs), of_last_legs(legs, legs)


def endings(counted: pd.DataFrame, min_items: int) -> pd.DataFrame:
    """How the source's legs of each try warmed up and ended, and whether they have too few items.

    Parameters
    ----------
    counted
        Ends of the legs that count.
    """
    source = counted[counted["rank"] == 0]
    table = source[TRY].drop_duplicates()
    told = ["ended_by", "items", "warmup_items", "warmup_ended_by"]
    for phase in MEASURED:
        ended = source.loc[source["phase"] == phase, [*TRY, *told, "window"]]
        ended = ended.assign(items=ended["items"] < min_items)
        names = {name: f"{phase}_{name}" for name in told} | {"items": f"{phase}_short"}
        names |= {"window": "window_used"} if phase == "throughput" else {}
        ended = ended.rename(columns=names)
        table = table.merge(ended[[*TRY, *names.values()]], on=TRY, how="left")
    return table


def crossing(legs: pd.DataFrame) -> pd.DataFrame:
    """Sum what each try's ranks sent, and say whether the network counted it.

    In a try that counts, the bytes that the network counted are those that were to cross (see
    :meth:`paretopipe_worker.plan.attempts.Attempt.outcome`).

    Parameters
    ----------
    legs
        Ends of all legs, those included that do not count, of tries that count.
    """
    groups = legs.groupby(TRY)
    table = groups[["payload_sent_bytes"]].sum()
    # Null where a part is.
    table["wire_sent_bytes"] = groups["wire_sent_bytes"].sum(skipna=False).astype("Int64")
    proven = table["wire_sent_bytes"].notna() & (table["payload_sent_bytes"] > 0)
    table["crossed"] = proven.astype("boolean").where(proven)
    return table.reset_index()


def lateness(counted: pd.DataFrame) -> pd.DataFrame:
    """How late relays sent each try's packets: the worst rank and leg of those that count."""
    latest = counted.groupby(TRY)["relay_late_p99_ns"].max().astype("float64") / 1e6
    table = latest.rename("relay_late_p99_ms").reset_index()
    late = table["relay_late_p99_ms"]
    return table.assign(link_late=(late > LATE_MS).astype("boolean").mask(late.isna()))


def disturbances(legs: pd.DataFrame) -> pd.DataFrame:
    """What disturbed the latency and throughput legs that count, and how many were measured again.

    Parameters
    ----------
    legs
        Ends of all legs.
    """
    source = legs[legs["rank"] == 0]
    table = source.groupby(TRY).size().rename("legs_again").reset_index()
    table = table.merge(last_legs(legs).groupby(TRY).size().rename("last").reset_index(), on=TRY)
    table["legs_again"] -= table["last"]
    counted = of_last_legs(legs, legs).sort_values(["leg", "rank"], kind="stable")
    counted = counted[counted["phase"].isin(MEASURED)]
    said = list(map(_said, counted["host"], counted["phase"], counted["disturbed"]))
    texts = counted.assign(disturbances=pd.Series(said, index=counted.index, dtype="object"))
    joined = together(texts.groupby(TRY)["disturbances"]).rename("disturbances")
    table = table.merge(joined.reset_index(), on=TRY, how="left")
    return table.drop(columns="last").assign(disturbed=table["disturbances"].notna())


def _said(host: str, phase: str, disturbed: tuple[str, ...]) -> str | None:
    """What disturbed one leg on one host."""
    return f"{host}, {phase}: {', '.join(disturbed)}" if disturbed else None


def columns() -> Iterator[Column]:
    """Columns of warm-up, window and disturbances."""
    for phase in MEASURED:
        yield Column(
            f"{phase}_warmup_items",
            "items",
            f"Items of the warm-up before the {phase} phase, most over replicates.",
            UNMEASURED,
            over=GREATEST,
        )
        yield Column(
            f"{phase}_warmup_ended_by",
            "",
            f"What ended the warm-up of the {phase} phase: its items became `steady`; or its bound "
            "came first, in any replicate, and they were `never steady`.",
            UNMEASURED,
            over=worst("steady", "never steady"),
        )
    yield Column(
        "window_used",
        "items",
        "Items in flight in the throughput phase: `window`, or the number found to fill the path; "
        "fewest over replicates.",
        UNMEASURED,
        front=True,
        over=FEWEST,
    )
    yield Column(
        "legs_again",
        "legs",
        "Legs that were disturbed and measured again, sum over replicates; only the last leg of a "
        "phase counts.",
        UNMEASURED,
        over=TOTAL,
    )
    yield Column(
        "disturbed",
        "",
        "Whether a host was outside its band in the latency or throughput leg that counts, in any "
        "replicate.",
        UNMEASURED,
        front=True,
        over=ANY,
    )
    yield Column(
        "disturbances",
        "",
        "What disturbed those legs, by host and phase.",
        "nothing did",
        over=TOGETHER,
    )


def ending_columns() -> Iterator[Column]:
    """Columns of how the legs ended."""
    for phase in MEASURED:
        yield Column(
            f"{phase}_ended_by",
            "",
            f"What ended the {phase} phase: `minimum` (count and time were reached) or `maximum` "
            "(its time ran out), the latter if it did in any replicate.",
            UNMEASURED,
            over=worst("minimum", "maximum"),
        )
        yield Column(
            f"{phase}_short",
            "",
            f"Whether a replicate's {phase} phase has fewer items than the experiment's min_items.",
            UNMEASURED,
            over=ANY,
        )
