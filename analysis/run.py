"""Read a run: its plan and its raw records, as tidy frames."""

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
from paretopipe_worker.records.energy import Rest
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
from paretopipe_worker.records.profiles import Profile

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
    "Energy": "object",
    "Energy | None": "object",
    "tuple[str, ...]": "object",
    "tuple[tuple[int, ...], ...]": "object",
}


class RunError(ValueError):
    """A run's directory cannot be used: the message names the file and what is wrong."""


@dataclass(frozen=True)
class Run:
    """A run as tidy frames.

    Every frame but `sessions` has the columns session, attempt, replicate, host and rank, and then
    the fields of its record (see :mod:`paretopipe_worker.records`).

    Parameters
    ----------
    path
        The run's directory, ``results/RUN``.
    plan
        What the run was to measure.
    sessions
        One row per record file: the header's fields, ``status`` (``ok``, ``failed`` or
        ``truncated``), ``reason``, ``process_start_ns``, ``end_ns``, ``shares_ns``,
        ``wall_clock_step_ns``, and the links' settings ``transport``.
    items, legs, points, probes, clocks, rests, profiles
        One row per ``Item``, ``LegEnd``, ``PointEnd``, ``Probe``, ``Clock``, ``Rest`` or
        ``Profile``. ``rank`` is the rank that wrote the record; the rank with which it exchanged
        clock readings is ``other``.
    attempts
        The attempts at each session, and the outcome of each point in them.
    warnings
        The files that are damaged or cut short, one message for each.
    """

    path: Path
    plan: Plan
    sessions: pd.DataFrame
    items: pd.DataFrame
    legs: pd.DataFrame
    points: pd.DataFrame
    probes: pd.DataFrame
    clocks: pd.DataFrame
    rests: pd.DataFrame
    profiles: pd.DataFrame
    attempts: Attempts
    warnings: tuple[str, ...]

    @property
    def stages(self) -> pd.DataFrame:
        """The rows of `sessions` that stages wrote, without those of the controller."""
        return of_stages(self.sessions)


def of_stages(files: pd.DataFrame) -> pd.DataFrame:
    """The rows of stages among rows of :attr:`Run.sessions`."""
    return files[files["rank"] != CONTROLLER_RANK]


def read(path: Path) -> Run:
    """Read ``plan.json`` and ``records/*/*.jsonl`` of a run.

    Raises
    ------
    RunError
        When there is no such run.
    paretopipe_worker.plan.plan.PlanError
        When the plan is damaged.
    paretopipe_worker.plan.belonging.ForeignRecords
        When the directory holds records of another run, plan, session, host, weights or version.
    paretopipe_worker.records.files.RecordError
        When records have another schema. A damaged record is no error: the warnings name it, and
        nothing of its attempt counts.
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
    LegEnd: "legs",
    PointEnd: "points",
    Probe: "probes",
    Clock: "clocks",
    Rest: "rests",
    Profile: "profiles",
}


def processes(run: Run) -> dict[str, int]:
    """Count the stage processes that were started, as the records prove.

    Each stage process writes one file, whose last line has the time at which the process started
    on its host's clock. A file without a last line is counted as one process.

    Returns
    -------
    ``started``: the stage processes, distinguished by host and start time. ``cut_short``: those of
    them whose file has no last line. ``attempts``: the attempts at sessions of which a stage left
    records. ``planned``: the processes that one attempt at each session starts (hosts x links x
    backends x models x replicates for one placement). ``points``: the points walked in all
    attempts.
    """
    stages = run.stages
    told = stages["process_start_ns"].notna()
    started = stages.loc[told, ["host", "process_start_ns"]].drop_duplicates()
    return {
        "started": len(started) + int((~told).sum()),
        "cut_short": int((~told).sum()),
        "attempts": len(stages[["session", "attempt"]].drop_duplicates()),
        "planned": sum(len(session.placement) for session in run.plan.sessions),
        "points": len(of_stages(run.points)),
    }


def _fields(record: Record) -> dict[str, Any]:
    """A record's fields; the rank of a clock record, which is not its writer's, is ``other``."""
    if isinstance(record, Clock):
        return {"other": record.rank} | vars(record)
    return dict(vars(record))


def _require(path: Path) -> None:
    """Refuse a directory that holds no run, and name the runs beside it."""
    if (path / "plan.json").is_file():
        return
    beside = sorted(other.parent.name for other in path.parent.glob("*/plan.json"))
    known = f"runs in {path.parent}: {', '.join(beside)}" if beside else f"none in {path.parent}"
    raise RunError(f"{path}: no such run (it has no plan.json); {known}")


def _ending(end: End | None) -> dict[str, Any]:
    """The fields of a file's last line; where it has none, the status is ``truncated``."""
    if end is None:
        names = (field.name for field in fields(End) if field.name != "kind")
        return dict.fromkeys(names) | {"status": "truncated", "shares_ns": {}}
    return {name: value for name, value in vars(end).items() if name != "kind"}


def _sessions(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """The frame `sessions`: one row per file."""
    kinds = (*fields(Header), *fields(End))
    names = [*dict.fromkeys(field.name for field in kinds), "transport"]
    frame = pd.DataFrame.from_records(list(rows), columns=names)
    times = ("process_start_ns", "end_ns", "wall_clock_step_ns")
    return frame.astype(dict.fromkeys(times, "Int64")).drop(columns="kind")


def _frame(rows: list[dict[str, Any]], kind: type) -> pd.DataFrame:
    """Records of one kind as a frame, whose dtypes are the same whether or not it has rows."""
    types = {key: str(Header.__dataclass_fields__[key].type) for key in _KEYS}
    own = {field.name: str(field.type) for field in fields(kind) if field.name != "kind"}
    types |= {"other" if name in types else name: text for name, text in own.items()}
    frame = pd.DataFrame.from_records(rows, columns=list(types))
    return frame.astype({name: _DTYPES.get(text, "str") for name, text in types.items()})
