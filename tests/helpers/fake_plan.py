"""Plans of made-up runs, and how long their points would take by a simple model of a pipeline."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from paretopipe_worker.cuts import FIRST, LAST, Cut, CutTable, InputSpec, TensorSpec
from paretopipe_worker.plan import planner, spec
from paretopipe_worker.plan.fleet import Host
from paretopipe_worker.plan.plan import Plan, Point

WEIGHTS, GRAPH = "ab" * 32, "12" * 32
FORWARD_MS = 40.0
WIRE_PER_PAYLOAD = 1.045
"""Bytes on the wire per byte of payload."""

HOSTS = (
    Host(name="pi", data_address="10.0.0.1", device_emulated=3.0),
    Host(name="server", data_address="10.0.0.2"),
)

THREE = (*HOSTS, Host(name="cloud", data_address="10.0.0.3"))

_MOBILENET = (
    (32, 112), (16, 112), (24, 56), (24, 56), (32, 28), (32, 28), (32, 28), (64, 14), (64, 14),
    (64, 14), (64, 14), (96, 14), (96, 14), (96, 14), (160, 7), (160, 7), (160, 7), (320, 7),
    (1280, 7),
)  # fmt: skip


def mobilenet_table(batch: int = 1, model: str = "mobilenet_v2") -> CutTable:
    """MobileNetV2's block cuts at 224 px, with their real shapes."""
    cuts = tuple(
        Cut(f"features.{n}", (TensorSpec((batch, channels, side, side), "float32"),))
        for n, (channels, side) in enumerate(_MOBILENET)
    )
    return table(cuts, batch, model)


def table(cuts: tuple[Cut, ...], batch: int = 1, model: str = "mobilenet_v2") -> CutTable:
    """A cut table over these cuts."""
    return CutTable(
        model=model,
        granularity="block",
        batch=batch,
        dtype="float32",
        inputs=(InputSpec((batch, 3, 224, 224), "float32"),),
        cuts=cuts,
        output=(TensorSpec((batch, 1000), "float32"),),
        weights_sha256=WEIGHTS,
        graph_sha256=GRAPH,
        forward_ns=int(FORWARD_MS * 1e6) * batch,
    )


def tiny_table() -> CutTable:
    """Two cuts, for tests that are not about pictures."""
    return table(
        tuple(Cut(f"body.{n}", (TensorSpec((1, 8 << n, 8, 8), "float32"),)) for n in range(2)),
        model="tiny",
    )


def make(
    *tables: CutTable,
    run: str = "made-up",
    hosts: Sequence[Host] = HOSTS,
    **experiment: Any,
) -> Plan:
    """A plan over these tables; `experiment` as in a spec, on the open link by default."""
    document = {"models": [table.model for table in tables], "links": ["none"]} | experiment
    document["models"] = list(dict.fromkeys(document["models"]))
    return planner.make(run, spec.parse(document), hosts, tables)


TWO_LINKS: list[Any] = ["none", {"name": "rate20", "rate_mbit": 20}]
SIX_LINKS: list[Any] = [
    "none",
    "wifi",
    "lte",
    "paper-delay200",
    "paper-rate5",
    "paper-delay200-rate5",
]
PAPER_LINKS: list[Any] = [
    "none",
    {"name": "delay200", "delay_ms": 200},
    {"name": "rate5", "rate_mbit": 5},
    {"name": "both", "rate_mbit": 5, "delay_ms": 200},
]


def share_done(place: int, places: int) -> float:
    """Share of the work that is done before a place."""
    return (place / (places - 1)) ** 0.66


def expected_ms(plan: Plan, point: Point) -> tuple[list[float], list[float]]:
    """Milliseconds of each stage's compute and of each hop's wire, as the made-up numbers have it.

    There is a stage and a hop for each rank of the point's ring. The first quarter of the layers
    does 40 % of the work, as in real networks of images (:func:`share_done`).
    """
    cuts = plan.table(point.model, point.batch, point.dtype).names
    order, ranks = (LAST, *cuts, FIRST), len(point.hops)
    bounds = [0, *map(order.index, point.split), len(order) - 1]
    done = [share_done(bound, len(order)) for bound in bounds]
    stage = [
        FORWARD_MS * point.batch * (after - before) * plan.host(host).device_emulated
        for (before, after), host in zip(itertools.pairwise(done), point.placement, strict=True)
    ][:ranks]
    path = plan.link(point.link).forward_path(ranks)
    wire = [
        way.delay_ms + 0.05 + size * 8 * WIRE_PER_PAYLOAD / ((way.rate_mbit or 9000) * 1e3)
        if size
        else 0.0
        for way, size in zip(path, point.hop_bytes, strict=True)
    ]
    return stage, wire
