"""What a guided sweep has decided so far: ``generations.jsonl`` in a run's folder.

Each line is a :class:`Generation`, points that are measured together because of all that was
measured before, or an :class:`End`. Lines are appended and never rewritten. So a sweep that is
started again goes on with the points of its last generation, and nothing is decided twice.
"""

from __future__ import annotations

import os
from dataclasses import dataclass as plain
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import orjson
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from paretopipe_worker import bounded
from paretopipe_worker.plan.labels import split_label
from paretopipe_worker.plan.plan import Plan
from paretopipe_worker.plan.strategy import Guided
from paretopipe_worker.records.files import RecordError

FILE = "generations.jsonl"

_CONFIG = ConfigDict(extra="forbid")

Range: TypeAlias = tuple[float, float, float]
"""Least, predicted, most."""


class GenerationsError(RecordError):
    """The file cannot be used: which line, and what is wrong."""


@dataclass(frozen=True, config=_CONFIG)
class Bounds:
    """What a point is predicted to measure, and between which figures it does almost surely."""

    latency_ms: Range
    throughput_images_s: Range

    def __str__(self) -> str:
        """The bounds in words."""
        latency, rate = self.latency_ms, self.throughput_images_s
        return (
            f"{latency[0]:.4g} to {latency[2]:.4g} ms and {rate[0]:.4g} to {rate[2]:.4g} images/s "
            "by prediction"
        )


@dataclass(frozen=True, config=_CONFIG)
class Choice:
    """A point that is measured, or was left when the sweep ended, and why.

    ``front`` points are on the front if predictions hold; ``uncertain`` ones could be. `bounds` are
    null where nothing was known yet.
    """

    point: str
    why: Literal["endpoint", "spread", "front", "uncertain"]
    bounds: Bounds | None = None


@dataclass(frozen=True, config=_CONFIG)
class LeftOut:
    """A point that is not measured, since the measured point `by` is at least as good as it.

    That holds to within the share `epsilon` of the line, whatever the point measures in its bounds.
    """

    point: str
    by: str
    bounds: Bounds


@dataclass(frozen=True, config=_CONFIG)
class Standing:
    """How a sweep stands when something is decided.

    Parameters
    ----------
    epsilon, hours
        As the spec has them.
    hours_used
        Hours in which sessions ran before.
    skipped
        Points that are left out from now on.
    again
        Points that were left out before and are candidates again, since bounds have grown.
    """

    epsilon: float
    hours: float | None
    hours_used: float
    skipped: tuple[LeftOut, ...] = ()
    again: tuple[str, ...] = ()


@dataclass(frozen=True, config=_CONFIG)
class Generation:
    """Points that are measured together.

    Parameters
    ----------
    number
        Counted from 1.
    measure
        The points, most wanted first; each is measured in all replicates.
    predicted_s
        Predicted seconds of measuring them.
    standing
        What else is decided.
    """

    number: Annotated[int, Field(ge=1)]
    measure: Annotated[tuple[Choice, ...], Field(min_length=1)]
    predicted_s: float
    standing: Standing
    kind: Literal["generation"] = "generation"
    schema: Literal[1] = 1


@dataclass(frozen=True, config=_CONFIG)
class End:
    """Why no more is measured.

    Parameters
    ----------
    why
        ``settled``: no point that is left out could change the answer. ``measured``: none is left
        out. ``hours``: the budget is used up.
    left
        Points that were still candidates then.
    standing
        What else is decided.
    """

    why: Literal["settled", "measured", "hours"]
    left: tuple[Choice, ...]
    standing: Standing
    kind: Literal["end"] = "end"
    schema: Literal[1] = 1

    @property
    def told(self) -> str:
        """Why no more is measured, in words."""
        return {
            "settled": f"no point that was left out could be better by more than "
            f"{100 * self.standing.epsilon:g} %",
            "measured": "no point is left out",
            "hours": f"the budget of {self.standing.hours or 0:g} h is used up, and "
            f"{len(self.left)} points may still be on a front",
        }[self.why]


Line: TypeAlias = Generation | End
_ADAPTER: TypeAdapter[Line] = TypeAdapter(Annotated[Line, Field(discriminator="kind")])
_MOST_BYTES = 512 * bounded.MEGABYTE


@plain(frozen=True)
class History:
    """All lines, in their order."""

    lines: tuple[Line, ...] = ()

    @property
    def number(self) -> int:
        """Number of the last generation; 0 before the first."""
        return max((line.number for line in self.lines if isinstance(line, Generation)), default=0)

    @property
    def asked(self) -> frozenset[str]:
        """The points of all generations: those that are to be measured."""
        generations = (line for line in self.lines if isinstance(line, Generation))
        return frozenset(each.point for line in generations for each in line.measure)

    @property
    def skipped(self) -> dict[str, tuple[Line, LeftOut]]:
        """The points that are left out now, each with the line since which they are."""
        found: dict[str, tuple[Line, LeftOut]] = {}
        for line in self.lines:
            for point in line.standing.again:
                found.pop(point, None)
            found |= {each.point: (line, each) for each in line.standing.skipped}
        return {point: told for point, told in found.items() if point not in self.asked}

    def end(self, strategy: object) -> End | None:
        """How the sweep ended, if that was for the settings of the spec of now."""
        last = self.lines[-1] if self.lines else None
        if not isinstance(last, End) or not isinstance(strategy, Guided):
            return None
        asked = (strategy.guided.epsilon, strategy.guided.hours)
        return last if (last.standing.epsilon, last.standing.hours) == asked else None

    def reasons(self, plan: Plan) -> dict[str, str]:
        """Why each point is not measured that was left out, or was left at the end."""
        found = {}
        for point, (line, left_out) in self.skipped.items():
            when = f"generation {line.number}" if isinstance(line, Generation) else "the end"
            best = split_label(plan.point(left_out.by).split)
            found[point] = (
                f"left out since {when}: {left_out.bounds}; {best} was measured and is at least "
                f"as good to within {100 * line.standing.epsilon:g} %"
            )
        last = self.lines[-1] if self.lines else None
        left = last.left if isinstance(last, End) else ()
        for choice in left:
            known = choice.bounds or "nothing is known of it"
            found[choice.point] = f"not reached within the budget of hours: {known}"
        return found


def of(plan: Plan, results: Path) -> History | None:
    """What a guided sweep has decided so far; None where the plan's strategy is another one.

    Raises
    ------
    GenerationsError
        As of :func:`read`.
    """
    return read(plan, results) if isinstance(plan.experiment.strategy, Guided) else None


def read(plan: Plan, results: Path) -> History:
    """Read and check the file of a run; there need be none.

    A last line that was cut short counts as not written: nobody has acted on it.

    Raises
    ------
    GenerationsError
        Naming the line that is damaged, out of order, or about points that the plan has not.
    """
    path = results / FILE
    if not path.exists():
        return History()
    known, lines = {point.id for point in plan.points}, list[Line]()
    try:
        *whole, _ = bounded.data(path, _MOST_BYTES).split(b"\n")
    except (OSError, bounded.UnreadableFile) as error:
        raise GenerationsError(f"{path}: {error}") from error
    for number, text in enumerate(whole, start=1):
        try:
            line = _ADAPTER.validate_json(text)
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, fault["loc"]))
            raise GenerationsError(f"{path}, line {number}: {where}: {fault['msg']}") from error
        expected = History(tuple(lines)).number + 1
        if isinstance(line, Generation) and line.number != expected:
            raise GenerationsError(
                f"{path}, line {number}: is generation {line.number}; expected is {expected}"
            )
        chosen = line.measure if isinstance(line, Generation) else line.left
        named = {each.point for each in chosen} | {each.point for each in line.standing.skipped}
        named.update(line.standing.again)
        if unknown := sorted(named - known):
            raise GenerationsError(
                f"{path}, line {number}: plan.json has no point '{unknown[0]}': the file is of "
                "another plan. Move it away to begin anew"
            )
        lines.append(line)
    return History(tuple(lines))


def append(results: Path, line: Line) -> None:
    """Add a line; it is on the disk when this returns."""
    path = results / FILE
    path.touch()
    with path.open("r+b") as file:
        # Behind the last whole line: nobody has acted on one that was cut short.
        file.seek(file.read().rfind(b"\n") + 1)
        file.truncate()
        file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        file.flush()
        os.fsync(file.fileno())
