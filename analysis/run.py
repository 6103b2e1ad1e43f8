"""Read a run: its plan and raw records, as tidy frames."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from paretopipe_worker.plan import attempts
from paretopipe_worker.plan import plan as plans
from paretopipe_worker.plan.attempts import Attempts
from paretopipe_worker.plan.plan import Plan
from paretopipe_worker.records.clocks import Clock
from paretopipe_worker.records.lines import (
    CONTROLLER_RANK,
    End,
    Header,
    Item,
    LegEnd,
    PointEnd,
    Ready,
    Record,
)
from paretopipe_worker.records.probes import Probe

_KEYS = ("session", "attempt", "replicate", "host", "rank")
_DTYPES = {
    "int": "int64",
    "int | None": "Int64",
    "float": "float64",
    "float | None": "float64",
    "bool": "bool",
    "bool | None": "boolean",
    "tuple[int, ...]": "object",
    "tuple[float, ...]": "object",
    "tuple[Transfer, ...]": "object",
    "Datagrams | None": "object",
    "tuple[Exchange, ...]": "object",
    "Health | None": "object",
    "tuple[str, ...]": "object",
}


class RunError(ValueError):
    """A run's directory cannot be used: which file, what is wrong, what is allowed."""


@dataclass(frozen=True)
class Run:
    """A run as tidy frames.

    All frames but `sessions` have the columns session, attempt, replicate, host and rank before
    the fields of their record (see :mod:`paretopipe_worker.records`).

    Parameters
    ----------
    path
        The run's directory, ``results/RUN``.
    plan
        What was to be measured.
    sessions
        One row per record file: the header's fields, ``status`` (``ok``, ``failed`` or
        ``truncated``), ``reason``, ``process_start_ns``, ``end_ns``, ``shares_ns``,
        ``wall_clock_step_ns``, and the links' settings ``transport``.
    items, phases, points, probes, clocks
        One row per ``Item``, ``LegEnd``, ``PointEnd``, ``Probe`` or ``Clock``. The rank a clock's
        exchanges were made with is ``other``, since ``rank`` is who wrote the record.
    attempts
        The attempts at each session, and what became of the points in them.
    warnings
        What was found to be damaged or cut short, each naming the file.
    """

    path: Path
    plan: Plan
    sessions: pd.DataFrame
    items: pd.DataFrame
    phases: pd.DataFrame
    points: pd.DataFrame
    probes: pd.DataFrame
    clocks: pd.DataFrame
    attempts: Attempts
    warnings: tuple[str, ...]


def load(path: Path) -> Run:
    """Read ``plan.json`` and ``records/*/*.jsonl`` of a run.

    Raises
    ------
    RunError
        When there is no such run.
    paretopipe_worker.plan.plan.PlanError
        When the plan is damaged.
    paretopipe_worker.plan.belonging.ForeignRecords
        When records of another run, plan, session, host, weights or version lie in it.
    paretopipe_worker.records.files.RecordError
        When records are of another schema. Damaged ones are told in the warnings, and nothing of
        their attempt counts.
    """
    _require(path)
    plan = plans.read(path / "plan.json")
    rows: dict[type, list[dict[str, Any]]] = {kind: [] for kind in _FRAMES}
    sessions: list[dict[str, Any]] = []
    warnings: list[str] = []
    told = Attempts(plan)
    for file in attempts.files(path):
        found = list(told.reading(file))
        header = found[0] if found else None
        if not isinstance(header, Header):
            warnings.append(f"{file}: truncated: it holds no header; nothing of it counts")
            continue
        end = found[-1] if isinstance(found[-1], End) else None
        if end is None:
            warnings.append(
                f"{file}: truncated: it has no end line; only points that are complete count"
            )
        ready = next((record for record in found if isinstance(record, Ready)), None)
        settings = {"transport": ready.transport if ready else None}
        sessions.append(vars(header) | _ending(end) | settings)
        keys = {key: getattr(header, key) for key in _KEYS}
        for record in found:
            if type(record) in rows:
                rows[type(record)].append(_fields(record) | keys)
    return Run(
        path=path,
        plan=plan,
        sessions=_sessions(sessions),
        attempts=told,
        warnings=(*told.damages, *warnings),
        **{name: _frame(rows[kind], kind) for kind, name in _FRAMES.items()},
    )


_FRAMES: dict[type, str] = {
    Item: "items",
    LegEnd: "phases",
    PointEnd: "points",
    Probe: "probes",
    Clock: "clocks",
}


def processes(run: Run) -> dict[str, int]:
    """How many stage processes the records prove to have been started.

    A stage process writes one file. Its start on its host's clock is in that file's last line;
    where that is missing, the file alone tells of the process.

    Returns
    -------
    ``started`` stage processes, told apart by host and start; ``cut_short``, those among them
    without a last line; ``attempts`` at sessions that have records of a stage; ``planned``, what
    one attempt at each session would start: hosts x links x backends x models x replicates for one
    placement; ``points`` that were walked, over all attempts.
    """
    stages = run.sessions[run.sessions["rank"] != CONTROLLER_RANK]
    told = stages["process_start_ns"].notna()
    started = stages.loc[told, ["host", "process_start_ns"]].drop_duplicates()
    return {
        "started": len(started) + int((~told).sum()),
        "cut_short": int((~told).sum()),
        "attempts": len(stages[["session", "attempt"]].drop_duplicates()),
        "planned": sum(len(session.placement) for session in run.plan.sessions),
        "points": len(run.points),
    }


def _fields(record: Record) -> dict[str, Any]:
    """A record's fields; those of another rank are not taken for the writer's."""
    if isinstance(record, Clock):
        return {"other": record.rank} | vars(record)
    return dict(vars(record))


def _require(path: Path) -> None:
    """Refuse a directory that holds no run, naming those beside it."""
    if (path / "plan.json").is_file():
        return
    beside = sorted(other.parent.name for other in path.parent.glob("*/plan.json"))
    known = f"runs in {path.parent}: {', '.join(beside)}" if beside else f"none in {path.parent}"
    raise RunError(f"{path}: no such run (it has no plan.json); {known}")


def _ending(end: End | None) -> dict[str, Any]:
    """The fields that say how a file ended."""
    if end is None:
        names = (field.name for field in fields(End) if field.name != "kind")
        return dict.fromkeys(names) | {"status": "truncated", "shares_ns": {}}
    return {name: value for name, value in vars(end).items() if name != "kind"}


def _sessions(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One row per file."""
    kinds = (*fields(Header), *fields(End))
    names = [*dict.fromkeys(field.name for field in kinds), "transport"]
    frame = pd.DataFrame.from_records(list(rows), columns=names)
    times = ("process_start_ns", "end_ns", "wall_clock_step_ns")
    return frame.astype(dict.fromkeys(times, "Int64")).drop(columns="kind")


def _frame(rows: list[dict[str, Any]], kind: type) -> pd.DataFrame:
    """Records of one kind as a frame whose dtypes do not depend on what was measured."""
    types = {key: str(Header.__dataclass_fields__[key].type) for key in _KEYS}
    own = {field.name: str(field.type) for field in fields(kind) if field.name != "kind"}
    types |= {"other" if name in types else name: text for name, text in own.items()}
    frame = pd.DataFrame.from_records(rows, columns=list(types))
    return frame.astype({name: _DTYPES.get(text, "str") for name, text in types.items()})
