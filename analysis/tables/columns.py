"""The columns of ``points.csv`` and ``front.csv``, in order."""

from __future__ import annotations

from collections.abc import Iterator

from analysis.column import Column
from analysis.measures import energy, forward, legs, memory, sharing
from analysis.measures.attribution_columns import TOTALS
from analysis.measures.check_columns import (
    bytes_columns,
    link_columns,
    output_columns,
    probe_columns,
    relay_columns,
)
from analysis.measures.objective_columns import latency_columns, throughput_columns
from analysis.measures.packed import WIRE_BYTES
from analysis.tables import certainty, joint


def _identity() -> Iterator[Column]:
    """What was to be measured, from the plan: never null unless it says so."""
    yield Column("point", "", "Id made from the point's content.", front=True)
    yield Column("model", "", "Model as the experiment names it.", front=True)
    yield Column(
        "split",
        "",
        "Cuts of the pipeline in the order of the data, joined by `+`, one between each rank and "
        "the next; `@last` is before the whole model, `@first` behind it. Between two equal cuts a "
        "rank computes nothing.",
        front=True,
    )
    yield Column(
        "position",
        "",
        "Place of the split among all splits in the order of the data, by its first cut, then by "
        "the second, and so on: 0 is all on the last rank, the highest all on rank 0.",
        front=True,
    )
    yield Column("placement", "", "Hosts by rank, source first, joined by `>`.", front=True)
    yield Column("link", "", "Name of the link profile that was asked for.", front=True)
    yield Column("link_asked", "", "What that profile asks for, in words.", front=True)
    forward = "forward, from rank 0 to the last rank of the point's session"
    back = "from that rank back to rank 0"
    for start, rate, delay in (
        (
            "",
            f"Lowest rate of that profile {forward}",
            f"One-way delay, added over hops, {forward}",
        ),
        ("return_", f"Rate of that profile {back}", f"One-way delay {back}"),
    ):
        yield Column(
            f"{start}rate_mbit",
            "Mbit/s",
            f"{rate}.",
            "no rate was asked for, or it follows a trace",
            front=True,
        )
        yield Column(f"{start}delay_ms", "ms", f"{delay}.", "it follows a trace", front=True)
    yield Column("backend", "", "How tensors cross the link.", front=True)
    yield Column("batch", "images", "Images in one item.", front=True)
    yield Column("window", "items", "Items in flight in the throughput phase.", front=True)
    yield Column("dtype", "", "Number format of the computation.", front=True)
    yield from _circumstances()
    yield Column(
        "payload_bytes",
        "bytes",
        "Tensor data of one item on its way forward, added over hops; stages.csv has it by rank.",
        front=True,
    )
    yield Column("return_bytes", "bytes", "Tensor data of one item on its way back.", front=True)


def _circumstances() -> Iterator[Column]:
    """What most experiments do not vary."""
    yield Column(
        "runtimes",
        "",
        "What executes the stages, by rank, joined by `>`; one name where all are the same.",
        front=True,
    )
    yield Column(
        "wire",
        "",
        "Format in which tensors cross on their way forward; `fp32` is as they are.",
        front=True,
    )
    yield Column("busy", "", "Whether hosts ran their background load meanwhile.", front=True)
    yield Column(
        "sources",
        "",
        "How many sources shared the sink's host, each with a pipeline of its own like this one.",
        front=True,
    )


def _outcome() -> Iterator[Column]:
    """Whether it was measured."""
    yield Column(
        "status",
        "",
        "`ok`: at least one replicate was measured; `failed`: all that were tried failed; "
        "`missing`: none was tried.",
    )
    yield Column(
        "reason",
        "",
        "Why the point, or some of its replicates, has no figures.",
        "every replicate was measured",
    )
    yield Column(
        "replicates",
        "",
        "Number of replicates measured. All figures are computed from these.",
        front=True,
    )
    yield Column("tries", "", "Attempts at the point, added over all its replicates.")
    yield Column(
        "on_front",
        "",
        "Whether no other point of the same model, placement, link, backend, batch, window, "
        "dtype, runtimes, wire, busy and sources is at least as good in latency and throughput and "
        "better in one; `--objectives` of `analysis.pareto` names others. Points whose "
        "`link_certified` is false are left off and beat no other, unless `--uncertified` asks for "
        "them.",
    )


_DEVICES = (
    Column(
        "device_emulated",
        "",
        "Whether the computation of any host of the placement was stretched.",
        front=True,
    ),
)


SECTIONS: dict[str, tuple[Column, ...]] = {
    "What was to be measured": tuple(_identity()),
    "Whether it was": (*_outcome(), *certainty.COLUMNS, *joint.COLUMNS),
    "Latency": tuple(latency_columns()),
    "Throughput and phases": (*throughput_columns(), *legs.ending_columns()),
    "Forward latency and clocks": tuple(forward.columns()),
    "Devices": (*_DEVICES, *energy.COLUMNS, *memory.COLUMNS),
    "Where the response latency went": TOTALS,
    "Warm-up, window and disturbances": tuple(legs.columns()),
    "Several sources": sharing.COLUMNS,
    "Checks": (
        *bytes_columns(),
        WIRE_BYTES,
        *output_columns(),
        *probe_columns(),
        *link_columns(),
        *relay_columns(),
    ),
}
COLUMNS: tuple[Column, ...] = tuple(column for section in SECTIONS.values() for column in section)
POINTS: tuple[str, ...] = tuple(column.name for column in COLUMNS)
"""Columns of ``points.csv`` in order."""
FRONT: tuple[str, ...] = tuple(column.name for column in COLUMNS if column.front)
"""Columns of ``front.csv`` in order."""
