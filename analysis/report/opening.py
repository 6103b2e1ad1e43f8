"""What the page says first: what to be wary of, and the answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from analysis.answers import hosts, regret
from analysis.answers.splitting import UNKNOWN, UNSURE
from analysis.answers.summary import short_titles
from analysis.answers.telling import brought, never_far, title
from analysis.column import CHOICES, LEAST_REPLICATES, OBJECTIVES
from analysis.figures.captions import LINK, worded
from analysis.run import Run
from analysis.tables import front
from paretopipe_worker.plan.labels import readable

_NOUN = {column: name for name, column in CHOICES.items()}
_LACKING = (
    ("failed", "failed", "failed"),
    ("missing", "was never tried", "were never tried"),
    ("skipped", "was skipped by the guided sweep", "were skipped by the guided sweep"),
)
_TONES = {"better": "pays", "open": "open", "worse": "not"}


def warnings(document: Mapping[str, Any], points: pd.DataFrame) -> Iterator[str]:
    """What a reader must know before any figure.

    Parameters
    ----------
    document
        As :func:`analysis.pareto.analyse` returns it.
    points
        The table ``points.csv``.
    """
    counts = document["points"]
    measured = points[points["status"] == "ok"]
    if not counts["ok"]:
        yield "No point was measured: there is nothing to compare."
    elif (least := int(measured["replicates"].min())) < LEAST_REPLICATES:
        many = "once" if least == 1 else f"{least} times"
        some = "Every point" if measured["replicates"].nunique() == 1 else "Some points"
        verb = "was" if some == "Every point" else "were"
        yield (
            f"{some} {verb} measured {many}. Fewer than {LEAST_REPLICATES} replicates give no "
            "intervals and no probabilities: how sure these results are is not known."
        )
    total = len(points)
    for status, one, several in _LACKING:
        if number := int((points["status"] == status).sum()):
            yield f"{number} of {total} points {one if number == 1 else several}."
    if (number := len(document["marked"])) and not document["uncertified"]:
        yield (
            f"{number} of {total} points {_were(number)} left off the fronts: their link was "
            "not as asked for."
        )
    if number := len(document["disturbed"]):
        yield f"{number} of {total} points {_were(number)} measured on a disturbed host."
    yield from document["warnings"]


def _were(number: int) -> str:
    """The verb for so many."""
    return "was" if number == 1 else "were"


def cards(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The verdict and the choice of each group.

    Returns
    -------
    For each group ``title``, ``headline``, ``tone`` (``pays``, ``open``, ``not`` or ``unknown``),
    ``clauses``, each with what it is of and its own tone, ``take``, what to choose, ``why``
    there is no verdict, and ``note``,
    where how sure it is is known of others and not of this group.
    """
    verdicts = document["verdicts"]
    found = []
    for row, name in zip(verdicts, short_titles(verdicts), strict=True):
        gains = row["gains"]
        tones = [_TONES[gain["verdict"]] for gain in gains.values()]
        tone = next((each for each in ("pays", "open", "not") if each in tones), "unknown")
        clauses = [
            {"of": _NOUN[name], "text": _upper(gain["clause"]), "tone": _TONES[gain["verdict"]]}
            for name, gain in gains.items()
        ]
        found.append(
            {
                "title": name,
                "headline": _upper(row["headline"]),
                "tone": tone,
                "clauses": clauses,
                "take": _choice(document["choices"], row) if gains else None,
                "why": "" if gains else _upper(row["text"].removeprefix(f"{UNKNOWN}: ")),
            }
        )
    gains_of = [row["gains"].values() for row in verdicts]
    unsure = [any(gain["probability"] is None for gain in gains) for gains in gains_of]
    for card, lacks in zip(found, unsure, strict=True):
        card["note"] = UNSURE.strip(" ()") if lacks and not all(unsure) else ""
    return found


def _choice(choices: list[dict[str, Any]], group: Mapping[str, Any]) -> dict[str, Any] | None:
    """What to take in a group; None where number formats compete in a wider one."""
    for choice in choices:
        if all(choice.get(name) == group[name] for name in front.GROUP):
            return choice
    return None


def further(document: Mapping[str, Any]) -> list[str]:
    """The answers beyond single groups: of fronts over formats, over all links, and of hosts."""
    wider = [row for row in document["choices"] if not set(front.GROUP) <= set(row)]
    found = [f"{title(row)}: {chosen(row)}" for row in wider]
    for rows, shared, told in (
        (document["across_links"], regret.SHARED, never_far),
        (document["hosts"], hosts.SHARED, brought),
    ):
        differ = [name for name in shared if len({row[name] for row in rows}) > 1]
        for row in rows:
            where = ", ".join(_where(name, row[name]) for name in differ)
            found.append(f"{where}: {told(row)}" if where else _upper(told(row)))
    return [f"{line}." for line in found]


def _where(name: str, value: object) -> str:
    """One condition of an answer in words."""
    return f"over {value}" if name == LINK else worded(name, value)


def chosen(choice: Mapping[str, Any]) -> str:
    """What to take, or why nothing can be."""
    if choice["split"] is None:
        return str(choice["why"])
    return f"take {choice['split']}: the {choice['why']}"


def facts(run: Run, points: pd.DataFrame) -> list[tuple[str, str]]:
    """What was measured, where and when, in a few words each."""
    started = [int(each) for each in run.stages["started_unix_ns"] if not pd.isna(each)]
    replicates = points.loc[points["status"] == "ok", "replicates"]
    span = sorted({int(each) for each in replicates})
    told = [
        ("Run", run.plan.run),
        ("Models", ", ".join(points["model"].unique())),
        ("Hosts", "; ".join(map(readable, points["placement"].unique()[:4]))),
        ("Points", f"{(points['status'] == 'ok').sum()} of {len(points)} measured"),
        ("Replicates", f"{span[0]} to {span[-1]}" if span[1:] else str(span[0]) if span else "0"),
    ]
    if started:
        told.append(
            ("Measured", datetime.fromtimestamp(min(started) / 1e9, UTC).strftime("%d %B %Y"))
        )
    stretched = [host for host in run.plan.hosts if host.device_emulated != 1]
    emulated = [f"{host.name} ({host.device_emulated:g} times)" for host in stretched]
    if emulated:
        told.append(("Stretched", ", ".join(emulated)))
    return told


def weighed(objectives: Mapping[str, str]) -> str | None:
    """The objectives of the fronts, where they are not the usual ones."""
    if dict(objectives) == dict(OBJECTIVES):
        return None
    return ", ".join(_NOUN[name] for name in objectives)


def _upper(text: str) -> str:
    """The text with a capital letter."""
    return text[:1].upper() + text[1:]
