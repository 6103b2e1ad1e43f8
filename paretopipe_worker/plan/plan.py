"""The plan of a run: what it measures and in which order, as hosts and analysis read it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from paretopipe_worker import bounded
from paretopipe_worker.cuts import EAGER, FIRST, LAST, PLAIN, CutTable, TensorSpec, payload_bytes
from paretopipe_worker.link.profiles import LinkSpec
from paretopipe_worker.plan.experiment import Experiment, ModelSpec
from paretopipe_worker.plan.fleet import Host
from paretopipe_worker.plan.window import Window
from paretopipe_worker.wire.sizes import packed_sizes

SCHEMA = 4
"""Version of ``plan.json``. Since 4 a cut table's `graph_sha256` is that of a program, and it tells
how far the program is from its model, which images are sent, and which packages it needs."""

_READABLE = (3, SCHEMA)
"""Versions that can still be analysed."""

_CONFIG = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_CONFIG)
class Point:
    """One combination that gets a latency and a throughput.

    `placement` has a host for each stage of the split. The last rank that has operations is the
    sink: ranks after it idle, and its session does not reach them. `hops` holds the tensors of each
    message an item causes: first from rank 0 to rank 1, and so on, last from the sink back to rank
    0. An empty hop is never sent: where the source has all operations, nothing is. A `window` of
    ``auto`` is chosen once the latency has been measured. `predicted_s` is the predicted time of
    measuring the point, `deadline_s` the longest time a stage waits for one message. `memory_bytes`
    is what each stage needs, by rank of the session, as far as
    :func:`paretopipe_worker.plan.memory.needed` counts it. `runtimes` names what executes each
    stage, by rank of the placement; it is empty where all are `eager`. `wire` is the format in
    which tensors cross, `busy` whether hosts run their background load meanwhile, and `sources` how
    many sources share the sink's host, each with a pipeline of its own like this one.
    """

    id: str
    model: str
    split: tuple[str, ...]
    placement: tuple[str, ...]
    link: str
    backend: str
    batch: int
    window: Window
    dtype: str
    hops: tuple[tuple[TensorSpec, ...], ...]
    predicted_latency_s: float
    predicted_s: float
    deadline_s: float
    memory_bytes: tuple[int, ...] = ()
    runtimes: tuple[str, ...] = ()
    wire: str = PLAIN
    busy: bool = False
    sources: int = 1

    @property
    def ring(self) -> tuple[str, ...]:
        """The hosts of its session by rank: all of the placement up to the sink."""
        return self.placement[: len(self.hops)]

    @property
    def hop_bytes(self) -> tuple[int, ...]:
        """Payload of each hop in bytes, the way back last."""
        return tuple(payload_bytes(hop) for hop in self.hops)

    @property
    def message_sizes(self) -> tuple[range, ...]:
        """Bytes that a message on each hop may have: packed forward, as it is on the way back."""
        return message_sizes(self.wire, self.hops)

    @property
    def crosses(self) -> bool:
        """Whether anything leaves the source's host."""
        return bool(self.hops[0])

    def ends(self, rank: int) -> tuple[str, str]:
        """Names of the cuts, or endpoints, between which the stage of a rank lies."""
        ends = (LAST, *self.split, FIRST)
        return ends[rank], ends[rank + 1]

    def runtime(self, rank: int) -> str:
        """What executes the stage of a rank."""
        return self.runtimes[rank] if self.runtimes else EAGER

    @property
    def active_ranks(self) -> tuple[int, ...]:
        """Ranks that take part: the source, and every rank that something is sent to."""
        return (0, *(rank for rank, hop in enumerate(self.hops[:-1], start=1) if hop))


def message_sizes(wire: str, hops: Sequence[tuple[TensorSpec, ...]]) -> tuple[range, ...]:
    """Bytes that a message on each hop may have, see :attr:`Point.message_sizes`."""
    *forward, back = hops
    packed = (packed_sizes(wire, hop) if hop else range(1) for hop in forward)
    return (*packed, packed_sizes(PLAIN, back))


@dataclass(frozen=True, config=_CONFIG)
class Session:
    """One launch of the stage processes: walks its points without restarting.

    `placement` is its ring, hosts by rank: with it begin the placements of its points. `busy` says
    whether its hosts run their background load, as far as they have one. Where several `sources`
    share its sink's host, it is one `lane` of a `group`: the sessions of that name are launched
    together (:mod:`paretopipe_worker.plan.lanes`).
    """

    id: str
    replicate: int
    link: str
    backend: str
    model: str
    placement: tuple[str, ...]
    points: tuple[str, ...]
    deadline_s: float
    busy: bool = False
    group: str = ""
    lane: int = 0
    sources: int = 1

    def only(self, points: Sequence[str] | None) -> Session:
        """The same session with only these points, in this order; with all of them for None.

        Raises
        ------
        PlanError
            When a point is not of this session, or is given twice.
        """
        if points is None:
            return self
        if unknown := sorted(set(points) - set(self.points)):
            raise PlanError(f"session '{self.id}' has no point {', '.join(unknown)}")
        if len(set(points)) != len(points):
            raise PlanError(f"session '{self.id}': a point is given twice: {', '.join(points)}")
        return replace(self, points=tuple(points))


@dataclass(frozen=True, config=_CONFIG)
class Plan:
    """Everything a run will do, as ``results/RUN/plan.json`` holds it.

    `notes` tell people what was done to a checkpoint to make it fit its model, and what was
    exported, `refused` which models cannot be measured, and why. `unexported` says why there is no
    file of a stage, by the name that it would have (:func:`stage_name`).
    """

    run: str
    experiment: Experiment
    hosts: tuple[Host, ...]
    tables: tuple[CutTable, ...]
    points: tuple[Point, ...]
    sessions: tuple[Session, ...]
    predicted_hours: float
    notes: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    unexported: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    def point(self, point_id: str) -> Point:
        """The point of this id."""
        return self._points[point_id]

    def session(self, session_id: str) -> Session:
        """The session of this id."""
        return self._sessions[session_id]

    def lanes(self, session: Session) -> tuple[Session, ...]:
        """The sessions that are launched together with this one, itself included, by lane."""
        return self._groups[session.group or session.id]

    @property
    def groups(self) -> tuple[tuple[Session, ...], ...]:
        """All sessions, those together that are launched together, in order."""
        return tuple(self._groups.values())

    @cached_property
    def _groups(self) -> dict[str, tuple[Session, ...]]:
        """Sessions by the name under which they are launched."""
        found: dict[str, tuple[Session, ...]] = {}
        for session in self.sessions:
            name = session.group or session.id
            found[name] = (*found.get(name, ()), session)
        return found

    @cached_property
    def _points(self) -> dict[str, Point]:
        """Points by id: a plan may have thousands."""
        return {point.id: point for point in self.points}

    @cached_property
    def _sessions(self) -> dict[str, Session]:
        """Sessions by id."""
        return {session.id: session for session in self.sessions}

    def host(self, name: str) -> Host:
        """The host of this name."""
        return self._hosts[name]

    def link(self, name: str) -> LinkSpec:
        """The link profile of this name, resolved."""
        return self._links[name]

    def model(self, name: str) -> ModelSpec:
        """The model as the spec describes it."""
        return next(model for model in self.experiment.models if model.name == name)

    def tables_of(self, model: str) -> tuple[CutTable, ...]:
        """The cut tables of a model, one for each batch size and dtype."""
        return tuple(table for table in self.tables if table.model == model)

    def table(self, model: str, batch: int, dtype: str) -> CutTable:
        """The cut table of a model at a batch size."""
        return self._tables[model, batch, dtype]

    def points_on(self, model: str, host: str) -> tuple[Point, ...]:
        """The points of a model in whose placements a host is, in order."""
        return self._points_on.get((model, host), ())

    @cached_property
    def _hosts(self) -> dict[str, Host]:
        return {host.name: host for host in self.hosts}

    @cached_property
    def _links(self) -> dict[str, LinkSpec]:
        return {link.name: link for link in self.experiment.links}

    @cached_property
    def _tables(self) -> dict[tuple[str, int, str], CutTable]:
        return {(table.model, table.batch, table.dtype): table for table in self.tables}

    @cached_property
    def _points_on(self) -> dict[tuple[str, str], tuple[Point, ...]]:
        found: dict[tuple[str, str], list[Point]] = {}
        for point in self.points:
            for host in point.placement:
                found.setdefault((point.model, host), []).append(point)
        return {key: tuple(points) for key, points in found.items()}


class PlanError(ValueError):
    """A plan cannot be made, or does not fit the run it is for: what, where, what is allowed."""


def dump(plan: Plan) -> str:
    """The plan as the text of ``plan.json``."""
    document = asdict(plan) | {"experiment": written(plan.experiment)}
    return json.dumps(document, indent=1) + "\n"


def written(experiment: Experiment) -> dict[str, Any]:
    """An experiment with its links resolved, as ``plan.json`` and ``manifest.json`` hold it."""
    document = asdict(experiment)
    for link, plain in zip(experiment.links, document["links"], strict=True):
        # A trace may have thousands of segments: only what differs from the defaults is written.
        plain["trace"] = [
            {"forward": hop.forward.said, "back": hop.back.said} for hop in link.trace
        ]
    return document


_ADAPTER = TypeAdapter(Plan)


def read(path: Path) -> Plan:
    """Read ``plan.json``.

    Raises
    ------
    PlanError
        When the file is missing, damaged, or of another schema.
    """
    try:
        document = bounded.document(path, 512 * bounded.MEGABYTE)
        if document.get("schema") not in _READABLE:
            found = document.get("schema")
            raise PlanError(
                f"{path}: has schema {found}, this version reads {', '.join(map(str, _READABLE))}"
            )
        for table in document["tables"] if document["schema"] < 4 else ():
            table["inputs"] = [table.pop("input")]
        return _ADAPTER.validate_json(json.dumps(document))
    except OSError as error:
        raise PlanError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise PlanError(f"{path}: {where}: {first['msg']}") from error
    except (bounded.UnreadableFile, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise PlanError(f"{path}: is not a plan: {error}") from error


def program_name(table: CutTable) -> str:
    """Name of the file of a table's program, on the controller and on the hosts."""
    return f"{table.graph_sha256}.json"


def stage_name(table: CutTable, before: str, after: str) -> str:
    """Name of the file of a stage that a runtime other than torch executes, made from its content.

    Parameters
    ----------
    before, after
        Names of the cuts, or endpoints, between which the stage lies.
    """
    content = (table.graph_sha256, table.weights_sha256, table.dtype, table.exporter, before, after)
    return f"{hashlib.sha256(json.dumps(content).encode()).hexdigest()}.stage"


def weights_name(table: CutTable) -> str:
    """Name of the file of the program's tensors, on the controller and on the hosts."""
    return f"{table.held_sha256}.safetensors"


def references_name(table: CutTable) -> str:
    """Name of the file of what the program returns, on the controller and on the source."""
    return f"{table.references_sha256}.safetensors"


def images_file(table: CutTable, folder: Path) -> Path | None:
    """Where a folder has the images that are sent; None where inputs are drawn."""
    return folder / f"images-{table.images_sha256}.safetensors" if table.images_sha256 else None


def program_files(table: CutTable, folder: Path) -> tuple[Path, Path]:
    """Where a folder has a table's program and its tensors."""
    return folder / program_name(table), folder / weights_name(table)


def kept(cache: Path) -> Path:
    """Folder in which the controller keeps programs and their tensors."""
    return cache / "programs"


def slug(model: str) -> str:
    """A model's name as it stands in names of files, in those of sessions and figures alike."""
    return model.replace(":", ".").replace("/", ".")
