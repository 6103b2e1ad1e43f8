"""What a comparison of two runs is made of, and how it is printed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from analysis.column import LEAST_REPLICATES
from analysis.measures.marks import MARKS, MEANING
from analysis.tables.front import GROUP

KEY = [*GROUP, "split"]
"""Columns that identify a point in any run."""

LEAST = 2
"""Replicates that an interval needs."""


def text(document: dict[str, Any]) -> str:
    """A comparison as text.

    Parameters
    ----------
    document
        What :func:`analysis.compare.compare` returns.
    """
    first, second = document["runs"]
    rows, many = document["rows"], len(document["rows"])
    points = len({tuple(row[name] for name in KEY) for row in rows})
    parts = [f"{second} against {first}: {points} points measured in both, by replicates"]
    alone = [
        f"{count} more in {run}"
        for run, count in zip(document["runs"], document["only_in"], strict=True)
        if count
    ]
    if alone:
        parts[0] += f" ({', '.join(alone)})"
    parts += _doubts(document)
    level = f"Holm, {1 - document['confidence']:.0%} for all together"
    sound, doubtful = (
        [row for row in document["differing"] if row["sound"] == wanted] for wanted in (True, False)
    )
    if sound:
        parts.append(
            f"{len(sound)} of {many} differences are not chance ({level}):\n{_table(sound)}"
        )
    if doubtful:
        parts.append(
            f"{len(doubtful)} of {many} differences are not chance ({level}), but rest on "
            f"replicates that are marked, and may be what those were marked for:\n"
            + _table(doubtful)
        )
    if not document["differing"]:
        parts.append(
            f"no difference: none of {many} excludes equality after Holm's correction "
            f"({1 - document['confidence']:.0%} for all together)"
        )
    width, aim = document["median_half_width_percent"], document["aim_percent"]
    said = "reached" if width <= aim else "missed: more replicates make it narrower"
    parts.append(
        f"median half-width of the {document['confidence']:.0%} intervals: {width:.2g} % "
        f"(aim: {aim:g} %, {said})"
    )
    if document["fronts"]:
        parts.append("\n".join(_fronts(document)))
    return "\n\n".join(parts)


def _doubts(document: dict[str, Any]) -> Iterator[str]:
    """What was left out of each run and why, and the share of the rest that is marked."""
    names = document["runs"]
    if lost := list(lost_of(names, document["left_out"])):
        yield "\n".join(lost)
    if document["too_few"]:
        row = document["too_few"][0]
        yield (
            f"{len(document['too_few'])} differences cannot be told, since fewer than {LEAST} "
            f"replicates count: {row['objective']} of '{row['split']}' over link "
            f"'{row['link']}' has {' and '.join(map(str, row['replicates']))}"
        )
    for number, name in enumerate(names):
        marks = [row["marks"][number] for row in document["rows"]]
        total = sum(row["replicates"][number] for row in document["rows"])
        counts = {mark: sum(counts[mark] for counts in marks) for mark in MARKS}
        said = [
            f"{100 * count / total:.2g} % {MEANING[mark]}"
            for mark, count in counts.items()
            if count
        ]
        if said:
            yield f"of the replicates of {name} that are compared, {', '.join(said)}"


def lost_of(names: Sequence[str], left_out: Sequence[dict[str, Any]]) -> Iterator[str]:
    """How many replicates of each run do not count, and why, as lines of text.

    Parameters
    ----------
    names
        The runs.
    left_out
        The document's entry of that name: one for each run.
    """
    for name, lost in zip(names, left_out, strict=True):
        if lost["replicates"]:
            yield (
                f"left out of {name}: {lost['replicates']} replicates of points whose link was not "
                "as asked for (--uncertified compares them, too):"
            )
            yield from (f"  {count} over {why}" for why, count in lost["reasons"].items())


def _fronts(document: dict[str, Any]) -> Iterator[str]:
    """The fronts of both runs as a whole, a line each."""
    first, second = document["runs"]
    level = f"{document['confidence']:.0%}"
    yield (
        "fronts as a whole (hypervolume: 1 is a split that is best in everything; epsilon: by how "
        "much of the box of all points a front must be better to meet the other):"
    )
    for row in document["fronts"]:
        known = f"no interval: fewer than {LEAST_REPLICATES} replicates"
        if row["low"] is not None:
            known = f"{level}: {row['low']:+.3f} to {row['high']:+.3f}"
        one, other = row["hypervolume"]
        behind, ahead = row["epsilon"]
        yield (
            f"  {row['model']} over link {row['link']}, {row['backend']}, {row['points']} splits: "
            f"hypervolume {one:.3f} in {first} and {other:.3f} in {second}, {other - one:+.3f} "
            f"({known}); epsilon {behind:.3f} of {first}, {ahead:.3f} of {second}"
        )


def _table(rows: list[dict[str, Any]]) -> str:
    """Differences, one per line, with the marks of the replicates they rest on."""
    frame = pd.DataFrame(rows)
    shown = frame[["model", "link", "backend", "split", "objective"]].copy()
    shown["ratio"] = frame["ratio"].map("{:.3f}".format)
    shown["interval"] = [
        f"{low:.3f} to {high:.3f}" for low, high in zip(frame["low"], frame["high"], strict=True)
    ]
    shown["p (Holm)"] = frame["p_holm"].map("{:.2g}".format)
    for mark in MARKS:
        if any(counts[mark] for marks in frame["marks"] for counts in marks):
            shown[mark] = [_of(row, mark) for row in rows]
    return shown.to_string(index=False)


def _of(row: dict[str, Any], mark: str) -> str:
    """How many replicates of each run have a mark."""
    pairs = zip(row["marks"], row["replicates"], strict=True)
    return ", ".join(f"{marks[mark]} of {count}" for marks, count in pairs)
