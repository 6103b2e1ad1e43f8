"""What a stage takes inside the pipeline, over the same stage alone, and what runtimes gain.

Each model is cut in the middle of its blocks. One session of two stages on this machine, with one
thread each, measures that cut with every runtime in turn, many times. Before and after each time a
bare loop in the source's process runs the same two stages one after the other, by the runtime's own
call and without any of the project's code around it: the function that torch was given, or
``InferenceSession.run``. What crosses is copied between the two, as a link would do, which is not
counted. The stages of a latency leg take turns as well, so that both find caches that the other
stage has used.

Of each leg and each loop the lower quartile of the items counts, since other processes may take a
core for a while. `ratio` is the loop's time over the pipeline's in the same round, the loop's being
the mean of that before and that after it: 1 says that the seam costs nothing. `cpu_ratio` is the
same of the computing thread's CPU time, on which other processes have less influence. The median
over all rounds counts. `over_eager` is eager's time over the runtime's, both inside the pipeline,
for the two stages together.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from paretopipe_worker.cuts import EAGER
from paretopipe_worker.execution.runtimes import RUNTIMES
from paretopipe_worker.model import loading
from paretopipe_worker.model.inputs import example_input
from paretopipe_worker.model.partition import split
from paretopipe_worker.plan import plan as plans
from paretopipe_worker.plan.plan import Point
from paretopipe_worker.session.context import Context
from paretopipe_worker.session.source import Source
from tests.benchmarks.apart import apart
from tests.benchmarks.report import Check, Rows, main
from tests.helpers.runtimes import executed_by
from tests.helpers.sessions import Finished, lab, led

MODELS = ("mobilenet_v2", "resnet18", "resnet50")
CUTS = {"mobilenet_v2": "features.7", "resnet18": "layer2.1", "resnet50": "layer2.3"}
ROUNDS, QUICK_ROUNDS = 9, 1
PHASES = {"min_items": 25, "min_s": 0.5, "max_s": 60, "retries": 0}
LOOP_S, WARMUP = 0.5, 3
LEAST = 0.97

Tensors = tuple[torch.Tensor, ...]
Bare = Callable[[Tensors], Tensors]


def measure(quick: bool) -> tuple[Rows, Sequence[Check]]:
    """Measure every model in a process of its own; a quick run only the first."""
    rows = apart("tests.benchmarks.runtimes", MODELS[: 1 if quick else None], quick)
    checks = [
        Check(
            f"{row['model']}, {row['runtime']}, stage {row['rank']}: bare loop over pipeline",
            row["ratio"],
            LEAST,
            "higher",
        )
        for row in rows
    ]
    gains = {
        (row["model"], row["runtime"]): row["over_eager"] for row in rows if row["runtime"] != EAGER
    }
    return rows, [
        *checks,
        *(
            Check(f"{model}, {runtime}: eager over it, both stages", gain, 1.0, "higher")
            for (model, runtime), gain in gains.items()
        ),
    ]


def _rows(name: str, rounds: int) -> list[dict[str, Any]]:
    """One row for each runtime and rank."""
    torch.set_num_threads(1)
    experiment = {"models": [name], "splits": {"cuts": [CUTS[name]]}, "phases": PHASES}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        made = executed_by(lab(folder, experiment), *((each, each) for each in RUNTIMES))
        [session] = made.plan.sessions
        points = {
            point.runtimes[0]: point
            for point in map(made.plan.point, session.points)
            if point.split == (CUTS[name],)
        }
        source = stack.enter_context(led(made, session))
        stack.enter_context(torch.inference_mode())
        loops = {each: _bare(source.context, point) for each, point in points.items()}
        finished = Finished(made, session)
        seen: dict[str, list[_Round]] = {each: [] for each in RUNTIMES}
        for number in range(rounds):
            order = list(RUNTIMES)[:: -1 if number % 2 else 1]
            for each in order:
                seen[each].append(_round(source, finished, points[each], loops[each]))
    return [_row(name, each, rank, seen) for each in RUNTIMES for rank in (0, 1)]


class _Times(NamedTuple):
    """Seconds of a stage, and its CPU seconds."""

    wall: float
    cpu: float


_Round = list[tuple[_Times, _Times]]
"""Of each rank's stage: in the bare loop, and in the pipeline."""


def _round(source: Source, finished: Finished, point: Point, stages: Sequence[Bare]) -> _Round:
    """Measure a point, with bare loops around it."""
    example = example_input(source.context.plan.tables[0].inputs[0], seed=0, index=0)
    before = _loop(stages, example)
    source.measure(point, 1)
    after = _loop(stages, example)
    found = []
    for rank, bare in enumerate(zip(before, after, strict=True)):
        loop = _Times(*map(statistics.mean, zip(*bare, strict=True)))
        # The records grow: those of this time are behind the last warm-up of a first leg.
        lines = finished.lab.written(finished.session, finished.session.placement[rank])
        taken = list[_Times]()
        for line in lines:
            if getattr(line, "point", None) != point.id or line.kind != "item":
                continue
            if line.leg == 0 and line.phase == "warmup":
                taken.clear()
            if line.phase == "latency":
                taken.append(_Times((line.computed_ns - line.start_ns) / 1e9, line.cpu_ns / 1e9))
        found.append((loop, _typical(taken)))
    return found


def _typical(times: Sequence[_Times]) -> _Times:
    """The lower quartiles of times."""
    return _Times(*(statistics.quantiles(each, n=4)[0] for each in zip(*times, strict=True)))


def _loop(stages: Sequence[Bare], example: torch.Tensor) -> list[_Times]:
    """Seconds of each stage, run one after the other."""
    times: list[list[_Times]] = [[] for _ in stages]
    end = time.perf_counter() + LOOP_S
    number = 0
    while number < 3 * WARMUP or time.perf_counter() < end:
        crossing: Tensors = (example.clone(),)
        for rank, stage in enumerate(stages):
            cpu, start = time.thread_time(), time.perf_counter()
            crossing = stage(crossing)
            taken = _Times(time.perf_counter() - start, time.thread_time() - cpu)
            if number >= WARMUP:
                times[rank].append(taken)
            crossing = tuple(each.clone() for each in crossing)
        number += 1
    return [_typical(each) for each in times]


def _bare(context: Context, point: Point) -> list[Bare]:
    """Both stages of a point as the runtime itself runs them."""
    if point.runtimes[0] == EAGER:
        return [_function(stage) for stage in split(context.model(point), point.split)]
    table = context.plan.table(point.model, point.batch, point.dtype)
    files = [
        context.programs / plans.stage_name(table, *point.ends(rank))
        for rank in range(len(point.runtimes))
    ]
    return [_session(loading.load_checked(file)) for file in files]


def _function(stage: Any) -> Bare:
    """A stage of torch's."""
    return lambda tensors: tuple(stage(*tensors))


def _session(data: bytes) -> Bare:
    """A stage of ONNX Runtime's, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(tensors: Tensors) -> Tensors:
        given = {name: each.numpy() for name, each in zip(names, tensors, strict=True)}
        return tuple(map(torch.from_numpy, session.run(None, given)))

    return run


def _row(model: str, runtime: str, rank: int, seen: dict[str, list[_Round]]) -> dict[str, Any]:
    """One stage under one runtime."""
    rounds = [each[rank] for each in seen[runtime]]
    both = {name: [sum(inside.wall for _, inside in each) for each in seen[name]] for name in seen}
    gains = [eager / own for eager, own in zip(both[EAGER], both[runtime], strict=True)]
    ratios = [bare.wall / inside.wall for bare, inside in rounds]
    return {
        "model": model,
        "cut": CUTS[model],
        "runtime": runtime,
        "rank": rank,
        "bare_ms": 1e3 * statistics.median(bare.wall for bare, _ in rounds),
        "pipeline_ms": 1e3 * statistics.median(inside.wall for _, inside in rounds),
        "ratio": statistics.median(ratios),
        "least_ratio": min(ratios),
        "most_ratio": max(ratios),
        "cpu_ratio": statistics.median(bare.cpu / inside.cpu for bare, inside in rounds),
        "over_eager": statistics.median(gains),
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--model"]:
        rounds = QUICK_ROUNDS if json.loads(sys.argv[3]) else ROUNDS
        print(json.dumps(_rows(sys.argv[2], rounds)))
    else:
        main("runtimes", measure, __doc__ or "")
