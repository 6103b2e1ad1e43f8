"""How much memory a stage takes beside its weights, and the model itself beside all of them.

VGG16 is cut before its classifier, which has nine tenths of the weights. Each stage, and the whole
model as its author wrote it, runs in fresh processes with one thread and the environment of a stage
process. Each reads its tensors from a file that has no others. A process is idle when everything is
imported and no tensor has been read. `taken_mb` is its largest resident memory from there on, minus
that of the idle process; `beside_mb` is what is left of it without the bytes of its own tensors.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from paretopipe_worker.cuts import InputSpec
from paretopipe_worker.host.supervise import STAGE_ENVIRONMENT
from paretopipe_worker.model import flat, weights, zoo
from paretopipe_worker.model import program as programs
from paretopipe_worker.model.inputs import example_input
from paretopipe_worker.model.partition import Partitioned
from paretopipe_worker.model.sources import classifiers, default_input
from paretopipe_worker.model.trial import cut_table
from tests.benchmarks.report import Check, Rows, main

MODEL, HEAD = "vgg16", "classifier"
MOST_MORE = 1.1
"""What a stage may take beside its weights, over what the model takes beside its own."""
HEAD_MB = 60.0
"""What the stage of the classifier may take beside its weights."""
PROCESSES, RUNS = 3, 5
PROCESS_S = 120

Tensors = Mapping[str, torch.Tensor]


def measure(quick: bool) -> tuple[Rows, Sequence[Check]]:
    """Measure both stages and the model, each in processes of its own."""
    processes = 1 if quick else PROCESSES
    torch.set_num_threads(1)
    taken = InputSpec((1, *default_input(MODEL)), "float32")
    module = zoo.build(MODEL, seed=0)
    table, captured = cut_table(module, MODEL, "block", [taken])
    program, tensors = captured.program, captured.tensors
    blocks = [
        place
        for place in Partitioned(program, tensors).places
        if place.name in table.names and not place.name.startswith(f"{HEAD}.")
    ]
    cut, entry = blocks[-1], tuple(value.name for value in program.inputs)
    example = example_input(taken, seed=0, index=0)
    with torch.inference_mode():
        crossing = flat.build(program, tensors, entry, cut.values)(example)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "program.json").write_bytes(programs.dump(program))
        parts = [(entry, cut.values, (example,)), (cut.values, program.outputs, crossing)]
        rows = [_row("model", Path(folder), {}, weights.tensors(module), (example,), processes)]
        for rank, (given, wanted, inputs) in enumerate(parts):
            needed = flat.needed(program, given, wanted)
            own = {name: tensors[name] for name in flat.held_by(program, needed, wanted)}
            job = {"given": given, "wanted": wanted}
            name = f"stage {rank} of {cut.name}"
            rows.append(_row(name, Path(folder), job, own, inputs, processes))
    return rows, _checks(rows)


def _checks(rows: Rows) -> list[Check]:
    """The targets."""
    whole, *stages = rows
    checks = [
        Check(
            f"{row['part']}: memory beside its weights, over the model's",
            row["beside_mb"] / whole["beside_mb"],
            MOST_MORE,
            "lower",
        )
        for row in stages
    ]
    name = f"{stages[-1]['part']}: memory beside its weights, MB"
    return [*checks, Check(name, stages[-1]["beside_mb"], HEAD_MB, "lower")]


def _row(
    part: str,
    folder: Path,
    job: Mapping[str, Any],
    own: Tensors,
    inputs: Sequence[torch.Tensor],
    processes: int,
) -> dict[str, Any]:
    """Run one part in fresh processes; the median of what they took."""
    weights.save_weights(own, folder / "own.safetensors")
    weights.save_weights({str(n): t for n, t in enumerate(inputs)}, folder / "inputs.safetensors")
    taken = [_taken_mb(folder, job) for _ in range(processes)]
    own_mb = sum(each.nbytes for each in own.values()) / 1e6
    taken_mb = statistics.median(taken)
    return {
        "part": part,
        "weights_mb": own_mb,
        "taken_mb": taken_mb,
        "beside_mb": taken_mb - own_mb,
        "spread_mb": max(taken) - min(taken),
    }


def _taken_mb(folder: Path, job: Mapping[str, Any]) -> float:
    """What one process took."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.memory", "--part", str(folder), json.dumps(job)],
        env={**os.environ, **STAGE_ENVIRONMENT},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=PROCESS_S,
    )
    return float(done.stdout)


def _part(folder: Path, job: Mapping[str, Any]) -> float:
    """Be one process: read the tensors and run; what that took in MB."""
    torch.set_num_threads(1)
    classifiers()  # imports torchvision, which takes memory that is no part's own
    inputs = [each.clone() for each in weights.read_weights(folder / "inputs.safetensors").values()]
    # The kernel's record of the largest memory starts again here; importing took more at times.
    Path("/proc/self/clear_refs").write_text("5")
    idle_mb = _resident_mb("VmRSS")
    run = _stage(folder, job) if job else _model(folder)
    with torch.inference_mode():
        for _ in range(RUNS):
            run(*inputs)
    return _resident_mb("VmHWM") - idle_mb


def _stage(folder: Path, job: Mapping[str, Any]) -> Callable[..., Any]:
    """Build a stage as a host does."""
    program = programs.load((folder / "program.json").read_bytes(), "program.json")
    own = weights.read_weights(folder / "own.safetensors")
    return flat.build(program, own, job["given"], job["wanted"])


def _model(folder: Path) -> Callable[..., Any]:
    """Build the model around the file's tensors."""
    model = zoo.skeleton(MODEL, seed=0)
    source = folder / "own.safetensors"
    weights.place(model, weights.read_weights(source), source)
    return model


def _resident_mb(field: str) -> float:
    """Resident memory of this process: what it is, or was at most."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.M)
    assert found is not None
    return int(found[1]) * 1024 / 1e6


if __name__ == "__main__":
    if sys.argv[1:2] == ["--part"]:
        print(_part(Path(sys.argv[2]), json.loads(sys.argv[3])))
    else:
        main("memory", measure, __doc__ or "")
