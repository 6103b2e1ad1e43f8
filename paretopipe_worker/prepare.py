"""Turn a spec and an inventory into a plan, on the controller, before any host is touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import torch

from paretopipe_worker import exports
from paretopipe_worker.cuts import CutTable, InputSpec
from paretopipe_worker.model import loading, weights, zoo
from paretopipe_worker.model.capture import Captured
from paretopipe_worker.model.images import prepared
from paretopipe_worker.model.inputs import items, load_images, save_images
from paretopipe_worker.model.partition import Partitioned
from paretopipe_worker.model.sources import Source, default_inputs
from paretopipe_worker.model.trial import cut_table
from paretopipe_worker.plan import identity, planner
from paretopipe_worker.plan import plan as plans
from paretopipe_worker.plan.experiment import Experiment, ModelSpec
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
    """Build every model, store its weights, find its cuts, export stages, write the plan.

    The weights are made once, here: random draws and BatchNorm statistics differ between
    processors, and all stages must have the same. A model that cannot be built or cut is left out,
    and the plan tells why, as long as another one is left.

    Parameters
    ----------
    check
        Write no plan.

    Raises
    ------
    SpecError
        When no model can be built and cut; a line each, with its key path in the spec.
    PlanError
        When an earlier plan of this run measures something else.
    """
    path = results / "plan.json"
    old = plans.read(path) if path.exists() else None
    # Random weights depend on the number of threads; times depend on what else this machine does.
    torch.set_num_threads(1)
    tables: list[CutTable] = []
    notes: list[str] = []
    refused: list[str] = []
    for number, model in enumerate(experiment.models):
        try:
            tables += list(_tables(experiment, model, cache, notes.append))
        except ValueError as error:
            refused.append(f"models[{number}]: {error}")
    if not tables:
        raise SpecError("\n".join(refused))
    made = planner.make(run, experiment, hosts, tables)
    plan = exports.export(replace(made, notes=tuple(notes), refused=tuple(refused)), cache)
    if old and (different := identity.differences(old, plan)):
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
    source = _source(model)
    images = None
    if model.images:
        wanted = model.images
        images = prepared(source, Path(wanted.images), wanted.count, wanted.shape, note)
    taken = [
        [replace(each, shape=(batch, *each.shape)) for each in _asked(model, source, images)]
        for batch in experiment.batch
    ]
    module = zoo.build(
        source,
        seed=experiment.seed,
        inputs=taken[0],
        weights=Path(model.checkpoint) if model.checkpoint else None,
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
            images=images,
        )
        for inputs in taken
    ]
    for table, captured in _stored(found, images, plans.kept(cache)):
        if table.program_error:
            note(
                f"{model.name}, batch {table.batch}: its program returns what it returns within "
                f"{table.program_error:.1g} of the largest value"
            )
        inputs = items(table.inputs, seed=experiment.seed, images=images)
        sha256 = _references(captured, inputs, plans.kept(cache))
        # What int8 is made of is the same program, and crosses as float32.
        for dtype in experiment.dtype:
            yield replace(table, references_sha256=sha256, dtype=dtype)


def _stored(
    found: Sequence[tuple[CutTable, Captured]], images: torch.Tensor | None, folder: Path
) -> list[tuple[CutTable, Captured]]:
    """Store programs, their tensors and images by their checksums, which the tables then have."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, torch.Tensor] = {}
    checksums: dict[str, str] = {}
    for _, captured in found:
        tensors |= captured.tensors
        checksums |= {name: held.sha256 for name, held in captured.program.tensors.items()}
    sha256 = weights.weights_sha256(checksums)
    shown = "" if images is None else weights.tensor_sha256(images)
    tables = [replace(each, weights_sha256=sha256, images_sha256=shown) for each, _ in found]
    programs = []
    for table, (_, captured) in zip(tables, found, strict=True):
        program, file = plans.program_files(table, folder)
        loading.save_program(captured.program, program)
        programs.append(loading.load_program(program, table.graph_sha256))
    if not file.exists():
        weights.save_weights(tensors, file)
    # What the hosts will have is read as they will read it.
    loading.load_tensors(file, programs)
    if images is not None and (shown_file := plans.images_file(tables[0], folder)):
        save_images(images, shown_file)
        load_images(shown_file, shown)
    return [(table, captured) for table, (_, captured) in zip(tables, found, strict=True)]


def _source(model: ModelSpec) -> Source:
    """Where a model comes from."""
    published = None if model.checkpoint else model.weights
    path = Path(model.path) if model.path else None
    return Source(model.name, model.factory, model.arguments, path, published)


def _asked(model: ModelSpec, source: Source, images: torch.Tensor | None) -> Sequence[InputSpec]:
    """What goes into a model, without the batch."""
    if images is not None:
        return [InputSpec(tuple(images.shape[1:]), "float32")]
    if model.input:
        return [InputSpec(model.input, "float32")]
    if isinstance(model.inputs, tuple) and model.inputs:
        return [InputSpec(each.shape, each.dtype, each.low, each.high) for each in model.inputs]
    return default_inputs(source)


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
