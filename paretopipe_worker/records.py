"""The record format: what every stage writes, line by line, and the analysis reads.

One JSON-lines file per host and session. The first line is a :class:`Header`, then one line per
measured item, phase, link probe and point, and last an :class:`End`; a file without that line was
cut short. Lines are flushed as they are made, so that a killed stage loses at most the item in
hand. Files are never rewritten: another try of a session is another file, with the next attempt.

Format history
--------------
1
    First version.
2
    The header tells the link's engine and TCP's settings, a phase what was retransmitted and what
    a relay did. A probe has single transfers, and datagrams where chance is part of the link.
3
    A point's legs are numbered, since one may be measured again; there may be legs of offered load.
    An item tells when its message was packed and when the one that brought it left the rank before;
    a phase tells how its warm-up ended, the host's health meanwhile, and what disturbed it. The
    source records what the clocks of the hosts have to do with one another.
4
    A header tells by digests whose records it begins: of the plan, and of the worker's code,
    beside the version of torch. An item tells how late its stretching ended. Clocks are
    compared between points too, by times that tell how each is corrected. A link's engine may
    be the kernel's htb. A phase ends its warm-up `never steady` where that was so. The source
    records when a point begins, and an end whether the process was told to end. A probe has the
    number of points walked before it, since the path is measured between points too. Weights
    are told in ``ready``: those that were loaded.

All times come from the writing host's ``perf_counter_ns``, but those that say whose they are. Times
of two hosts must not be subtracted from each other without a :class:`Clock` record between them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias

import orjson
from pydantic import ConfigDict, TypeAdapter, ValidationError

from paretopipe_worker.link.conditions import Engine

SCHEMA = 4

Phase = Literal["warmup", "latency", "throughput", "load", "drain"]
"""Only `latency`, `throughput` and `load` items count. `warmup` ones come before each, `drain` ones
are those still in flight when a phase ended, known as such on the source alone."""

LEGS = ("latency", "throughput", "load")
"""Phases that count, each a leg of its own, possibly several."""


@dataclass(frozen=True)
class Header:
    """First line: who writes, of which session of which run, on what machine.

    `points` are the ids the session is to measure, in order; `facts` describe the host (CPU,
    kernel, firmware, threads, allocator, network) and `versions` the software. `link_engine` is who
    shapes what this host sends, `link_emulated` whether that is no kernel but a relay; `tcp` the
    kernel's settings.

    By `plan_sha256` (:func:`paretopipe_worker.plan.plan.digest`), `code_sha256`
    (:func:`paretopipe_worker.plan.code.digest`) and the public version of `torch` all attempts of a
    run are held to be alike.
    """

    run: str
    session: str
    attempt: int
    replicate: int
    host: str
    rank: int
    backend: str
    link: str
    model: str
    points: tuple[str, ...]
    plan_sha256: str
    code_sha256: str
    torch: str
    device_emulated: float
    link_engine: Engine
    link_emulated: bool
    tcp: dict[str, Any]
    started_unix_ns: int
    facts: dict[str, Any]
    versions: dict[str, str]
    schema: int = SCHEMA
    kind: Literal["header"] = "header"


@dataclass(frozen=True)
class Ready:
    """The stages found each other: settings of the links here, `numerics` of the other ranks.

    Outputs are held to be equal to the last bit only where the numerics of all ranks agree.
    `weights_sha256` is the digest of the tensors that this host's model holds, taken when it had
    been loaded.
    """

    transport: dict[str, Any]
    numerics: dict[str, str]
    weights_sha256: str
    kind: Literal["ready"] = "ready"


# One is made for every batch, by the thread that computes; a frozen one takes five times as long.
@dataclass
class Item:
    """One batch through one stage.

    Parameters
    ----------
    point, phase, seq
        Which point and phase, and the batch's number in that phase, from 0.
    ready_ns
        Input is there: on the source the input tensor is ready, or in phase `load` was to arrive
        (it may wait until `start_ns` for its turn), elsewhere its last byte arrived.
    start_ns, computed_ns
        The stage's computation began and ended, stretching included.
    sent_ns
        The stage's output was handed to the transport; null where nothing is sent.
    compute_ns, cpu_ns
        Wall time of the computation without stretching, and the CPU time of the computing thread.
    done_ns
        On the source: the output is back. Null on other stages.
    latency_ns
        On the source: ``done_ns - ready_ns``; the response latency where one batch was in flight
        (phase `latency`), the latency under load in phases `throughput` and `load`, in the latter
        from the moment at which the item was to arrive. Null on other stages.
    leg
        Number of the leg within the point, from 0; only the last leg of a phase, in `load` of a
        rate, counts.
    packed_ns
        The stage's output was serialised, ready for the wire; null where nothing is sent.
    departed_ns
        On the clock of the rank before: when it began to put on the wire the message that brought
        the input, on the source the one that brought the output. Null where there was none, or the
        backend cannot tell: then it left when it was packed.
    segment
        On the source: segment of the link's trace that was in force from `ready_ns` to `done_ns`;
        null where the link has none, or it changed meanwhile.
    overslept_ns
        How much later than asked for `computed_ns` is, because the wait that stretches the
        computation ended late; null where nothing is stretched.
    """

    point: str
    phase: Phase
    seq: int
    ready_ns: int
    start_ns: int
    computed_ns: int
    compute_ns: int
    cpu_ns: int
    sent_ns: int | None = None
    done_ns: int | None = None
    latency_ns: int | None = None
    leg: int = 0
    packed_ns: int | None = None
    departed_ns: int | None = None
    segment: int | None = None
    overslept_ns: int | None = None
    kind: Literal["item"] = "item"


@dataclass(frozen=True)
class Health:
    """The host during one leg, looked at between items, a few times a second at most.

    Null is what the host does not tell.

    Parameters
    ----------
    wall_over_cpu
        Wall time of the stage's computation over the CPU time of its thread: the median of the
        items in phase `latency`, in the others that of all items together.
    others_cpu
        Cores that all but this stage used, on average: other processes, the kernel's interrupts,
        other guests of the same host.
    cpu_mhz
        Lowest, median and highest frequency of the core that had just computed.
    policy_mhz
        Lowest and highest frequency of these by the cores whose frequency is set together.
    governor
        How the frequency is chosen, as the leg began.
    temperature_c
        Highest temperature seen of any thermal zone.
    throttled
        What the firmware says it did as the leg began or ended, or in between for the first time
        since its boot (``vcgencmd get_throttled``): ``under-voltage``, ``frequency capped``,
        ``throttled``, ``hot``.
    swapped_pages
        Pages the host swapped in or out.
    peak_rss_bytes
        Peak resident memory of this process during the leg; null where the kernel cannot start the
        count anew.
    gpu_mhz
        Lowest and highest clock of the first GPU (NVML).
    overslept
        By what share of it the stretched computation took longer than asked for, since waits ended
        late: sum over sum of the items, but the shortest. Null where nothing is stretched.
    """

    wall_over_cpu: float | None = None
    others_cpu: float | None = None
    cpu_mhz: tuple[float, float, float] | None = None
    policy_mhz: dict[str, tuple[float, float]] | None = None
    governor: str | None = None
    temperature_c: float | None = None
    throttled: tuple[str, ...] | None = None
    swapped_pages: int | None = None
    peak_rss_bytes: int | None = None
    gpu_mhz: tuple[float, float] | None = None
    overslept: float | None = None


@dataclass(frozen=True)
class PhaseEnd:
    """One leg of one point, as one stage saw it: `latency`, `throughput` or `load`.

    Parameters
    ----------
    items, start_ns, end_ns
        Counted items, from the first one's input being ready to the last one's end here.
    ended_by
        On the source: `minimum` where minimum count and time were both reached, `maximum` where
        the maximum time came first, so that the count may be short. Null on other stages.
    payload_sent_bytes
        Tensor data handed to the transport, warm-up and drain included.
    wire_sent_bytes
        What the kernel counted for it in the same time, protocol headers and retransmissions
        included as far as the counter sees them; null where nothing counts.
    wire_counter
        Who counted: the transport's own `sockets` or the whole `interface`.
    retransmitted_bytes
        Part of that which was sent again; null where that is not known.
    relay_late_p99_ns, relay_forwarded, relay_dropped
        Where a relay shapes what this host sends: how late it sent packets (99th percentile),
        how many it sent and how many it dropped. Null without a relay.
    leg
        Number of the leg within the point.
    window
        Items in flight at most: 1 in phase `latency`.
    warmup_items, warmup_ended_by
        On the source: items before those that count, and whether they had become `steady` or the
        bound on their number or time ended them, so that they were `never steady`. The latter is
        null in phase `load`, where they are as many as the window. Null on other stages.
    offered_per_s
        On the source in phase `load`: items per second that were to arrive. Else null.
    health, disturbed
        The host meanwhile, and in words what of it is outside its band.
    """

    point: str
    phase: Phase
    items: int
    start_ns: int
    end_ns: int
    ended_by: Literal["minimum", "maximum"] | None
    payload_sent_bytes: int
    wire_sent_bytes: int | None
    wire_counter: Literal["sockets", "interface"] | None
    retransmitted_bytes: int | None
    relay_late_p99_ns: int | None
    relay_forwarded: int | None
    relay_dropped: int | None
    leg: int = 0
    window: int = 1
    warmup_items: int | None = None
    warmup_ended_by: Literal["steady", "never steady"] | None = None
    offered_per_s: float | None = None
    health: Health | None = None
    disturbed: tuple[str, ...] = ()
    kind: Literal["phase"] = "phase"


@dataclass(frozen=True)
class PointBegin:
    """A point begins, written by the source: without its end, it was in hand when all ended."""

    point: str
    kind: Literal["begin"] = "begin"


@dataclass(frozen=True)
class PointEnd:
    """How a point ended, written by the source.

    `gate` is whether the stages, one after the other on this host, returned exactly what the whole
    model returns; `output` how the pipeline's real output compares with it: `exact`, `close` (then
    `max_relative_error` says how close) or `unchecked`. A failed point has its `reason`.
    """

    point: str
    status: Literal["ok", "failed"]
    reason: str | None
    gate: bool | None
    output: Literal["exact", "close", "unchecked"]
    max_relative_error: float | None
    kind: Literal["point"] = "point"


@dataclass(frozen=True)
class Transfer:
    """Single messages of one size over one hop, each sent when the path had been idle.

    `ns` are the times of each at the source, from sending to the end of the answer: on all other
    hops of the ring a small message travels. `hop` n leads from rank n to the next one.
    """

    hop: int
    bytes: int
    ns: tuple[int, ...]


@dataclass(frozen=True)
class Datagrams:
    """UDP datagrams sent around the ring one by one, at the data ports.

    `sent` and `received` are by hop and count none twice, so that a hop's difference was lost
    there; `round_trip_ns` are the times of those that came back.
    """

    interval_ns: int
    sent: tuple[int, ...]
    received: tuple[int, ...]
    round_trip_ns: tuple[int, ...]


@dataclass(frozen=True)
class Probe:
    """The path as the stages measured it with their own connections: a certificate of the link.

    On a link that follows a trace there is one for each segment that is certified, which was held
    meanwhile, and where packets are lost it consists of datagrams alone.

    Parameters
    ----------
    after_points
        How many of the session's points, in the header's order, had been walked by then.
    round_trip_ns
        Small messages around all stages, several under way at once, timed at the source.
    goodput_mbit
        Tensor data per time by hop, the way back to the source last, when it grew no more, on the
        receiver's clock.
    transfers
        Single messages by size and hop; sizes that would take too long are left out.
    datagrams
        Null where nothing on the link is left to chance.
    segment
        Of the link's trace; null where it follows none.
    """

    after_points: int
    round_trip_ns: tuple[int, ...]
    goodput_mbit: tuple[float, ...]
    transfers: tuple[Transfer, ...]
    datagrams: Datagrams | None
    segment: int | None = None
    kind: Literal["probe"] = "probe"


Reading: TypeAlias = tuple[int, int, int]
"""Times of one host, read one right after the other: of ``CLOCK_MONOTONIC``, which is that of all
records and which NTP slews; of ``CLOCK_MONOTONIC_RAW``, which nothing corrects; of the first."""


@dataclass(frozen=True)
class Exchange:
    """A question and its answer: the source's clocks, the other rank's, the source's again."""

    sent: Reading
    theirs: Reading
    received: Reading


@dataclass(frozen=True)
class Clock:
    """What the clocks of rank `rank` have to do with the source's.

    `exchanges` are the fastest of many on the control path. The other rank's clock is ahead of the
    source's by ``theirs - (sent + received) / 2``, give or take half of the time in between
    (Cristian, "Probabilistic clock synchronization", Distributed Computing 3, 1989). They were made
    before or after the session, or between its parts: before the first point and after each.
    """

    when: Literal["before", "between", "after"]
    rank: int
    exchanges: tuple[Exchange, ...]
    kind: Literal["clock"] = "clock"


@dataclass(frozen=True)
class End:
    """Last line: how the session ended here, and where its time went.

    A stage's `reason` begins with its host's name.
    `process_start_ns` and `end_ns` bound the process on the host's own clock; `shares_ns` splits
    the time between them by kind (see :data:`SHARES`). `wall_clock_step_ns` is by how much the
    host's wall clock moved against that one, from the header to here. `interrupted` says that the
    process was told to end by a signal: whatever it was at is not the cause.
    """

    status: Literal["ok", "failed"]
    reason: str | None
    process_start_ns: int
    end_ns: int
    shares_ns: dict[str, int]
    wall_clock_step_ns: int | None = None
    interrupted: bool = False
    kind: Literal["end"] = "end"


SHARES = (
    *("startup", "rendezvous", "clock", "probe", "gate", "switch", "warmup"),
    *LEGS,
    *("cool-down",),
)
"""Kinds of time a session is split into; what is left over is ``other``. The phases' time is
counted on the source, which leads them."""

Record = Header | Ready | Item | PhaseEnd | PointBegin | PointEnd | Clock | Probe | End
_KINDS: dict[str, type] = {
    "header": Header,
    "ready": Ready,
    "item": Item,
    "phase": PhaseEnd,
    "begin": PointBegin,
    "point": PointEnd,
    "clock": Clock,
    "probe": Probe,
    "end": End,
}


class RecordError(ValueError):
    """A record file that cannot be used: the text says which file and line, and why."""


class DamagedRecord(RecordError):
    """A line is no record: what was written there is not what is there now."""


class Writer:
    """Append records to one new file, each flushed before the next is made.

    Raises
    ------
    FileExistsError
        When the file is there: records are never rewritten.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("xb")

    def write(self, record: Record) -> None:
        """Append one line."""
        self._file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        self._file.flush()

    def close(self) -> None:
        """Close the file; without an :class:`End` before, it counts as cut short."""
        self._file.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read(path: Path) -> Iterator[Record]:
    """Yield the records of one file, checked.

    A file cut short ends early: the caller sees no :class:`End`. An unfinished last line is what a
    killed stage leaves, and a host that lost power, and is passed over.

    Raises
    ------
    DamagedRecord
        Naming file and line, when a line is no record, or the first is no header.
    RecordError
        When the records are of another schema.
    """
    # As bytes, since a damaged file need not be text.
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                return
            record = _parse(line, f"{path}:{number}")
            if (number == 1) != isinstance(record, Header):
                raise DamagedRecord(f"{path}:{number}: the header must be the first line, and once")
            yield record


def _parse(line: bytes, where: str) -> Record:
    """One line as a record, or an error that names `where`."""
    try:
        document = json.loads(line.decode())
        kind = document["kind"]
        adapter = _adapter(_KINDS[kind])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedRecord(
            f"{where}: is not a record ({error}); kinds are {', '.join(_KINDS)}"
        ) from error
    if kind == "header" and document.get("schema") != SCHEMA:
        raise RecordError(
            f"{where}: has schema {document.get('schema')}, this version reads {SCHEMA}"
        )
    try:
        record: Record = adapter.validate_python(document)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        raise DamagedRecord(f"{where}: {kind}.{path}: {first['msg']}") from error
    return record


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    """The validator of one kind, unknown fields refused."""
    for part in (kind, Transfer, Datagrams, Health, Exchange):
        part.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[attr-defined]
    return TypeAdapter(kind)


def file_name(session: str, attempt: int) -> str:
    """Name of the file of one host and session under ``records/<host>/``."""
    return f"{session}.{attempt}.jsonl"
