"""Turn a spec and an inventory into a plan, on the controller, before any host is touched."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import torch
from torch import nn

from paretopipe_worker import exports
from paretopipe_worker.cuts import FLOAT32, INT8, CutTable, InputSpec
from paretopipe_worker.model import loading, weights, zoo
from paretopipe_worker.model.capture import Captured
from paretopipe_worker.model.dtypes import cast, inputs_as
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
    side_by_side: bool = False,
    check: bool = False,
) -> Plan:
    """Build every model, store its weights, find its cuts, export stages, write the plan.

    The weights are made once, here: random draws and BatchNorm statistics differ between
    processors, and all stages must have the same. A model that cannot be built or cut is left out,
    and the plan tells why, as long as another one is left.

    Parameters
    ----------
    side_by_side
        Whether sessions without a common host may run at the same time.
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
        where = f"models[{number}]"
        try:
            tables += list(_tables(experiment, model, cache, notes.append, refused, where))
        except ValueError as error:
            refused.append(f"{where}: {error}")
    if not tables:
        raise SpecError("\n".join(refused))
    made = planner.make(run, experiment, hosts, tables, side_by_side=side_by_side)
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
    experiment: Experiment,
    model: ModelSpec,
    cache: Path,
    note: Note,
    refused: list[str],
    where: str,
) -> Iterator[CutTable]:
    """The cut tables of one model; its programs and their tensors are stored by their checksums.

    A dtype in which the model does not run is left out, and a line is added to `refused`, which
    begins with `where`.
    """
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
    plain = [_tried(experiment, model, module, inputs, images) for inputs in taken]
    folder = plans.kept(cache)
    folder.mkdir(parents=True, exist_ok=True)
    # Whatever is measured is compared with what the model returns in float32.
    references = {
        table.batch: _references(
            captured, items(table.inputs, seed=experiment.seed, images=images), folder
        )
        for table, captured in plain
    }
    found = list(plain) if {FLOAT32, INT8} & set(experiment.dtype) else []
    for dtype in experiment.dtype:
        if dtype not in (FLOAT32, INT8):
            try:
                found += _cast(experiment, model, module, taken, images, dtype)
            except ValueError as error:
                refused.append(f"{where}, dtype {dtype}: {error}")
    for table in _stored(found, images, folder) if found else ():
        if table.program_error:
            note(
                f"{model.name}, batch {table.batch}: its program returns what it returns within "
                f"{table.program_error:.1g} of the largest value"
            )
        table = replace(table, references_sha256=references[table.batch])
        # What int8 is made of is the program of float32, and crosses as float32.
        same = [FLOAT32, INT8] if table.dtype == FLOAT32 else [table.dtype]
        yield from (replace(table, dtype=dtype) for dtype in experiment.dtype if dtype in same)


def _tried(
    experiment: Experiment,
    model: ModelSpec,
    module: nn.Module,
    taken: Sequence[InputSpec],
    images: torch.Tensor | None,
    dtype: str = FLOAT32,
) -> tuple[CutTable, Captured]:
    """Try a model out at one batch size, in one dtype; its cut table and program."""
    return cut_table(
        module,
        model.name,
        experiment.splits.granularity,
        taken,
        seed=experiment.seed,
        max_tensors=experiment.splits.max_tensors,
        images=images,
        dtype=dtype,
    )


def _cast(
    experiment: Experiment,
    model: ModelSpec,
    module: nn.Module,
    taken: Sequence[Sequence[InputSpec]],
    images: torch.Tensor | None,
    dtype: str,
) -> list[tuple[CutTable, Captured]]:
    """The same of the model in another dtype than float32, at every batch size."""
    own = cast(module, dtype)
    return [
        _tried(experiment, model, own, inputs_as(inputs, dtype), images, dtype) for inputs in taken
    ]


def _stored(
    found: Sequence[tuple[CutTable, Captured]], images: torch.Tensor | None, folder: Path
) -> list[CutTable]:
    """Store programs, their tensors and images by their checksums, which the tables then have.

    One file has the tensors of a model in all dtypes. A dtype's own checksum does not depend on
    which others there are, so that its points keep their ids.
    """
    tensors: dict[str, torch.Tensor] = {}
    checksums: dict[str, dict[str, str]] = {}
    for table, captured in found:
        tensors |= captured.tensors
        own = checksums.setdefault(table.dtype, {})
        own |= {name: held.sha256 for name, held in captured.program.tensors.items()}
    own_sha256 = {dtype: weights.weights_sha256(each) for dtype, each in checksums.items()}
    whole = weights.weights_sha256(dict(ChainMap(*checksums.values())))
    shown = "" if images is None else weights.tensor_sha256(images)
    tables = [
        replace(
            table,
            weights_sha256=own_sha256[table.dtype],
            tensors_sha256=whole if len(checksums) > 1 else "",
            images_sha256=shown,
        )
        for table, _ in found
    ]
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
    return tables


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
