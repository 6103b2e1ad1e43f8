"""Traces: files of conditions that follow one another; the standard library alone.

Recordings have outages, which are a rate of 0. No shaper has such a rate: during an outage, every
packet is lost. (A radio link may instead queue packets until the outage is over. Here TCP has to
notice its end, and that is part of what is measured.)
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paretopipe_worker import bounded
from paretopipe_worker.link.conditions import Condition
from paretopipe_worker.usertext import shown

MAX_SEGMENTS = 20_000
"""Five and a half hours in steps of a second, which a host replays and a plan holds with ease."""
_MOST_BYTES = 4 * bounded.MEGABYTE
LONGEST_OUTAGE_S = 600.0
"""Linux gives up a connection after 924 s without acknowledgement at the earliest (tcp(7))."""
SHORTEST_S = 0.1
"""Shortest segment: it must last longer than a host takes to put it in force."""
_LONGEST_S = 86_400.0

_TIME = "time_s"
_VALUES = ("rate_mbit", "delay_ms", "loss_percent")


class TraceError(ValueError):
    """A trace was refused: file, line and column, and what is allowed."""


@dataclass(frozen=True)
class Timetable:
    """When each segment of a trace begins, and when the trace begins again.

    Parameters
    ----------
    starts_s
        When each segment begins, in seconds from the beginning of the trace; the first is 0.
    period_s
        When the first segment begins again.

    Raises
    ------
    ValueError
        When a segment would be shorter than `SHORTEST_S` or there are too many or too few.
    """

    starts_s: tuple[float, ...]
    period_s: float

    def __post_init__(self) -> None:
        """Refuse times that do not rise."""
        if not 2 <= len(self.starts_s) <= MAX_SEGMENTS:
            raise ValueError(f"a trace has 2 to {MAX_SEGMENTS} segments; got {len(self.starts_s)}")
        if self.starts_s[0] != 0:
            raise ValueError(f"{_TIME}: the first segment begins at 0; got {self.starts_s[0]:g}")
        for before, now in zip(self.starts_s, self.starts_s[1:], strict=False):
            check_time(_TIME, now, before)
        check_time("period_s", self.period_s, self.starts_s[-1])

    @classmethod
    def parse(cls, value: Any) -> Timetable:
        """Make a timetable of a mapping from outside, such as parsed JSON.

        Raises
        ------
        ValueError
            When it is no such mapping, or its times do not rise.
        """
        if not isinstance(value, dict) or set(value) != {"starts_s", "period_s"}:
            raise ValueError(
                f"a timetable is a mapping of starts_s and period_s; got {shown(value)}"
            )
        starts = value["starts_s"]
        times: list[Any] = [*starts, value["period_s"]] if isinstance(starts, list) else [None]
        if not all(type(each) in (int, float) and math.isfinite(each) for each in times):
            raise ValueError(f"starts_s is a list of seconds, period_s seconds; got {shown(value)}")
        return cls(tuple(map(float, starts)), float(value["period_s"]))

    def segment(self, step: int) -> int:
        """Return the segment that a step leads to; step 0 is the beginning."""
        return step % len(self.starts_s)

    def due_s(self, step: int) -> float:
        """Return when a step is due, in seconds from the beginning."""
        rounds, segment = divmod(step, len(self.starts_s))
        return rounds * self.period_s + self.starts_s[segment]

    @property
    def durations_s(self) -> tuple[float, ...]:
        """How long each segment lasts, in seconds."""
        ends = (*self.starts_s[1:], self.period_s)
        return tuple(end - start for start, end in zip(self.starts_s, ends, strict=True))


def check_time(name: str, time_s: float, before_s: float) -> None:
    """Refuse a time that does not come at least `SHORTEST_S` after another.

    Raises
    ------
    ValueError
        The text gives the name, what is allowed, and what was given.
    """
    if not before_s + SHORTEST_S - 1e-9 <= time_s <= _LONGEST_S:
        raise ValueError(
            f"{name}: at least {SHORTEST_S:g} s after the one before ({before_s:g}), at most "
            f"{_LONGEST_S:g}; got {time_s:g}"
        )


def read(path: Path, name: str, period_s: float | None) -> tuple[Timetable, tuple[Condition, ...]]:
    """Read a trace from a CSV file, which errors call `name`; see :func:`parse`.

    Raises
    ------
    TraceError
        When there is no such file, or it holds no trace.
    """
    try:
        text = bounded.text(path, _MOST_BYTES)
    except (OSError, bounded.UnreadableFile) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise TraceError(f"{name}: cannot be read as a CSV file: {said}") from error
    return parse(io.StringIO(text, newline=""), name, period_s)


def parse(
    lines: Iterable[str], name: str, period_s: float | None
) -> tuple[Timetable, tuple[Condition, ...]]:
    """Read a trace: CSV with a row for each segment, in order.

    Its columns are ``time_s``, when the segment begins, and any of ``rate_mbit``, ``delay_ms`` and
    ``loss_percent``, in which an empty cell asks for nothing. A rate of 0 is an outage.

    Parameters
    ----------
    name
        What errors call the trace.
    period_s
        When the first segment begins again. By default the last segment lasts as long as the one
        before it.

    Returns
    -------
    When the segments begin, and the condition in each.

    Raises
    ------
    TraceError
        When it is no CSV, a column is unknown, a time does not come after the one before, no link
        has such a condition, or nothing passes for too long; the text names line and column.
    ValueError
        When there is no such period.
    """
    starts: list[float] = []
    conditions: list[Condition] = []
    rows = csv.reader(lines, strict=True)
    try:
        columns = _columns(next(rows, []), f"{name}:1")
        for cells in rows:
            if not any(cells):
                continue
            where = f"{name}:{rows.line_num}"
            if len(starts) == MAX_SEGMENTS:
                raise TraceError(f"{where}: a trace has at most {MAX_SEGMENTS} segments")
            values = _row(cells, columns, where)
            try:
                _check_start(starts, values[_TIME])
                starts.append(values.pop(_TIME))
                conditions.append(_condition(values))
            except ValueError as error:
                raise TraceError(f"{where}: {error}") from error
    except csv.Error as error:
        raise TraceError(f"{name}: cannot be read as a CSV file: {error}") from error
    timetable = _timetable(starts, name, period_s)
    if (lasts_s := outage_s(timetable, conditions)) > LONGEST_OUTAGE_S:
        said = "ever" if math.isinf(lasts_s) else f"for {lasts_s:g} s"
        raise TraceError(
            f"{name}: nothing passes {said}; allowed: at most {LONGEST_OUTAGE_S:g} s without a "
            "break, also where the trace begins again, since TCP gives up connections"
        )
    return timetable, tuple(conditions)


def _timetable(starts: Sequence[float], name: str, period_s: float | None) -> Timetable:
    """When segments begin, and when the first begins again."""
    if len(starts) < 2:
        raise TraceError(f"{name}: a trace has at least 2 segments, a row each; got {len(starts)}")
    if period_s is not None:
        return Timetable(tuple(starts), period_s)
    try:
        return Timetable(tuple(starts), 2 * starts[-1] - starts[-2])
    except ValueError as error:
        raise TraceError(f"{name}: {error}; give period_s") from error


def outage_s(timetable: Timetable, conditions: Sequence[Condition]) -> float:
    """Return the longest time without a break in which nothing passes, in seconds.

    The trace is taken to repeat. The time is infinite if nothing ever passes.
    """
    if all(condition.outage for condition in conditions):
        return math.inf
    longest_s = lasts_s = 0.0
    # Twice through the trace: an outage at its end may go on in its first segments.
    for duration_s, condition in 2 * tuple(zip(timetable.durations_s, conditions, strict=True)):
        lasts_s = lasts_s + duration_s if condition.outage else 0.0
        longest_s = max(longest_s, lasts_s)
    return longest_s


def write(timetable: Timetable, conditions: Sequence[Condition]) -> str:
    """Write a trace as CSV that :func:`parse` reads."""
    rows = [
        [start, *(getattr(condition, name) for name in _VALUES)]
        for start, condition in zip(timetable.starts_s, conditions, strict=True)
    ]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([[_TIME, *_VALUES], *rows])
    return text.getvalue()


def _columns(header: list[str], where: str) -> list[str]:
    """Read the names of the columns from the first line."""
    names = [cell.strip() for cell in header]
    allowed = f"{_TIME} and any of {', '.join(_VALUES)}, each once"
    unknown = [name for name in names if name not in (_TIME, *_VALUES)]
    if unknown or _TIME not in names or len(names) < 2 or len(set(names)) < len(names):
        said = (
            f"unknown column {shown(unknown[0])}"
            if unknown
            else f"columns are {', '.join(names[:9])}"
        )
        raise TraceError(f"{where}: {said}; allowed: {allowed}")
    return names


def _row(cells: list[str], columns: list[str], where: str) -> dict[str, float]:
    """Read the numbers of one line, by column; empty cells are left out."""
    if len(cells) != len(columns):
        raise TraceError(f"{where}: {len(cells)} cells; the first line names {len(columns)}")
    values = {}
    for name, cell in zip(columns, cells, strict=True):
        text = cell.strip()
        if not text and name != _TIME:
            continue
        try:
            values[name] = float(text)
        except ValueError:
            raise TraceError(f"{where}: {name}: must be a number; got {shown(text)}") from None
        if not math.isfinite(values[name]):
            raise TraceError(f"{where}: {name}: must be a finite number; got {shown(text)}")
    return values


def _condition(values: dict[str, float]) -> Condition:
    """Make the condition of one line."""
    if values.get("rate_mbit") == 0:
        return Condition.parse({**values, "rate_mbit": None, "loss_percent": 100.0})
    try:
        return Condition.parse(values)
    except ValueError as error:
        either = "; write 0 for an outage" if str(error).startswith("rate_mbit") else ""
        raise ValueError(f"{error}{either}") from error


def _check_start(starts: list[float], time_s: float) -> None:
    """Refuse a segment that does not begin after the one before."""
    if starts:
        check_time(_TIME, time_s, starts[-1])
    elif time_s != 0:
        raise ValueError(f"{_TIME}: the first segment begins at 0; got {time_s:g}")
