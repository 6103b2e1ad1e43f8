"""The analysis of a run as text: its fronts, and the points that lack figures or are in doubt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.answers.summary import sentence
from analysis.answers.telling import title, told
from analysis.report import backends, guided
from analysis.tables import front
from analysis.tables.certainty import MOST_FURTHER
from paretopipe_worker.plan.labels import (
    cuts_of,
    everything_on,
    hosts_of,
)

_SHOWN = {
    "split": "split",
    "latency_median_ms": "latency ms",
    "throughput_images_s": "images/s",
    "payload_bytes": "payload bytes",
    "output": "output",
}

_WITHOUT = ("failed", "missing", "skipped")
_PROBABILITY = "front_probability"
_SHOWN_OPEN = 5


def text(document: dict[str, Any]) -> str:
    """The result as text: each front as a table, failures, doubts, and the files written."""
    parts = [document["without_interval"]] if document["without_interval"] else []
    best = pd.DataFrame(document["front"])
    if best.empty:
        why = "all points are marked"
        if len(document["rateless"]) == document["points"]["ok"]:
            why = "no point has a throughput"
        if not document["points"]["ok"]:
            why = "no point was measured"
        parts.append(f"{why}: there is no front")
    else:
        objectives = document["objectives"]
        shared = front.group_of(objectives)
        for group, rows in best.groupby(shared, sort=False):
            heading = title(dict(zip(shared, group, strict=True)))
            parts.append(f"{heading}\n{_table(rows, objectives)}")
    if document["unresolved"]:
        parts.append("\n".join(_unresolved(document["unresolved"])))
    counts = document["points"]
    total = sum(counts.values())
    said = f"{counts['ok']} of {total} points measured"
    said += "".join(f", {counts[name]} {name}" for name in _WITHOUT if counts[name])
    parts.append("\n".join([said, *_reasons(document["failures"])]))
    if document["guided"]:
        parts.append(guided.told(document["guided"], counts["ok"]))
    if document["rateless"]:
        parts.append("\n".join(_rateless(document["rateless"])))
    if document["unsteady"]:
        parts.append(_unsteady(document["unsteady"]))
    if document["marked"]:
        parts.append("\n".join(_marks(document["marked"], document["uncertified"])))
    if document["late"]:
        parts.append("\n".join(_late(document["late"])))
    if document["disturbed"]:
        parts.append("\n".join(_disturbed(document["disturbed"])))
    if document["apart"]:
        parts.append("\n".join(_apart(document["apart"])))
    if document["unclocked"]:
        parts.append("\n".join(_unclocked(document["unclocked"])))
    if document["unattributed"]:
        parts.append("\n".join(_unattributed(document["unattributed"])))
    if document["backends"]:
        parts.append(backends.text(pd.DataFrame(document["backends"])))
    parts.append(_processes(document["processes"]))
    parts.append("\n".join(["written:", *(f"  {file}" for file in document["files"])]))
    parts.append("\n".join(["Where to split?", *told(document)]))
    parts.append(f"{sentence(document['verdicts'])}\nReport: {document['report']}")
    return "\n\n".join(parts)


def _table(rows: pd.DataFrame, objectives: Mapping[str, str]) -> str:
    """The points of one front, best first: what differs between them, and all objectives."""
    pairs = zip(rows["split"], rows["placement"], strict=True)
    splits = [everything_on(cuts_of(split), hosts_of(hosts)) or split for split, hosts in pairs]
    differ = [name for name in front.GROUP if rows[name].nunique() > 1]
    columns = ["split", *differ, *_SHOWN, *(name for name in objectives if name not in _SHOWN)]
    # Too few replicates leave it null.
    columns += [_PROBABILITY] if rows[_PROBABILITY].notna().any() else []
    shown = rows.assign(split=splits)[list(dict.fromkeys(columns))]
    names = _SHOWN | {_PROBABILITY: "probability"}
    return shown.rename(columns=names).to_string(index=False, float_format=_number)


def _unresolved(rows: list[dict[str, Any]]) -> list[str]:
    """Which points may be on the front or not, and how many more replicates would tell."""
    shown = []
    for row in sorted(rows, key=lambda row: abs(row[_PROBABILITY] - 0.5))[:_SHOWN_OPEN]:
        more = row["further_replicates"]
        needed = f"more than {more}" if more >= MOST_FURTHER else f"about {more}"
        shown.append(
            f"  {row['split']} ({row['model']}, {row['link']}, {row['backend']}): "
            f"{row[_PROBABILITY]:.0%} probable; {needed} more replicates would tell"
        )
    return [
        f"{_count(len(rows), 'point')} of which the replicates do not tell whether they are on the "
        "front (front_probability):",
        *shown,
        *([f"  and {len(rows) - _SHOWN_OPEN} more"] if rows[_SHOWN_OPEN:] else []),
    ]


def _number(value: float) -> str:
    """A figure: with two decimals, or two digits where it is small."""
    return f"{value:.2f}" if value == 0 or abs(value) >= 0.1 else f"{value:.2g}"


def _reasons(failures: list[dict[str, Any]]) -> list[str]:
    """Why points have no figures: each reason once, with its points and their tries."""
    splits: dict[str, list[str]] = {}
    for row in failures:
        where = f"{row['split']} ({row['model']}, {row['link']}, {row['backend']}"
        where += f"; {_count(row['tries'], 'try', 'tries')})" if row["tries"] else ")"
        splits.setdefault(row["reason"], []).append(where)
    return [
        f"  {reason}: {', '.join(where[:3])}" + (f" and {len(where) - 3} more" * (len(where) > 3))
        for reason, where in splits.items()
    ]


def _marks(rows: list[dict[str, Any]], uncertified: bool) -> list[str]:
    """How many points have a link that was not as asked for, by link, and what follows."""
    where = "on the front all the same" if uncertified else "left off the front; see --uncertified"
    reasons: dict[str, int] = {}
    for row in rows:
        text = f"{row['link']}: {row['link_certificate']}"
        reasons[text] = reasons.get(text, 0) + 1
    said = f"{len(rows)} points have a link that was not as asked for ({where}):"
    again = "  -e retry_uncertified=true measures them again"
    return [said, *(f"  {count} over {text}" for text, count in reasons.items()), again]


def _rateless(rows: list[dict[str, Any]]) -> list[str]:
    """How many points have no throughput, with one of the reasons for each link."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        reasons.setdefault(row["link"], []).append(row["throughput_note"])
    said = f"{_count(len(rows), 'point')} without a throughput (throughput_note):"
    return [said, *(f"  {len(by)} over {link}: {by[0]}" for link, by in reasons.items())]


def _unsteady(rows: list[dict[str, Any]]) -> str:
    """How many points were measured although their items were not steady, by link."""
    links = pd.Series([row["link"] for row in rows]).value_counts(sort=False)
    where = ", ".join(f"{count} over {link}" for link, count in links.items())
    return (
        f"{_count(len(rows), 'point')} of which a leg began although its items never became "
        f"steady (…_warmup_ended_by; see phases.warmup_items): {where}"
    )


def _late(rows: list[dict[str, Any]]) -> list[str]:
    """How many points of each link a relay was late for, and by how much at most."""
    worst: dict[str, list[float]] = {}
    for row in rows:
        worst.setdefault(row["link"], []).append(row["relay_late_p99_ms"])
    said = f"{len(rows)} points were measured while the relay was late (link_late):"
    return [
        said,
        *(f"  {len(by)} over {link}: by {max(by):.1f} ms at most" for link, by in worst.items()),
    ]


def _disturbed(rows: list[dict[str, Any]]) -> list[str]:
    """Which points were measured on a disturbed host, and what disturbed it."""
    shown = []
    for row in rows[:5]:
        first, *others = row["disturbances"].split("; ")
        more = f", and {len(others)} more" if others else ""
        shown.append(f"  {row['split']} over {row['link']}: {first}{more}")
    return [
        f"{_count(len(rows), 'point')} measured on a disturbed host (disturbed), after "
        f"{_count(int(sum(row['legs_again'] for row in rows)), 'leg')} measured again:",
        *shown,
        *([f"  and {len(rows) - 5} more, see disturbances in points.csv"] if rows[5:] else []),
    ]


def _apart(rows: list[dict[str, Any]]) -> list[str]:
    """How many points were measured while other sources were not for part of the time, by link."""
    shares: dict[str, list[float]] = {}
    for row in rows:
        shares.setdefault(row["link"], []).append(row["overlap_share"])
    said = (
        f"{_count(len(rows), 'point')} not shared with all other sources for long (overlap_note):"
    )
    return [
        said,
        *(f"  {len(by)} over {link}: {min(by):.2f} at least" for link, by in shares.items()),
    ]


def _unclocked(rows: list[dict[str, Any]]) -> list[str]:
    """How many points have no forward latency, with one of the reasons for each link."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        reasons.setdefault(row["link"], []).append(row["clock_note"])
    said = f"{_count(len(rows), 'point')} without a forward latency (clock_note):"
    return [said, *(f"  {len(by)} over {link}: {by[0]}" for link, by in reasons.items())]


def _unattributed(rows: list[dict[str, Any]]) -> list[str]:
    """How many points have parts that do not add up to their latency, by link and backend."""
    where: dict[str, list[str]] = {}
    for row in rows:
        where.setdefault(f"{row['link']}, {row['backend']}", []).append(row["split"])
    said = f"{_count(len(rows), 'point')} whose time is not all attributed (attribution_ok):"
    return [said, *(f"  {len(by)} over {at}: {', '.join(by[:3])}" for at, by in where.items())]


def _processes(told: dict[str, int]) -> str:
    """How many stage processes were started, as the records prove."""
    said = f"{_count(told['started'], 'stage process', 'stage processes')} started for "
    said += f"{_count(told['attempts'], 'session')}, in which {told['points']} points were walked"
    if told["cut_short"]:
        said += f"; {told['cut_short']} of the processes ended without a last line"
    return said


def _count(number: int, one: str, several: str | None = None) -> str:
    """A number of things in words."""
    return f"{number} {one if number == 1 else several or one + 's'}"
