"""Turn a spec and an inventory into a plan, on the controller, before any host is touched."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from paretopipe_worker import models, planner, weights
from paretopipe_worker import plan as plans
from paretopipe_worker.cuts import CutTable
from paretopipe_worker.fleet import Host
from paretopipe_worker.plan import Plan, PlanError
from paretopipe_worker.spec import Experiment, ModelSpec, SpecError
from paretopipe_worker.trial import cut_table


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

    Weights are made here, once: random draws and BatchNorm statistics differ between processors,
    and all stages must have the same.

    Parameters
    ----------
    check
        Write no plan.

    Raises
    ------
    SpecError
        When a model cannot be built or cut; the text names its key path in the spec.
    PlanError
        When the plan of this run, made before, measures something else.
    """
    path = results / "plan.json"
    old = plans.load(path) if path.exists() else None
    # Random weights depend on the number of threads, and times on what else this machine does.
    torch.set_num_threads(1)
    tables: list[CutTable] = []
    for number, model in enumerate(experiment.models):
        try:
            tables.extend(_tables(experiment, model, cache))
        except ValueError as error:
            raise SpecError(f"models[{number}]: {error}") from error
    plan = planner.make(run, experiment, hosts, tables)
    if old and (different := plans.differences(old, plan)):
        raise PlanError(
            f"{path}: run '{run}' was planned with other {', '.join(different)}; "
            "undo the change, or start a new run with -e run=NAME"
        )
    if not check:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(plans.dump(plan), encoding="utf-8")
    return plan


def _tables(experiment: Experiment, model: ModelSpec, cache: Path) -> Iterator[CutTable]:
    """The cut tables of one model, with its weights stored under their checksum."""
    shape = model.input or models.default_input(model.name)
    module = models.build(
        model.name,
        seed=experiment.seed,
        input_shape=shape,
        weights=Path(model.weights) if model.weights else None,
    )
    sha256 = weights.weights_sha256(module)
    path = plans.weights_file(cache, sha256)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        weights.save_weights(module, path)
    for batch, dtype in itertools.product(experiment.batch, experiment.dtype):
        yield cut_table(
            module, model.name, experiment.splits.granularity, batch, dtype, shape, sha256
        )
