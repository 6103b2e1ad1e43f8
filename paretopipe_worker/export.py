"""The command ``export``: stages as files that run without this package, ``.pt2`` and ONNX.

The files are read back and run one after the other on two inputs before they are put in place, and
held against the model. ``stages.json`` and ``README.md`` beside them say what was found.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.export import ExportedProgram

from paretopipe_worker import export_readme
from paretopipe_worker.cuts import FIRST, LAST, InputSpec, TensorSpec
from paretopipe_worker.model import standalone, trial, weights, zoo
from paretopipe_worker.model.flat import Stage
from paretopipe_worker.model.inputs import example_inputs
from paretopipe_worker.model.partition import Partitioned, largest_error, split, whole
from paretopipe_worker.model.sources import Source
from paretopipe_worker.model.verifying import MOST_ERROR

ONNX_ERROR = 1e-4
"""Largest difference between the ONNX files and the model, relative to the largest value."""

Tensors: TypeAlias = tuple[torch.Tensor, ...]


class ExportError(ValueError):
    """Stages cannot be exported as asked."""


@dataclass
class Exported:
    """One stage's files, and what is known of them.

    `refused` says why it has no ONNX file, where it has none. A stage without operations has none
    of either: it returns what it is given.
    """

    stage: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    tensors_sha256: str = ""
    packages: tuple[str, ...] = ()
    refused: str | None = None
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether it has no operations."""
        return not self.files

    def describe(self, module: standalone.StageModule) -> None:
        """Note what a stage holds, and what it needs beside torch."""
        self.tensors_sha256 = weights.weights_sha256(module.checksums)
        self.packages = tuple(sorted(module.packages))

    def document(self) -> dict[str, Any]:
        """Plain values, with names for what comes in and goes out."""
        tensors = {
            kind: [
                {"name": f"{kind.removesuffix('s')}_{number}", **asdict(spec)}
                for number, spec in enumerate(specs)
            ]
            for kind, specs in (("inputs", self.inputs), ("outputs", self.outputs))
        }
        return {
            "stage": self.stage,
            "empty": self.empty,
            **tensors,
            "tensors_sha256": self.tensors_sha256,
            "packages": self.packages,
            "onnx_refused": self.refused,
            "files": self.files,
        }


@dataclass(frozen=True)
class Compared:
    """Largest differences on two inputs, relative to the largest value; 0 where all bits agree.

    Attributes
    ----------
    pt2_to_stages
        Between the ``.pt2`` files and the stages that a sweep measures, on this machine.
    pt2_to_model, onnx_to_model
        Between what comes out of the last stage and what the model returns. Where a stage has no
        ONNX file, the ``.pt2`` stood in for it. None where no ONNX file was run.
    """

    pt2_to_stages: float
    pt2_to_model: float
    onnx_to_model: float | None


def export(
    source: Source,
    cuts: Sequence[str],
    taken: Sequence[InputSpec],
    folder: Path,
    *,
    checkpoint: Path | None = None,
    note: Callable[[str], object] = lambda text: None,
) -> dict[str, Any]:
    """Write each stage of a split as ``stage-K.pt2`` and ``stage-K.onnx``; what stages.json says.

    Parameters
    ----------
    cuts
        The k-1 cuts of k stages, see :func:`paretopipe_worker.model.partition.split`.
    taken
        What goes into the model, batch first.
    folder
        Where the files go; it must not exist, or be empty. It is complete or left as it was.
    checkpoint
        Weights; by default they are random, as in a sweep with seed 0.
    note
        Called with a line of text about what was done to a checkpoint.

    Raises
    ------
    ExportError
        When the folder cannot be used, or the ``.pt2`` files return something else than the model.
    ModelError, PartitionError
        When the model cannot be built, captured or cut so.
    """
    partial = _begun(folder)
    try:
        model = zoo.build(source, seed=0, inputs=taken, weights=checkpoint, note=note)
        table, captured = trial.cut_table(model, source.name, "op", taken)
        parts = Partitioned(captured.program, captured.tensors)
        inputs = [example_inputs(taken, seed=0, index=index) for index in (0, 1)]
        stages, compared = _written(parts, cuts, model, inputs, partial)
        document = {
            "model": source.name,
            "cuts": list(cuts),
            "batch": table.batch,
            "weights": str(checkpoint.name) if checkpoint else "random, seed 0",
            "program_sha256": table.graph_sha256,
            "returned": captured.program.returned,
            "torch": torch.__version__,
            "compared": {"inputs": len(inputs), **asdict(compared)},
            "stages": [stage.document() for stage in stages],
        }
        (partial / "stages.json").write_text(json.dumps(document, indent=1) + "\n")
        (partial / "README.md").write_text(export_readme.text(document))
        partial.replace(folder.resolve())
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return document


def _begun(folder: Path) -> Path:
    """Make the folder that is written to before it gets its name."""
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ExportError(
                f"{folder}: is not empty; allowed is a folder that is empty or not there yet"
            )
        whole = folder.resolve()
        partial = whole.with_name(f".{whole.name}.{os.getpid()}.partial")
        partial.mkdir(parents=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return partial


def _unwritable(folder: Path, error: OSError) -> ExportError:
    """The error of a folder that cannot be written to."""
    return ExportError(
        f"{folder}: cannot be written ({error.strerror}); allowed is a folder in one that you may "
        "write to"
    )


def _written(
    parts: Partitioned,
    cuts: Sequence[str],
    model: nn.Module,
    inputs: Sequence[Tensors],
    folder: Path,
) -> tuple[list[Exported], Compared]:
    """Write all stages, and run them one after the other beside those that a sweep measures."""
    ours, theirs, onnx = inputs, inputs, inputs
    stages: list[Exported] = []
    errors, ran = [0.0], False
    measured = split(parts, cuts)
    crossing = _values(parts, cuts)
    for number, stage in enumerate(measured):
        taken, given = crossing[number : number + 2]
        found = Exported(number, parts.specs(taken), parts.specs(given))
        stages.append(found)
        if stage is None:
            continue
        module = standalone.StageModule(parts.program, parts.tensors, taken, given)
        found.describe(module)
        made = standalone.exported(module, ours[0])
        file = folder / f"stage-{number}.pt2"
        pt2 = standalone.save_pt2(made, file)
        found.files[file.name] = {}
        ours, theirs = [_run(stage, each) for each in ours], [_run(pt2, each) for each in theirs]
        errors += map(largest_error, theirs, ours)
        returned = _onnx(made, file.with_suffix(".onnx"), onnx, found)
        ran = ran or returned is not None
        onnx = returned or [_run(pt2, each) for each in onnx]
    references = [whole(model, *each) for each in inputs]
    to_model, onnx_error = (max(map(largest_error, last, references)) for last in (theirs, onnx))
    if not to_model <= MOST_ERROR:
        raise ExportError(f"the .pt2 files {_far(to_model, MOST_ERROR)}; nothing is written")
    if ran and not onnx_error <= ONNX_ERROR:
        for each in stages:
            if not (each.empty or each.refused):
                _withdraw(each, folder, f"the ONNX files {_far(onnx_error, ONNX_ERROR)}")
    for each in stages:
        each.files = {name: _described(folder / name) for name in each.files}
    return stages, Compared(max(errors), to_model, onnx_error if ran else None)


def _far(error: float, allowed: float) -> str:
    """Say how far files are from the model, and how far they may be."""
    return (
        f"return what differs from what the model returns by {error:.2g} of its largest value "
        f"(allowed: {allowed:g})"
    )


def _values(parts: Partitioned, cuts: Sequence[str]) -> list[tuple[str, ...]]:
    """Names of the values that go into the first stage, cross each cut, and leave the last."""
    entry = tuple(value.name for value in parts.program.inputs)
    known = {place.name: place.values for place in parts.places}
    known |= {LAST: entry, FIRST: parts.program.outputs}
    return [entry, *(known[name] for name in cuts), parts.program.outputs]


def _run(stage: Stage, tensors: Tensors) -> Tensors:
    """What a stage returns, in memory of its own; what it was given stays as it was."""
    with torch.inference_mode():
        return tuple(each.clone() for each in stage(*(each.clone() for each in tensors)))


def _onnx(
    made: ExportedProgram, file: Path, inputs: Sequence[Tensors], stage: Exported
) -> list[Tensors] | None:
    """Write a stage as ONNX and say so in `stage`; what it returns, None where it was not run."""
    try:
        standalone.save_onnx(made, file)
        written = sorted(each.name for each in file.parent.glob(f"{file.name}*"))
        stage.files |= {name: {} for name in written}
        if importlib.util.find_spec("onnxruntime") is None:
            return None
        run = standalone.onnx_stage(file)
        return [run(*each) for each in inputs]
    except standalone.OnnxError as error:
        _withdraw(stage, file.parent, str(error))
        return None


def _withdraw(stage: Exported, folder: Path, reason: str) -> None:
    """Take a stage's ONNX files away."""
    for file in folder.glob(f"stage-{stage.stage}.onnx*"):
        file.unlink()
    stage.files = {name: {} for name in stage.files if name.endswith(".pt2")}
    stage.refused = reason


def _described(file: Path) -> dict[str, Any]:
    """Size and checksum of a file."""
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return {"bytes": file.stat().st_size, "sha256": digest}
