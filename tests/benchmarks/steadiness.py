"""How steadily this machine computes, with nothing of the pipeline beside.

One process with one thread runs a model as its author wrote it, item after item, with no link, no
second stage and no records. Items are grouped into legs as long as those of a sweep. How far legs
differ from their median, in CPU time of the thread, is what the machine itself adds to whatever is
measured on it, and no prediction of one leg from others comes closer. `waits` says how many times
as long as an item took the process sleeps before the next one, as a stretched host does.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from paretopipe_worker.cuts import InputSpec
from paretopipe_worker.model import zoo
from paretopipe_worker.model.inputs import example_input
from paretopipe_worker.model.sources import default_input
from tests.benchmarks.report import Check, Rows, main

MODELS = ("mobilenet_v2", "resnet18")
LEG_ITEMS, LEG_S = 12, 1.5
LEGS, QUICK_LEGS, WARMUP_S = 24, 2, 2.0


def measure(quick: bool) -> tuple[Rows, Sequence[Check]]:
    """Measure both models with and without waits: legs take turns, so that each sees all times."""
    torch.set_num_threads(1)
    models = [_Model(name) for name in MODELS]
    ways = [(model, factor) for model in models for factor in (0, 3)]
    legs: list[list[list[int]]] = [[] for _ in ways]
    with torch.inference_mode():
        for model in models:
            model.leg(0, 0 if quick else WARMUP_S)
        for _ in range(QUICK_LEGS if quick else LEGS):
            for kept, (model, factor) in zip(legs, ways, strict=True):
                kept.append(model.leg(factor, 0 if quick else LEG_S))
    rows = [
        _row(model.name, factor, kept) for (model, factor), kept in zip(ways, legs, strict=True)
    ]
    worst = max(row["mean_p95_percent"] for row in rows)
    words = "legs' mean CPU time from its median, per cent, 95th percentile"
    return rows, [Check(words, worst, 5.0, "lower")]


class _Model:
    """A model and an input."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._model = zoo.build(name, seed=0)
        taken = InputSpec((1, *default_input(name)), "float32")
        self._example = example_input(taken, seed=0, index=0)

    def leg(self, factor: int, least_s: float) -> list[int]:
        """CPU times of one leg in ns; each item waits `factor` times as long as the last took."""
        found: list[int] = []
        end_ns = time.perf_counter_ns() + round(least_s * 1e9)
        while len(found) < LEG_ITEMS or time.perf_counter_ns() < end_ns:
            if found and factor:
                time.sleep(factor * found[-1] / 1e9)
            begin_ns = time.thread_time_ns()
            self._model(self._example)
            found.append(time.thread_time_ns() - begin_ns)
        return found


def _row(name: str, factor: int, legs: Sequence[Sequence[int]]) -> dict[str, Any]:
    """How far means and medians of legs are from the median leg."""
    row: dict[str, Any] = {"model": name, "waits": factor, "legs": len(legs)}
    for of, typical in (("median", np.median), ("mean", np.mean)):
        values = np.array([typical(leg) for leg in legs])
        off = 100 * np.abs(values / np.median(values) - 1)
        row[f"{of}_ms"] = float(np.median(values)) / 1e6
        row[f"{of}_p50_percent"], row[f"{of}_p95_percent"] = np.percentile(off, [50, 95]).tolist()
    return row


if __name__ == "__main__":
    main("steadiness", measure, __doc__ or "")
