"""What hosts told of themselves: read here once, since a host may print anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from paretopipe_worker.usertext import shown

_TOLERANT = ConfigDict(extra="ignore")

_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Nanoseconds = Annotated[int, Field(gt=-(2**63), lt=2**63)]


@dataclass(frozen=True, config=_TOLERANT)
class Swap:
    """A place to which a host swaps memory, by its name in ``/proc/swaps``."""

    name: str
    bytes: _Count
    used_bytes: _Count


@dataclass(frozen=True, config=_TOLERANT)
class Disk:
    """The file system of the worker's folder, and the size of the programs' files there."""

    path: str
    free_bytes: _Count
    held_bytes: _Count
    writable: bool


@dataclass(frozen=True, config=_TOLERANT)
class Tried:
    """A build of torch that has computed on the host."""

    processor: str
    python: str
    build: str
    torch: str


@dataclass(frozen=True, config=_TOLERANT)
class Worker:
    """The worker's own Python by its path: what it lacks, and how torch fared in it."""

    name: str
    python: tuple[int, int, int] | None = None
    missing: tuple[str, ...] = ()
    torch: Tried | None = None
    problem: str | None = None


@dataclass(frozen=True, config=_TOLERANT)
class Call:
    """How a call of a peer's port went: `problem` is why it failed."""

    peer: str
    port: int
    problem: str | None


@dataclass(frozen=True, config=_TOLERANT)
class Ways:
    """By port why the host cannot have it, or null; and its calls."""

    ports: Mapping[int, str | None]
    calls: tuple[Call, ...]


@dataclass(frozen=True, config=_TOLERANT)
class OfUser:
    """What the user who logs in can tell (:func:`paretopipe_worker.survey.of_user`)."""

    user: str
    python: str
    os: str | None
    kernel: str
    machine: str
    bits: int
    page_bytes: _Count
    processor: str
    board: str | None
    free_memory_bytes: _Count | None
    swaps: tuple[Swap, ...]
    disk: Disk
    governors: Mapping[str, tuple[str, ...] | None]
    throttling: _Count | None
    gpus: tuple[str, ...]
    tools: tuple[str, ...]
    addresses: tuple[str, ...]
    worker: Worker | None
    ways: Ways
    began_unix_ns: _Nanoseconds
    ended_unix_ns: _Nanoseconds


@dataclass(frozen=True, config=_TOLERANT)
class Sweep:
    """A run of which something runs on the host."""

    run: str
    user: str
    started_unix_s: float
    lease_s: float
    renewing: bool
    renewed_s: float | None


@dataclass(frozen=True, config=_TOLERANT)
class Holder:
    """Who has a port; `run` is the run if it is a stage."""

    who: str
    run: str | None = None


@dataclass(frozen=True, config=_TOLERANT)
class Netem:
    """Why the host cannot shape its links, and what there is to warn of."""

    problem: str | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, config=_TOLERANT)
class OfRoot:
    """What root can tell (:func:`paretopipe_worker.survey.of_root`)."""

    user_id: int
    sweeps: tuple[Sweep, ...]
    holders: Mapping[int, Holder]
    netem: Netem


@dataclass(frozen=True, config=_TOLERANT)
class Given:
    """What the inventory says of a host beside what the plan has."""

    home: str = ""
    worker_python: str = ""
    governor: str = ""
    install: bool = True


@dataclass(frozen=True, config=_TOLERANT)
class Answer:
    """All that is known of a host; what could not be asked is null, and a `..._problem` says why.

    `sent_unix_ns` and `received_unix_ns` are the controller's times at which it asked the user's
    part and had the answer.
    """

    given: Given
    unreachable: str | None = None
    system: str | None = None
    python: str | None = None
    python_problem: str | None = None
    sudo_problem: str | None = None
    user: OfUser | None = None
    user_problem: str | None = None
    root: OfRoot | None = None
    root_problem: str | None = None
    sent_unix_ns: _Nanoseconds = 0
    received_unix_ns: _Nanoseconds = 0


_ADAPTER = TypeAdapter(Answer)


def parse(given: Mapping[str, Any]) -> Answer:
    """Read what is known of a host.

    What cannot be read of a part that the host told counts as not asked, with the reason.
    """
    try:
        return _ADAPTER.validate_python(given)
    except ValidationError as error:
        fault = error.errors()[0]
        part = str(fault["loc"][0])
        if part not in ("user", "root") or given.get(part) is None:
            raise
        where = ".".join(map(str, fault["loc"]))
        why = f"told something else than expected: {where}: {fault['msg']}, {shown(fault['input'])}"
        return parse({**given, part: None, f"{part}_problem": why})
