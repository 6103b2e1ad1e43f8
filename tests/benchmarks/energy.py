"""What sampling a host's power costs the stage that computes meanwhile.

Half of a model is computed again and again, in one thread, as a stage process does. Blocks of items
without sampling take turns with blocks in which a thread samples a power monitor of hwmon, or asks
a program for a Raspberry Pi 5's power chip, at the rate at which legs are sampled. A ratio is the
mean time of a block's items over that of the block without sampling in the same round; the median
of all rounds counts. There is no such chip here: the files are ordinary ones, so that what the
kernel takes for the bus of a real sensor is left out, and the program is a script of the shell,
which starts as a program does but needs not wait for the firmware.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from paretopipe_worker.cuts import InputSpec
from paretopipe_worker.host.powers import Power, Sampler, power
from paretopipe_worker.model import zoo
from paretopipe_worker.model.inputs import example_input
from paretopipe_worker.model.partition import Partitioned, split
from paretopipe_worker.model.sources import default_input
from paretopipe_worker.model.trial import cut_table
from tests.benchmarks.apart import apart
from tests.benchmarks.report import Check, Rows, main
from tests.helpers.fake_host import FakeHost
from tests.helpers.pmic import PMIC

MODELS = ("mobilenet_v2", "resnet18")
BLOCK_S, ROUNDS = 1.0, 40
QUICK_S, QUICK_ROUNDS = 0.2, 2


def measure(quick: bool) -> tuple[Rows, Sequence[Check]]:
    """Measure every model in a process of its own; a quick run only the first."""
    rows = apart("tests.benchmarks.energy", MODELS[: 1 if quick else None], quick)
    return rows, [
        Check(
            f"{row['model']}: an item while {row['source']} is sampled over one without",
            row["ratio"],
            1.01,
            "lower",
        )
        for row in rows
    ]


def _sources(folder: Path) -> dict[str, Power]:
    """A source of each kind, by name."""
    monitored, board = FakeHost(folder / "monitored"), FakeHost(folder / "board")
    monitored.file("sys/class/hwmon/hwmon0/name", "ina226\n")
    monitored.file("sys/class/hwmon/hwmon0/power1_input", "4725000\n")
    board.firmware(f"echo '{PMIC}'")
    found = [power(host.root) for host in (monitored, board)]
    return {each.source: each for each in found if each}


def _rows(name: str, quick: bool) -> list[dict[str, Any]]:
    """One row for each source."""
    torch.set_num_threads(1)
    item = _item(name)
    seconds, rounds = (QUICK_S, QUICK_ROUNDS) if quick else (BLOCK_S, ROUNDS)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        sources = _sources(Path(folder))
        _block(item, seconds, None)
        taken = [_round(item, seconds, sources, number) for number in range(rounds)]
        return [
            {
                "model": name,
                "source": source,
                "rate_hz": read.rate_hz,
                "item_ms": 1e3 * statistics.median(each[""] for each in taken),
                "sampled_ms": 1e3 * statistics.median(each[source] for each in taken),
                "ratio": statistics.median(each[source] / each[""] for each in taken),
                **_sample(read),
            }
            for source, read in sources.items()
        ]


def _round(
    item: Callable[[], object], seconds: float, sources: Mapping[str, Power], number: int
) -> dict[str, float]:
    """Mean seconds of an item in one block of each kind; every round begins with another."""
    ways: list[tuple[str, Power | None]] = [("", None), *sources.items()]
    turn = number % len(ways)
    return {name: _block(item, seconds, source) for name, source in ways[turn:] + ways[:turn]}


def _block(item: Callable[[], object], seconds: float, source: Power | None) -> float:
    """Mean seconds of an item, computed for so long while a source is sampled."""
    sampler = Sampler(source) if source else None
    begin, count = time.perf_counter(), 0
    while (took := time.perf_counter() - begin) < seconds:
        item()
        count += 1
    if sampler:
        sampler.end()
    return took / count


def _sample(source: Power, count: int = 50) -> dict[str, float]:
    """Time and CPU time of one sample, those of the program that it starts included."""

    def cpu_s() -> float:
        whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, whose))

    begin, cpu = time.perf_counter(), cpu_s()
    for _ in range(count):
        source.read_w()
    return {
        "sample_ms": 1e3 * (time.perf_counter() - begin) / count,
        "sample_cpu_ms": 1e3 * (cpu_s() - cpu) / count,
    }


def _item(name: str) -> Callable[[], object]:
    """What computes the first half of a model once."""
    taken = InputSpec((1, *default_input(name)), "float32")
    model = zoo.build(name, seed=0)
    table, captured = cut_table(model, name, "block", [taken])
    parts = Partitioned(captured.program, captured.tensors)
    stage, *_ = split(parts, [table.names[len(table.names) // 2]], only=0)
    assert stage is not None
    example = example_input(taken, seed=0, index=0)
    return lambda: stage(example)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--model"]:
        print(json.dumps(_rows(sys.argv[2], json.loads(sys.argv[3]))))
    else:
        main("energy", measure, __doc__ or "")
