"""Legs of the points: which count, how they ended, what crossed, and how the hosts were meanwhile.

A phase of a point is one leg, but for those that were disturbed and measured again: then the last
leg counts, and those before it are kept in the records. Of offered load there is a leg per rate.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from analysis.column import IDLE, STAGES, UNMEASURED, Column
from analysis.measures.certificate import LATE_MS
from paretopipe_worker.plan.attempts import MEASURED
from paretopipe_worker.records.health import Health

TRY = ["session", "attempt", "point"]
"""What tells one attempt at one replicate of a point from all others."""


def last_legs(phases: pd.DataFrame) -> pd.DataFrame:
    """The legs that count, as the source saw them: of each phase and offered rate the last.

    Returns
    -------
    The columns of :data:`TRY`, phase, leg.
    """
    source = phases[phases["rank"] == 0].sort_values("leg", kind="stable")
    last = source.drop_duplicates([*TRY, "phase", "offered_per_s"], keep="last")
    return last[[*TRY, "phase", "leg"]].reset_index(drop=True)


def of_last_legs(frame: pd.DataFrame, phases: pd.DataFrame) -> pd.DataFrame:
    """Those rows of items or phases that belong to a leg that counts."""
    return frame.merge(last_legs(phases), on=[*TRY, "phase", "leg"])


def endings(counted: pd.DataFrame, min_items: int) -> pd.DataFrame:
    """How the source's legs of each try warmed up and ended, and whether they hold too few items.

    Parameters
    ----------
    counted
        Phase ends of legs that count.
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


def crossing(phases: pd.DataFrame) -> pd.DataFrame:
    """Sum what each try's ranks sent in all legs, and say whether the network counted it.

    Of tries that count: in those that do, what was counted is what was to cross (see
    :meth:`paretopipe_worker.plan.attempts.Attempt.outcome`).

    Parameters
    ----------
    phases
        Phase ends of all legs.
    """
    groups = phases.groupby(TRY)
    table = groups[["payload_sent_bytes"]].sum()
    table["wire_sent_bytes"] = groups["wire_sent_bytes"].agg(_total).astype("Int64")
    proven = table["wire_sent_bytes"].notna() & (table["payload_sent_bytes"] > 0)
    table["crossed"] = proven.astype("boolean").where(proven)
    return table.reset_index()


def _total(part: pd.Series) -> Any:
    """Sum, null where a part is."""
    return part.sum(skipna=False)


def lateness(counted: pd.DataFrame) -> pd.DataFrame:
    """How late relays sent each try's packets: the worst rank and phase."""
    worst = counted.groupby(TRY)["relay_late_p99_ns"].max().astype("float64") / 1e6
    table = worst.rename("relay_late_p99_ms").reset_index()
    late = table["relay_late_p99_ms"]
    return table.assign(link_late=(late > LATE_MS).astype("boolean").mask(late.isna()))


def disturbances(phases: pd.DataFrame) -> pd.DataFrame:
    """What disturbed the legs that count, of the phases every point has, and legs measured again.

    Parameters
    ----------
    phases
        Phase ends of all legs.
    """
    source = phases[phases["rank"] == 0]
    table = source.groupby(TRY).size().rename("legs_again").reset_index()
    table = table.merge(last_legs(phases).groupby(TRY).size().rename("last").reset_index(), on=TRY)
    table["legs_again"] -= table["last"]
    counted = of_last_legs(phases, phases).sort_values(["leg", "rank"], kind="stable")
    counted = counted[counted["phase"].isin(MEASURED)]
    said = list(map(_said, counted["host"], counted["phase"], counted["disturbed"]))
    texts = counted.assign(disturbances=pd.Series(said, index=counted.index, dtype="object"))
    joined = texts.groupby(TRY)["disturbances"].agg(together).reset_index()
    table = table.merge(joined, on=TRY, how="left")
    return table.drop(columns="last").assign(disturbed=table["disturbances"].notna())


def _said(host: str, phase: str, disturbed: tuple[str, ...]) -> str | None:
    """What disturbed one leg on one host."""
    return f"{host}, {phase}: {', '.join(disturbed)}" if disturbed else None


def together(texts: pd.Series) -> str | None:
    """What several say, each text once; null where none says anything."""
    return "; ".join(dict.fromkeys(texts.dropna())) or None


def hosts(counted: pd.DataFrame) -> pd.DataFrame:
    """How each stage's host was in the legs that count, columns by rank."""
    measured = counted[counted["phase"].isin(MEASURED)]
    seen = [_seen(health) for health in measured["health"]]
    values = pd.DataFrame(seen, columns=list(_HEALTH), index=measured.index)
    wide = measured[TRY].drop_duplicates()
    for rank in range(STAGES):
        mine = measured["rank"] == rank
        groups = pd.concat([measured.loc[mine, TRY], values[mine]], axis=1).groupby(TRY)
        part = pd.DataFrame({name: groups[name].agg(how) for name, how in _HEALTH.items()})
        wide = wide.join(part.add_prefix(f"stage{rank}_"), on=TRY)
    return wide


def _seen(health: Health | None) -> dict[str, Any]:
    """One leg's health, flat; null where the host did not tell."""
    if health is None:
        return dict.fromkeys(_HEALTH)
    return {
        "others_cpu": health.others_cpu,
        "cpu_mhz_min": health.cpu_mhz[0] if health.cpu_mhz else None,
        "governor": health.governor,
        "temperature_c_max": health.temperature_c,
        "throttled": None if health.throttled is None else ", ".join(health.throttled) or "no",
        "swapped_pages": health.swapped_pages,
        "peak_rss_bytes": health.peak_rss_bytes,
        "overslept": health.overslept,
    }


def _most(part: pd.Series) -> float:
    """The largest of those that are known."""
    return float(part.astype("float64").max())


def _least(part: pd.Series) -> float:
    """The smallest of those that are known."""
    return float(part.astype("float64").min())


def _sum(part: pd.Series) -> float:
    """The sum, null where a part is."""
    return float(part.astype("float64").sum(skipna=False))


def throttled(texts: pd.Series) -> str | None:
    """What the firmware did in any of several legs; null where it does not tell in any."""
    told = [text for text in texts if isinstance(text, str)]
    did = dict.fromkeys(name for text in told for name in text.split(", ") if name != "no")
    return ", ".join(did) or ("no" if told else None)


_HEALTH: dict[str, Any] = {
    "others_cpu": _most,
    "cpu_mhz_min": _least,
    "governor": together,
    "temperature_c_max": _most,
    "throttled": throttled,
    "swapped_pages": _sum,
    "peak_rss_bytes": _most,
    "overslept": _most,
}


def columns() -> Iterator[Column]:
    """Columns of warm-up, disturbances and hosts."""
    for phase in MEASURED:
        yield Column(
            f"{phase}_warmup_items",
            "items",
            f"Items before those of the {phase} phase that count, most over replicates.",
            UNMEASURED,
        )
        yield Column(
            f"{phase}_warmup_ended_by",
            "",
            f"What ended the warm-up of the {phase} phase: its items had become `steady`, or its "
            "bound came first in any replicate, and they were `never steady`.",
            UNMEASURED,
        )
    yield Column(
        "window_used",
        "items",
        "Items in flight in the throughput phase: `window`, or what was found to fill the path; "
        "fewest over replicates.",
        UNMEASURED,
        front=True,
    )
    yield Column(
        "legs_again",
        "legs",
        "Legs that were disturbed and measured again, sum over replicates; only the last leg of a "
        "phase counts.",
        UNMEASURED,
    )
    yield Column(
        "disturbed",
        "",
        "Whether a host was outside its band in the latency or throughput leg that counts, in any "
        "replicate.",
        UNMEASURED,
        front=True,
    )
    yield Column("disturbances", "", "What disturbed those legs, by host and phase.", "nothing did")
    for rank in range(STAGES):
        yield from _host_columns(rank)


def _host_columns(rank: int) -> Iterator[Column]:
    """Columns of one stage's host."""
    untold = f"the host does not tell, or {IDLE}"
    legs = "in the latency and throughput legs that count, all replicates"
    start = f"stage{rank}_"
    for name, unit, meaning in (
        ("others_cpu", "cores", "Cores that other processes used on average, the worst leg"),
        ("cpu_mhz_min", "MHz", "Lowest frequency of any core the stage may run on"),
        ("governor", "", "How the frequency was chosen"),
        ("temperature_c_max", "°C", "Highest temperature"),
        ("throttled", "", "What the firmware did (`under-voltage`, `throttled` …), or `no`"),
        ("swapped_pages", "pages", "Pages swapped in or out, sum"),
        ("peak_rss_bytes", "bytes", "Peak resident memory of the stage's process"),
    ):
        yield Column(f"{start}{name}", unit, f"{meaning}, {legs}: rank {rank}.", untold)
    yield Column(
        f"{start}overslept",
        "",
        "Share by which the stretched computation took longer than asked for, since waits ended "
        f"late: sum over sum of the items, the worst leg, {legs}: rank {rank}. Above 0.02 the leg "
        "is disturbed.",
        f"it is not stretched, its items take less than 0.1 ms of CPU time, or {IDLE}",
    )


OVER_REPLICATES: dict[str, tuple[Any, str]] = {
    **{f"{phase}_warmup_items": ("max", "Int64") for phase in MEASURED},
    "window_used": ("min", "Int64"),
    "legs_again": ("sum", "Int64"),
    "disturbances": (together, "str"),
    **{
        f"stage{rank}_{name}": (how, "str" if how in (together, throttled) else "float64")
        for rank in range(STAGES)
        for name, how in _HEALTH.items()
    },
}
"""How replicates become one figure of a point, and its dtype; what is not named is their mean."""

WORST: dict[str, tuple[object, ...]] = {
    **{f"{phase}_ended_by": ("minimum", "maximum") for phase in MEASURED},
    **{f"{phase}_short": (False, True) for phase in MEASURED},
    **{f"{phase}_warmup_ended_by": ("steady", "never steady") for phase in MEASURED},
    "disturbed": (False, True),
}
"""Where the worst of the replicates decides: values from best to worst."""
