"""A small made-up cut table and plans of it, for tests that need a plan and no model."""

from __future__ import annotations

from typing import Any

from paretopipe_worker.cuts import Cut, CutTable, InputSpec, TensorSpec
from paretopipe_worker.plan import planner, spec
from paretopipe_worker.plan.fleet import Host
from paretopipe_worker.plan.plan import Plan

HOSTS = (Host(name="edge", data_address="10.0.0.1"), Host(name="server", data_address="10.0.0.2"))
LINKS = ["none", {"name": "slow", "rate_mbit": 5, "delay_ms": 20}]


def fleet(hosts: int) -> tuple[Host, ...]:
    """So many hosts: ``h0``, ``h1`` and so on."""
    return tuple(
        Host(name=f"h{number}", data_address=f"10.0.1.{number + 1}") for number in range(hosts)
    )


def table(model: str = "tiny", batch: int = 1, cuts: int = 3) -> CutTable:
    """A cut table whose crossing tensors get smaller from cut to cut."""
    return CutTable(
        model=model,
        granularity="block",
        batch=batch,
        dtype="float32",
        inputs=(InputSpec((batch, 3, 32, 32), "float32"),),
        cuts=tuple(
            Cut(f"layer{number}", (TensorSpec((batch, max(1, 64 >> number), 8, 8), "float32"),))
            for number in range(cuts)
        ),
        output=(TensorSpec((batch, 10), "float32"),),
        weights_sha256="0" * 64,
        graph_sha256="1" * 64,
        forward_ns=10_000_000,
    )


def make(hosts: tuple[Host, ...] = HOSTS, **keys: Any) -> Plan:
    """A plan of the made-up model, on two links by default; `keys` are those of a spec."""
    experiment = spec.parse({"models": ["tiny"], "links": LINKS, **keys})
    return planner.make("test", experiment, hosts, [table(batch=b) for b in experiment.batch])
