"""Export the stages that are executed from files, on the controller, before any host is touched.

A program is exported once for all its cuts, and its stages are cut out of that. A stage's file is
named by what it is made of, so that it is exported once and found again by later runs. Each was run
here, on what a session sends, and held against what torch computes.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import torch

from paretopipe_worker.cuts import INT8, CutTable
from paretopipe_worker.model import flat, loading, onnx_graph, quantising, standalone
from paretopipe_worker.model.inputs import items, load_images
from paretopipe_worker.model.onnx_graph import Graph
from paretopipe_worker.model.partition import Partitioned, largest_error
from paretopipe_worker.model.program import PartitionError
from paretopipe_worker.model.standalone import OnnxError
from paretopipe_worker.plan import executing
from paretopipe_worker.plan import plan as plans
from paretopipe_worker.plan.plan import Plan

MOST_ERROR = 1e-4
"""Largest difference of a float32 stage from what torch computes, relative to the largest value."""


Ends: TypeAlias = tuple[str, str]
"""Names of the cuts, or endpoints, between which a stage lies."""

Tensors: TypeAlias = tuple[torch.Tensor, ...]


def export(plan: Plan, cache: Path) -> Plan:
    """Store the files of all stages that are executed from files, where they are not there yet.

    Returns
    -------
    The plan, with what wrote the files in its tables, and the reason for each that there is not.
    """
    folder = plans.kept(cache)
    tables, notes, unexported = [], list(plan.notes), dict(plan.unexported)
    for table in plan.tables:
        asked = list(executing.asked_files(plan, table))
        if asked:
            table = replace(table, exporter=exporter(plan, table))
            names = {ends: plans.stage_name(table, *ends) for ends in asked}
            missing = [ends for ends in asked if not _kept(folder / names[ends])]
            failed = _exported(plan, table, missing, folder) if missing else {}
            unexported |= {names[ends]: reason for ends, reason in failed.items()}
            notes += _noted(table, [folder / name for name in names.values()], len(missing))
        tables.append(table)
    return replace(plan, tables=tuple(tables), notes=tuple(notes), unexported=unexported)


def exporter(plan: Plan, table: CutTable) -> str:
    """What writes a table's stages, with versions and settings: with another their bytes differ."""
    splits = plan.experiment.splits
    words = [f"{name} {_version(name)}" for name in ("torch", "onnx", "onnxscript")]
    words += [f"opset {standalone.OPSET}", f"cut at {table.granularity}"]
    words += [f"max_tensors {splits.max_tensors}"] if splits.max_tensors != 1 else []
    if table.dtype == INT8:
        drawn = f"{quantising.CALIBRATED} inputs of seed {plan.experiment.seed}"
        calibrated = f"images {table.images_sha256}" if table.images_sha256 else drawn
        words += [f"onnxruntime {_version('onnxruntime')}", quantising.SETTINGS, calibrated]
    return ", ".join(words)


def _version(package: str) -> str:
    """Public version of an installed package."""
    try:
        return importlib.metadata.version(package).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _kept(file: Path) -> bool:
    """Whether a stage was exported before, and its file is whole."""
    try:
        loading.load_checked(file)
    except PartitionError:
        return False
    return True


def _noted(table: CutTable, files: Sequence[Path], made: int) -> Iterator[str]:
    """A line for people about the files of a table."""
    there = [file.stat().st_size for file in files if file.exists()]
    yield (
        f"{table.model}, batch {table.batch}, {table.dtype}: {len(there)} of {len(files)} stages "
        f"are exported ({len(files) - made} were before), {sum(there) / 1e6:.0f} MB"
    )


def _exported(plan: Plan, table: CutTable, stages: Sequence[Ends], folder: Path) -> dict[Ends, str]:
    """Export stages of a table; why it could not be done, by stage."""
    program_file, tensors_file = plans.program_files(table, folder)
    program = loading.load_program(program_file, table.graph_sha256)
    parts = loading.partitioned(program, loading.load_tensors(tensors_file, [program]))
    images_file = plans.images_file(table, folder)
    images = load_images(images_file, table.images_sha256) if images_file else None
    seed = plan.experiment.seed
    inputs = items(table.inputs, seed=seed, images=images)
    try:
        graph = onnx_graph.graph(parts, table.names, inputs[0])
    except (OnnxError, PartitionError) as error:
        return dict.fromkeys(stages, f"it cannot be exported: {error}")
    if table.dtype == INT8:
        try:
            sent = inputs if table.images_sha256 else ()
            known = quantising.calibration(table.inputs, seed=seed, sent=sent)
            graph = quantising.quantised(graph, known)
        except OnnxError as error:
            return dict.fromkeys(stages, f"it cannot be quantised: {error}")
    values = [_values(parts, graph, each) for each in inputs[:2]]
    failed = {}
    for before, after in stages:
        try:
            made = graph.stage(before, after)
            _hold(made, graph, (before, after), values, table.dtype)
        except OnnxError as error:
            failed[before, after] = f"its stage from {before} to {after} cannot be used: {error}"
            continue
        loading.save_checked(made, folder / plans.stage_name(table, before, after))
    return failed


def _values(parts: Partitioned, graph: Graph, inputs: Tensors) -> dict[str, torch.Tensor]:
    """What torch computes for all values at which stages begin and end, by name."""
    taken = [value.name for value in parts.program.inputs]
    given = list(dict.fromkeys(name for names in graph.ends.values() for name in names))
    stage = flat.build(parts.program, parts.tensors, taken, given)
    with torch.inference_mode():
        return dict(zip(given, stage(*inputs), strict=True))


def _hold(
    made: bytes,
    graph: Graph,
    ends: Ends,
    values: Sequence[Mapping[str, torch.Tensor]],
    dtype: str,
) -> None:
    """Run a stage on what torch hands to it, and compare what it returns.

    Raises
    ------
    OnnxError
        When it does not run, or returns something else than it may.
    """
    run = standalone.onnx_stage(made)
    for known in values:
        taken, given = ([known[name] for name in graph.ends[end]] for end in ends)
        returned = run(*taken)
        error = largest_error(returned, tuple(given))
        if dtype == INT8:
            if not all(bool(each.isfinite().all()) for each in returned):
                raise OnnxError("it returns values that are not finite")
        elif not error <= MOST_ERROR:
            raise OnnxError(
                f"it returns what differs from what torch computes by {error:.2g} of the largest "
                f"value (allowed: {MOST_ERROR:g})"
            )
