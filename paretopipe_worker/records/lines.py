"""The lines of a record file: one dataclass for each kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from pydantic import with_config

from paretopipe_worker.link.conditions import Engine
from paretopipe_worker.records.clocks import Clock
from paretopipe_worker.records.energy import Energy, Rest
from paretopipe_worker.records.health import Health
from paretopipe_worker.records.probes import Probe
from paretopipe_worker.records.profiles import Profile

SCHEMA: Final = 5
Readable: TypeAlias = Literal[4, 5]
"""Versions of the format that can be read."""

CONTROLLER = "controller"
"""Host in the header of a file in which the controller says how it saw a session fail, and name of
the folder of these files."""

CONTROLLER_RANK = -1
"""Rank in the header of such a file."""

Phase = Literal["warmup", "latency", "throughput", "load", "drain"]
"""What an item belongs to. Only `latency`, `throughput` and `load` items count. `warmup` items come
before each of these. `drain` items were still in flight when one ended; only the source can tell,
so that no other rank uses the word."""

COUNTED_PHASES = ("latency", "throughput", "load")
"""Phases whose items count; every leg of a point is of one of them."""


@with_config(extra="forbid", allow_inf_nan=False)
@dataclass(frozen=True)
class Header:
    """First line: who writes, of which session of which run, on what machine.

    `points` holds the ids of the points the session is to measure, in order; `facts` describes the
    host (CPU, kernel, firmware, threads, allocator, network) and `versions` the software.
    `load` is the command of the background load that runs beside the stage; null where there is
    none. `link_engine` names what shapes the packets this host sends, and `link_emulated` is true
    where that is a relay and not the kernel; `tcp` holds the kernel's settings.

    All attempts of a run must have the same `plan_sha256`
    (:func:`paretopipe_worker.plan.identity.digest`), `code_sha256`
    (:func:`paretopipe_worker.plan.code.digest`) and public version of `torch`.
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
    schema: Readable
    load: str | None = None
    kind: Literal["header"] = "header"


@with_config(extra="forbid", allow_inf_nan=False)
@dataclass(frozen=True)
class Ready:
    """The stages found each other: settings of this host's connections, `numerics` by other rank.

    Outputs must be equal to the last bit only where the numerics of all ranks agree.
    `weights_sha256` is the digest of the checksums of all tensors of the model, as the program that
    was read names them; the tensors that this host has were held against theirs.
    """

    transport: dict[str, Any]
    numerics: dict[str, str]
    weights_sha256: str
    kind: Literal["ready"] = "ready"


# One is made for every batch, by the thread that computes; a frozen one takes five times as long.
@with_config(extra="forbid", allow_inf_nan=False)
@dataclass
class Item:
    """One batch through one stage.

    Parameters
    ----------
    point, phase, seq
        The point, the phase, and the batch's number in that phase, from 0.
    ready_ns
        The input was there. On the source: the input tensor was ready; in phase `load` it was due
        to arrive, and may have waited for its turn until `start_ns`. On other stages: its last byte
        had arrived.
    start_ns, computed_ns
        The stage's computation began and ended, stretching included.
    sent_ns
        The stage's output was handed to the transport; null where nothing is sent.
    compute_ns, cpu_ns
        Wall time of the computation without stretching and copies, and the CPU time of the
        computing thread; the latter is null where a device beside the CPU computes.
    done_ns
        On the source: the output was back. Null on other stages.
    latency_ns
        On the source: ``done_ns - ready_ns``. In phase `latency`, with one batch in flight, this is
        the response latency; in phases `throughput` and `load` it is the latency under load, in the
        latter from the moment at which the item was due to arrive. Null on other stages.
    leg
        Number of the leg within the point, from 0. Only the last leg of a phase counts, in `load`
        the last leg of each rate.
    packed_ns
        The stage's output was serialised, ready for the wire; null where nothing is sent.
    departed_ns
        On the clock of the rank before: it began to put on the wire the message that brought the
        input, on the source the message that brought the output. Null where there was no such
        message, or the backend cannot tell: then it left when it was packed.
    segment
        On the source: segment of the link's trace that was in force from `ready_ns` to `done_ns`;
        null where the link follows no trace, or the segment changed meanwhile.
    overslept_ns
        How much later than asked for `computed_ns` is, because the wait that stretches the
        computation ended late; null where nothing is stretched.
    unpack_ns, copy_in_ns, copy_out_ns, pack_ns
        Durations of steps that not every item takes; null where there was none. The input was
        unpacked between `ready_ns` and `start_ns`, and copied to a device after `start_ns`; the
        output was copied back before `computed_ns`, and packed between that and `packed_ns`.
    """

    point: str
    phase: Phase
    seq: int
    ready_ns: int
    start_ns: int
    computed_ns: int
    compute_ns: int
    cpu_ns: int | None
    sent_ns: int | None = None
    done_ns: int | None = None
    latency_ns: int | None = None
    leg: int = 0
    packed_ns: int | None = None
    departed_ns: int | None = None
    segment: int | None = None
    overslept_ns: int | None = None
    unpack_ns: int | None = None
    copy_in_ns: int | None = None
    copy_out_ns: int | None = None
    pack_ns: int | None = None
    kind: Literal["item"] = "item"


@with_config(extra="forbid", allow_inf_nan=False)
@dataclass(frozen=True)
class LegEnd:
    """One leg of one point, as one stage saw it; `phase` is `latency`, `throughput` or `load`.

    Parameters
    ----------
    items, start_ns, end_ns
        Number of items that count. The times span from the first one's input being ready to the
        last one's end on this stage.
    ended_by
        On the source: `minimum` where both the minimum count and the minimum time were reached,
        `maximum` where the maximum time came first, so that the count may be short. Null on other
        stages.
    payload_sent_bytes
        Tensor data handed to the transport, warm-up and drain included.
    wire_sent_bytes
        What the kernel counted as sent for it in the same time, protocol headers and
        retransmissions included as far as the counter sees them; null where nothing counts.
    wire_counter
        What was counted: the transport's own `sockets` or the whole `interface`.
    retransmitted_bytes
        The part of `wire_sent_bytes` that was sent again; null where that is not known.
    relay_late_p99_ns, relay_forwarded, relay_dropped
        Where a relay shapes what this host sends: how late it sent packets (99th percentile), how
        many it sent and how many it dropped. Null without a relay.
    leg
        Number of the leg within the point.
    window
        Largest number of items in flight: 1 in phase `latency`.
    warmup_items, warmup_ended_by
        On the source: number of items before those that count, and whether they had become `steady`
        or were `never steady`, so that the bound on their number or time ended the warm-up. In
        phase `load` the warm-up has as many items as the window and nothing else ends it:
        `warmup_ended_by` is null. Both are null on other stages.
    offered_per_s
        On the source in phase `load`: items due to arrive per second. Else null.
    health, disturbed
        The host meanwhile, and, in words, each reading that is outside its band.
    energy
        What the host used from before the warm-up until nothing was in flight any more; null in
        records from before that was read.
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
    energy: Energy | None = None
    kind: Literal["phase"] = "phase"


@with_config(extra="forbid", allow_inf_nan=False)
@dataclass(frozen=True)
class PointBegin:
    """A point begins, written by the source: without its end, the session ended while it ran."""

    point: str
    kind: Literal["begin"] = "begin"


@with_config(extra="forbid", allow_inf_nan=False)
@dataclass(frozen=True)
class PointEnd:
    """How a point ended, written by the source.

    `gate` is whether the stages, one after the other on this host, returned exactly what the whole
    model returns; null where that was not tried, since this host does not have the whole model.
    `output` compares the pipeline's real output with what it returns in float32: `exact`, `close`
    or `unchecked`.
    `max_relative_error` is the largest relative error: 0 where exact (null in records of before),
    null where unchecked. `top1_agreement` is the share of the images that came back whose largest
    output is of the same class; null without images, trained weights or classes. A failed point has
    its `reason`. The controller writes one for a point whose stages do not fit on their hosts.
    """

    point: str
    status: Literal["ok", "failed"]
    reason: str | None
    gate: bool | None
    output: Literal["exact", "close", "unchecked"]
    max_relative_error: float | None
    top1_agreement: float | None = None
    kind: Literal["point"] = "point"


@with_config(extra="forbid", allow_inf_nan=False)
@dataclass(frozen=True)
class End:
    """Last line: how the session ended here, and where its time went.

    A stage's `reason` begins with its host's name. `process_start_ns` and `end_ns` bound the
    process on the host's own clock; `shares_ns` splits the time between them by kind (see
    :data:`SHARES`). `wall_clock_step_ns` is by how much the host's wall clock moved against that
    clock, from the header to here. `interrupted` is true where a signal told the process to end:
    then what it was doing is not the cause.
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
    *("startup", "rendezvous", "rest", "profile", "clock", "probe", "gate", "switch", "warmup"),
    *COUNTED_PHASES,
    *("cool-down",),
)
"""Kinds of time a session is split into; the rest is ``other``. The time of phases is counted on
the source, which leads them."""

Record = (
    Header | Ready | Item | LegEnd | PointBegin | PointEnd | Clock | Probe | Rest | Profile | End
)
