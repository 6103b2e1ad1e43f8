"""What a model costs in two stages, beside the model itself.

Each model is captured, and cut a quarter, half and three quarters of the way through its blocks.
Both stages of each cut and the model as its author wrote it, in inference mode, take turns in one
process with one thread, so that the machine's drift affects them alike. A ratio is the time of both
stages over the model's in the same round; the median of all rounds counts. What crosses is copied
between the stages, as a link would do, which is not counted. Each model has a process of its own,
with the environment of a stage process.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from paretopipe_worker.cuts import InputSpec
from paretopipe_worker.model import zoo
from paretopipe_worker.model.inputs import example_input
from paretopipe_worker.model.partition import Partitioned, split
from paretopipe_worker.model.sources import default_input
from paretopipe_worker.model.trial import cut_table
from tests.benchmarks.apart import apart
from tests.benchmarks.report import Check, Rows, main

LIGHT = ("mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5", "shufflenet_v2_x0_5")
"""Models of many small operations, where what Python does between them counts."""

MODELS = (
    *LIGHT,
    *("resnet18", "efficientnet_b0", "densenet121", "regnet_x_400mf", "swin_t", "squeezenet1_0"),
)
SHARES = (0.25, 0.5, 0.75)
ROUNDS, QUICK_ROUNDS, WARMUP = 60, 3, 3


def measure(quick: bool) -> tuple[Rows, Sequence[Check]]:
    """Measure every model in a process of its own; a quick run only the first two."""
    rows = apart("tests.benchmarks.stages", MODELS[: 2 if quick else None], quick)
    light = [
        Check(
            f"{name}: both stages over the model, worst cut",
            max(row["ratio"] for row in rows if row["model"] == name),
            0.93,
            "lower",
        )
        for name in LIGHT
        if any(row["model"] == name for row in rows)
    ]
    ratios = [row["ratio"] for row in rows]
    return rows, [
        *light,
        Check("both stages over the model, median", statistics.median(ratios), 0.98, "lower"),
        Check("both stages over the model, worst cut", max(ratios), 1.03, "lower"),
    ]


def _rows(name: str, rounds: int) -> list[dict[str, Any]]:
    """One row per cut of a model."""
    torch.set_num_threads(1)
    taken = InputSpec((1, *default_input(name)), "float32")
    model = zoo.build(name, seed=0)
    table, captured = cut_table(model, name, "block", [taken])
    parts = Partitioned(captured.program, captured.tensors)
    names = [table.names[round(share * (len(table.names) - 1))] for share in SHARES]
    ways = [lambda tensor: _lone(model, tensor)]
    ways += [_both(parts, cut) for cut in names]
    example = example_input(taken, seed=0, index=0)
    with torch.inference_mode():
        seconds = [_round(ways, number, example) for number in range(WARMUP + rounds)][WARMUP:]
    return [
        {
            "model": name,
            "cut": cut,
            "eager_ms": 1e3 * statistics.median(each[0] for each in seconds),
            "stages_ms": 1e3 * statistics.median(each[number] for each in seconds),
            "ratio": statistics.median(each[number] / each[0] for each in seconds),
        }
        for number, cut in enumerate(names, start=1)
    ]


def _round(ways: Sequence[Callable[..., float]], number: int, example: torch.Tensor) -> list[float]:
    """Seconds of each way, run once; every round begins with another."""
    order = [(number + offset) % len(ways) for offset in range(len(ways))]
    found = {way: ways[way](example.clone()) for way in order}
    return [found[way] for way in range(len(ways))]


def _lone(model: torch.nn.Module, tensor: torch.Tensor) -> float:
    """Seconds of the model."""
    start = time.perf_counter()
    model(tensor)
    return time.perf_counter() - start


def _both(parts: Partitioned, cut: str) -> Callable[[torch.Tensor], float]:
    """What runs both stages of a cut and returns their seconds."""
    first, second = split(parts, [cut])
    assert first is not None and second is not None

    def run(tensor: torch.Tensor) -> float:
        times = [time.perf_counter()]
        crossing = first(tensor)
        times.append(time.perf_counter())
        received = [torch.empty(each.shape, dtype=each.dtype).copy_(each) for each in crossing]
        times.append(time.perf_counter())
        second(*received)
        times.append(time.perf_counter())
        before, _, behind = (b - a for a, b in itertools.pairwise(times))
        return before + behind

    return run


if __name__ == "__main__":
    if sys.argv[1:2] == ["--model"]:
        rounds = QUICK_ROUNDS if json.loads(sys.argv[3]) else ROUNDS
        print(json.dumps(_rows(sys.argv[2], rounds)))
    else:
        main("stages", measure, __doc__ or "")
