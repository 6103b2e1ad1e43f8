"""What each replicate of each point measured: raw frames to one row per point and replicate."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pandas as pd

from analysis.certificate import LATE_MS, certificates
from analysis.columns import PERCENTILE_ITEMS, STAGES
from analysis.load import CONTROLLER, Run
from paretopipe_worker.backends import BACKENDS
from paretopipe_worker.plan import Plan, Point
from paretopipe_worker.spec import MIN_ITEMS

MEASURED = ("latency", "throughput")
"""Phases whose items count."""

WIRE_SHARE = 1.2
"""What may cross for a byte of payload, beside the backend's framing of each message."""

_SHORTEST_NS = 10_000
"""CPU time below which its ratio says nothing: `@last` leaves the source next to no computation."""

_TRY = ["session", "attempt", "point"]


def replicates(run: Run) -> pd.DataFrame:
    """Measure every replicate of every point.

    Returns
    -------
    One row per point and replicate of the plan: ``status`` (``ok``, ``failed``, ``missing``),
    ``reason``, and the figures of that replicate, null where it has none.
    """
    chosen = choose(tries(run))
    complete = chosen.loc[chosen["status"] == "ok", _TRY]
    items = run.items.merge(complete, on=_TRY)
    phases = run.phases.merge(complete, on=_TRY)
    source = items[items["rank"] == 0]
    batches = {point.id: point.batch for point in run.plan.points}
    figures = (
        latency(source),
        throughput(source.assign(batch=source["point"].map(batches))),
        stages(items),
        endings(phases, run.plan.experiment.phases.min_items),
        crossing(phases.merge(_expected(run.plan), on=["session", "point", "rank"])),
        lateness(phases),
        run.points.merge(complete, on=_TRY)[[*_TRY, "gate", "output", "max_relative_error"]],
    )
    for figure in figures:
        chosen = chosen.merge(figure, on=_TRY, how="left")
    chosen = chosen.merge(certificates(run), on=["session", "attempt"], how="left")
    return _refuse(chosen)


def tries(run: Run) -> pd.DataFrame:
    """List every attempt at every replicate of a point, and why it is not complete.

    Returns
    -------
    Columns session, replicate, point, attempt (null where nothing was tried), status, reason.
    """
    attempts = run.sessions.groupby("session")["attempt"].unique().to_dict()
    ended = {
        (row.session, row.attempt, row.point): row for row in run.points.itertuples(index=False)
    }
    done = set(
        run.phases[["session", "attempt", "point", "rank", "phase"]].itertuples(
            index=False, name=None
        )
    )
    needed = {point.id: _active_ranks(point) for point in run.plan.points}
    faults = _faults(run)
    rows: list[tuple[str, int, str, int | None, str, str | None]] = []
    for session in run.plan.sessions:
        for point in session.points:
            if session.id not in attempts:
                row = (session.id, session.replicate, point, None, "missing", "was not tried yet")
                rows.append(row)
            for attempt in attempts.get(session.id, ()):
                key = (session.id, attempt, point)
                end = ended.get(key)
                lacking = [
                    session.placement[rank]
                    for rank in needed[point]
                    if not all((*key, rank, phase) in done for phase in MEASURED)
                ]
                if end is None:
                    reason = faults.get(key[:2], "the session ended without this point")
                elif end.status == "failed":
                    reason = str(end.reason)
                elif lacking:
                    reason = f"records of {', '.join(lacking)} lack the end of a phase"
                    reason = "; ".join(filter(None, (reason, faults.get(key[:2]))))
                else:
                    reason = None
                status = "failed" if reason else "ok"
                rows.append((session.id, session.replicate, point, attempt, status, reason))
    columns = ["session", "replicate", "point", "attempt", "status", "reason"]
    frame = pd.DataFrame.from_records(rows, columns=columns)
    return frame.astype({"attempt": "Int64", "status": "str", "reason": "str"})


def choose(tried: pd.DataFrame) -> pd.DataFrame:
    """Keep the latest complete attempt at each replicate of a point, else the latest."""
    ranked = tried.assign(complete=tried["status"] == "ok").sort_values(
        ["complete", "attempt"], kind="stable"
    )
    last = ranked.drop_duplicates(["session", "point"], keep="last")
    return last.sort_index().drop(columns="complete").reset_index(drop=True)


def latency(source: pd.DataFrame) -> pd.DataFrame:
    """Response latency of each try, and the latency under load, from the source's items."""
    both = source.dropna(subset="latency_ns")
    ms = both.assign(ms=both["latency_ns"].astype("float64") / 1e6).groupby([*_TRY, "phase"])["ms"]
    table = pd.DataFrame({"items": ms.size(), "median": ms.median()})
    for percentile, needed in PERCENTILE_ITEMS.items():
        table[f"p{percentile}"] = ms.quantile(percentile / 100).where(table["items"] >= needed)
    table = table.reset_index()
    alone = table[table["phase"] == "latency"].drop(columns="phase")
    loaded = table.loc[table["phase"] == "throughput", [*_TRY, "median"]]
    alone = alone.rename(
        columns={
            name: f"latency_{name}" if name == "items" else f"latency_{name}_ms"
            for name in alone.columns.difference(_TRY)
        }
    )
    return alone.merge(
        loaded.rename(columns={"median": "loaded_latency_median_ms"}), on=_TRY, how="outer"
    )


def throughput(source: pd.DataFrame) -> pd.DataFrame:
    """Images per second of each try, by completions at the source in phase `throughput`.

    n completions bound n - 1 periods, in each of which `batch` images were finished.
    """
    finished = source[source["phase"] == "throughput"].dropna(subset="done_ns")
    groups = finished.groupby(_TRY)
    table = groups["done_ns"].agg(["size", "min", "max"]).join(groups["batch"].first())
    seconds = (table["max"] - table["min"]).astype("float64") / 1e9
    rate = table["batch"] * (table["size"] - 1) / seconds
    return pd.DataFrame(
        {
            "throughput_items": table["size"],
            "throughput_images_s": rate.where((table["size"] >= MIN_ITEMS) & (seconds > 0)),
        }
    ).reset_index()


def stages(items: pd.DataFrame) -> pd.DataFrame:
    """Computation, CPU time and their ratio of each stage in each try, columns by rank."""
    counted = items[items["phase"].isin(MEASURED)]
    cpu = counted["cpu_ns"].where(counted["cpu_ns"] >= _SHORTEST_NS)
    values = pd.DataFrame(
        {
            "compute_ms": (counted["computed_ns"] - counted["start_ns"]) / 1e6,
            "cpu_ms": counted["cpu_ns"] / 1e6,
            "wall_over_cpu": counted["compute_ns"] / cpu,
        }
    )
    medians = pd.concat([counted[[*_TRY, "rank", "phase"]], values], axis=1)
    table = medians.groupby([*_TRY, "rank", "phase"])[list(values)].median().reset_index()
    prefix = {"latency": "", "throughput": "loaded_"}
    wide = medians[_TRY].drop_duplicates()
    for rank, (phase, start) in itertools.product(range(STAGES), prefix.items()):
        part = table[(table["rank"] == rank) & (table["phase"] == phase)]
        part = part.drop(columns=["rank", "phase"]).set_index(_TRY)
        wide = wide.join(part.add_prefix(f"stage{rank}_{start}"), on=_TRY)
    return wide


def endings(phases: pd.DataFrame, min_items: int) -> pd.DataFrame:
    """What ended the source's phases of each try, and whether they hold too few items."""
    source = phases[phases["rank"] == 0]
    table = source.drop_duplicates([*_TRY], keep="last")[_TRY]
    for phase in MEASURED:
        ended = source.loc[source["phase"] == phase, [*_TRY, "ended_by", "items"]]
        ended = ended.assign(items=ended["items"] < min_items)
        names = {"ended_by": f"{phase}_ended_by", "items": f"{phase}_short"}
        table = table.merge(ended.rename(columns=names), on=_TRY, how="left")
    return table


def crossing(phases: pd.DataFrame) -> pd.DataFrame:
    """Hold what each try's ranks sent against what they were to send and what was counted.

    Parameters
    ----------
    phases
        Phase ends, with the columns ``hop_bytes``, what the rank is to send for each item, and
        ``framing_bytes``, the most that its backend may need besides for each message.
    """
    expected = phases["items"] * phases["hop_bytes"]
    sent, wire = phases["payload_sent_bytes"], phases["wire_sent_bytes"]
    # Warm-up is in what was sent but not in the count of items; a mark ends each phase.
    messages = sent / phases["hop_bytes"].where(phases["hop_bytes"] > 0) + 1
    most = WIRE_SHARE * sent + phases["framing_bytes"] * messages.fillna(1)
    most += phases["retransmitted_bytes"].fillna(0)
    wrong = (sent < expected) | ((expected == 0) & (sent > 0))
    wrong |= ((wire < sent) | (wire > most)).fillna(False)
    rows = phases.assign(expected_bytes=expected, wrong=wrong.astype("bool"))
    groups = rows.groupby(_TRY)
    table = groups[["expected_bytes", "payload_sent_bytes"]].sum()
    table["wire_sent_bytes"] = groups["wire_sent_bytes"].agg(_total).astype("Int64")
    crossed = ~groups["wrong"].any().astype("boolean")
    unproven = table["wire_sent_bytes"].isna() | (table["expected_bytes"] == 0)
    table["crossed"] = crossed.mask(unproven & crossed)
    return table.reset_index()


def _total(part: pd.Series) -> Any:
    """Sum, null where a part is."""
    return part.sum(skipna=False)


def lateness(phases: pd.DataFrame) -> pd.DataFrame:
    """How late relays sent each try's packets: the worst rank and phase."""
    worst = phases.groupby(_TRY)["relay_late_p99_ns"].max().astype("float64") / 1e6
    table = worst.rename("relay_late_p99_ms").reset_index()
    late = table["relay_late_p99_ms"]
    return table.assign(link_late=(late > LATE_MS).astype("boolean").mask(late.isna()))


def _refuse(measured: pd.DataFrame) -> pd.DataFrame:
    """Fail the replicates whose figures must not be used, saying why, and take those away."""
    reasons = measured["reason"].astype("object").where(measured["reason"].notna(), None)
    for phase in reversed(MEASURED):
        count = measured[f"{phase}_items"].fillna(0)
        few = (measured["status"] == "ok") & (count < MIN_ITEMS)
        text = f"phase {phase} has " + count.astype("int64").astype("str")
        reasons = reasons.mask(few, text + f" items, at least {MIN_ITEMS} are needed")
    reasons = reasons.mask(
        measured["crossed"].eq(False).fillna(False).astype("bool"), _bytes_differ(measured)
    )
    status = measured["status"].mask((measured["status"] == "ok") & reasons.notna(), "failed")
    table = measured.assign(status=status, reason=reasons.astype("str"))
    figures = table.columns.difference(
        ["session", "replicate", "point", "attempt", "status", "reason"]
    )
    table[figures] = table[figures].where(status == "ok")
    return table


def _bytes_differ(measured: pd.DataFrame) -> pd.Series:
    """Say for each row what was to cross and what did."""
    return pd.Series(
        [
            f"{row.expected_bytes} bytes were to cross, {row.payload_sent_bytes} were handed to "
            f"the transport, the network counted {row.wire_sent_bytes}"
            for row in measured.itertuples(index=False)
        ],
        index=measured.index,
        dtype="object",
    )


def _active_ranks(point: Point) -> list[int]:
    """Ranks with a part in a point: the source, and whoever something is sent to."""
    return [0] + [rank for rank, hop in enumerate(point.hops[:-1], start=1) if hop]


def _expected(plan: Plan) -> pd.DataFrame:
    """What each rank is to send for one item of each point, by its session's backend."""
    rows = [
        (session.id, name, rank, sent, BACKENDS[session.backend].framing_bytes)
        for session in plan.sessions
        for name in session.points
        for rank, sent in enumerate(plan.point(name).hop_bytes)
    ]
    columns = ["session", "point", "rank", "hop_bytes", "framing_bytes"]
    return pd.DataFrame.from_records(rows, columns=columns)


def _faults(run: Run) -> dict[tuple[str, int], str]:
    """Why each attempt at a session broke, as its hosts and the controller saw it."""
    faults: dict[tuple[str, int], str] = {}
    for _, files in run.sessions.groupby(["session", "attempt"]):
        session, attempt = str(files["session"].iloc[0]), int(files["attempt"].iloc[0])
        placement = run.plan.session(session).placement
        found = dict.fromkeys(_complaints(files.sort_values("rank").to_dict("records"), placement))
        if found:
            faults[session, attempt] = "; ".join(found)
    return faults


def _complaints(files: list[dict[Any, Any]], placement: tuple[str, ...]) -> Iterator[str]:
    """What is wrong with one attempt's files, the controller's view first."""
    for file in files:
        if file["status"] == "failed":
            # A stage's reason begins with its host's name; the controller's need not.
            yield f"controller: {file['reason']}" if file["rank"] == CONTROLLER else file["reason"]
        elif file["status"] == "truncated":
            yield f"{file['host']}: records were cut short"
    written = {file["host"] for file in files}
    yield from (f"{host}: no records" for host in placement if host not in written)
