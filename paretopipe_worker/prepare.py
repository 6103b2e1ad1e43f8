"""Turn a spec and an inventory into a plan, on the controller, before any host is touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import torch

from paretopipe_worker.cuts import CutTable, InputSpec
from paretopipe_worker.model import loading, weights, zoo
from paretopipe_worker.model.capture import Captured
from paretopipe_worker.model.inputs import INPUTS, example_inputs
from paretopipe_worker.model.partition import Partitioned
from paretopipe_worker.model.sources import Source, default_input
from paretopipe_worker.model.trial import cut_table
from paretopipe_worker.plan import plan as plans
from paretopipe_worker.plan import planner
from paretopipe_worker.plan.experiment import Experiment, ModelInput, ModelSpec
from paretopipe_worker.plan.fleet import Host
from paretopipe_worker.plan.plan import Plan, PlanError
from paretopipe_worker.plan.sending import Share
from paretopipe_worker.plan.spec import SpecError

Note: TypeAlias = Callable[[str], object]
"""Called with a line for people about what was done to a model's weights."""


def prepare(
    run: str,
    experiment: Experiment,
    hosts: Sequence[Host],
    results: Path,
    cache: Path,
    *,
    check: bool = False,
) -> Plan:
    """Build every model, store its weights, find its cuts, write the plan.

    The weights are made once, here: random draws and BatchNorm statistics differ between
    processors, and all stages must have the same.

    Parameters
    ----------
    check
        Write no plan.

    Raises
    ------
    SpecError
        When a model cannot be built or cut; the text names its key path in the spec.
    PlanError
        When an earlier plan of this run measures something else.
    """
    path = results / "plan.json"
    old = plans.read(path) if path.exists() else None
    # Random weights depend on the number of threads; times depend on what else this machine does.
    torch.set_num_threads(1)
    tables: list[CutTable] = []
    notes: list[str] = []
    for number, model in enumerate(experiment.models):
        try:
            tables.extend(_tables(experiment, model, cache, notes.append))
        except ValueError as error:
            raise SpecError(f"models[{number}]: {error}") from error
    plan = replace(planner.make(run, experiment, hosts, tables), notes=tuple(notes))
    if old and (different := plans.differences(old, plan)):
        raise PlanError(
            f"{path}: run '{run}' was planned with other {', '.join(different)}; "
            "undo the change, or start a new run with -e run=NAME"
        )
    if not check:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(plans.dump(plan), encoding="utf-8")
    return plan


def _tables(
    experiment: Experiment, model: ModelSpec, cache: Path, note: Note
) -> Iterator[CutTable]:
    """The cut tables of one model; its programs and their tensors are stored by their checksums."""
    path = Path(model.path) if model.path else None
    source = Source(model.name, model.factory, model.arguments, path)
    asked = model.inputs or (ModelInput(model.input or default_input(source)),)
    taken = [
        [InputSpec((batch, *each.shape), each.dtype, each.low, each.high) for each in asked]
        for batch in experiment.batch
    ]
    module = zoo.build(
        source,
        seed=experiment.seed,
        inputs=taken[0],
        weights=Path(model.weights) if model.weights else None,
        note=note,
    )
    found = [
        cut_table(
            module,
            model.name,
            experiment.splits.granularity,
            inputs,
            seed=experiment.seed,
            max_tensors=experiment.splits.max_tensors,
        )
        for inputs in taken
    ]
    tensors: dict[str, torch.Tensor] = {}
    checksums: dict[str, str] = {}
    for _, captured in found:
        tensors |= captured.tensors
        checksums |= {name: held.sha256 for name, held in captured.program.tensors.items()}
    sha256 = weights.weights_sha256(checksums)
    folder = plans.kept(cache)
    folder.mkdir(parents=True, exist_ok=True)
    tables = [replace(table, weights_sha256=sha256) for table, _ in found]
    programs = []
    for table, (_, captured) in zip(tables, found, strict=True):
        program, file = plans.program_files(table, folder)
        loading.save_program(captured.program, program)
        programs.append(loading.load_program(program, table.graph_sha256))
    if not file.exists():
        weights.save_weights(tensors, file)
    # What the hosts will have is read as they will read it.
    loading.load_tensors(file, programs)
    for table, (_, captured) in zip(tables, found, strict=True):
        if table.program_error:
            note(
                f"{model.name}, batch {table.batch}: its program returns what it returns within "
                f"{table.program_error:.1g} of the largest value"
            )
        inputs = [
            example_inputs(table.inputs, seed=experiment.seed, index=i) for i in range(INPUTS)
        ]
        yield replace(table, references_sha256=_references(captured, inputs, folder))


def _references(
    captured: Captured, inputs: Sequence[tuple[torch.Tensor, ...]], folder: Path
) -> str:
    """Store what a program returns for the inputs of a session; the checksum."""
    model = Partitioned(captured.program, captured.tensors)
    with torch.inference_mode():
        return loading.store_references([model.whole(*each) for each in inputs], folder)


def pack(plan: Plan, whole: str, share: Share, cache: Path) -> str:
    """Store the tensors that stages of a model need in a file of their own; its name.

    Parameters
    ----------
    whole
        Name of the file of all tensors.

    Raises
    ------
    PartitionError, WeightsError
        When a file that this needs is missing or damaged.
    """
    folder = plans.kept(cache)
    programs = {
        name: loading.load_program(folder / name, table.graph_sha256)
        for table in plan.tables
        if (name := plans.program_name(table)) in {each for each, _, _ in share}
    }
    stages = [(programs[name], before, after) for name, before, after in share]
    return loading.store_part(folder / whole, stages)
