"""A run's profile of its hosts as the files of PipeEdge's scheduler."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.prediction.costs import Array, Costs
from analysis.prediction.parts import PredictionError, costs, group_of
from analysis.prediction.pipeedge import MIB, DeviceType, Files, Model, PipeEdgeError, Profile
from analysis.run import Run
from paretopipe_worker.cuts import DTYPE_BYTES, INT8, PLAIN, CutTable
from paretopipe_worker.plan.plan import Plan

_SEVERAL = (
    "Of each host one profile of {} in batches of {} and {} is written, that of the first pipeline "
    "of the plan."
)


def exported(run: Run, measured: pd.DataFrame, link: str) -> tuple[Files, list[str]]:
    """What a run measured, as far as the three files can hold it.

    Every host is a kind of device of its own. The time of a layer is that with items following
    each other, as in a pipeline that is full. The rate of a host is that of the slowest hop
    forward that begins or ends there, in bytes of tensors.

    Parameters
    ----------
    run
        The run.
    measured
        Its replicates, see :func:`analysis.measures.replicates.replicates`.
    link
        The link whose rates are taken.

    Returns
    -------
    The files, and what of the run is not in them, as sentences.

    Raises
    ------
    PipeEdgeError
        When nothing of the run can be written, or its plan does not tell how much memory is needed.
    """
    models: dict[str, Model] = {}
    profiles: dict[str, dict[str, list[Profile]]] = {}
    rates: dict[str, float] = {}
    left_out: dict[str, None] = {}
    groups = {tuple(group_of(p).values()): p for p in run.plan.points if p.link == link}
    for point in groups.values():
        about = group_of(point)
        if why := _unfit(about):
            left_out[why] = None
            continue
        try:
            made = costs(run, measured, about)
        except PredictionError as error:
            left_out[f"{error}."] = None
            continue
        table = run.plan.table(point.model, point.batch, point.dtype)
        models.setdefault(table.model, _model(table))
        for rank, host in enumerate(made.hosts):
            own = _profile(made.busy_ms[rank], table)
            known = profiles.setdefault(host, {}).setdefault(table.model, [])
            if any((own.batch_size, own.dtype) == (p.batch_size, p.dtype) for p in known):
                left_out[_SEVERAL.format(table.model, table.batch, table.dtype)] = None
            else:
                known.append(own)
            rates[host] = min(rates.get(host, np.inf), _rate(made, rank))
    if not models:
        told = " ".join(left_out) or f"no point was planned over link {link}."
        raise PipeEdgeError(f"nothing of the run can be written: {told}")
    memory = _memory_bytes(run)
    kinds = {
        host: DeviceType(bw_Mbps=rates[host], mem_MB=memory[host] / MIB, model_profiles=each)
        for host, each in profiles.items()
    }
    return Files(models, kinds, {host: [host] for host in profiles}), list(left_out)


def _unfit(about: Mapping[str, Any]) -> str | None:
    """Why the files cannot hold a group of points."""
    for name, usual, what in (
        ("wire", PLAIN, "packed tensors"),
        ("busy", False, "busy hosts"),
        ("sources", 1, "several sources"),
    ):
        if about[name] != usual:
            return f"The files cannot hold {what}."
    return "The files cannot hold stages in int8." if about["dtype"] == INT8 else None


def _model(table: CutTable) -> Model:
    """A model's layers: what lies between neighbouring cuts."""
    if table.footprint is None:
        raise PipeEdgeError(
            f"the plan does not tell how much memory {table.model} needs, which {table.model}'s "
            "mem_MB is to hold: it was made by an earlier version"
        )
    parts = range(len(table.cuts) + 1)
    held = [table.footprint.held_bytes([n]) + table.footprint.peak_bytes([n]) for n in parts]
    sent = [*(cut.payload_bytes for cut in table.cuts), sum(each.nbytes for each in table.output)]
    item = DTYPE_BYTES[table.dtype] * table.batch
    return Model(
        layers=len(parts),
        mem_MB=[size / MIB for size in held],
        parameters_in=-(-sum(each.nbytes for each in table.inputs) // item),
        parameters_out=[-(-size // item) for size in sent],
    )


def _profile(busy_ms: Array, table: CutTable) -> Profile:
    """What each layer takes on a host."""
    times = (np.diff(busy_ms) / 1e3).tolist()
    return Profile(batch_size=table.batch, dtype=f"torch.{table.dtype}", time_s=times)


def _rate(made: Costs, rank: int) -> float:
    """The rate of the slowest hop that begins or ends at a rank, in 2**20 bits per second."""
    slowest = max(hop.ms_per_byte for hop in made.hops[max(0, rank - 1) : rank + 1])
    if not slowest:
        raise PipeEdgeError(
            f"the rate of {made.hosts[rank]}'s link is not known: it has no limit, and no session "
            "measured it"
        )
    return 8e3 / slowest / MIB


def _memory_bytes(run: Run) -> dict[str, float]:
    """The memory of each host: what its inventory allows, or else what it has."""
    found = {
        row["host"]: float(row["facts"]["memory_bytes"]) for row in run.stages.to_dict("records")
    }
    return found | dict(_allowed(run.plan))


def _allowed(plan: Plan) -> Iterator[tuple[str, float]]:
    """The hosts whose inventory says how much memory a stage may take, and how much."""
    for host in plan.hosts:
        if host.memory_mb is not None:
            yield host.name, host.memory_mb * 1e6
