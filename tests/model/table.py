"""``python -m tests.model.table [NAME ...]``: measure the table of classifiers in docs/models.md.

Each classifier of torchvision is built with random weights, captured for one input, held against
itself on two, and cut. The page is written anew behind its last heading, and what is above stays.
With names the rows of these are printed instead.
"""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass

import torch

from paretopipe_worker.cuts import InputSpec
from paretopipe_worker.model import zoo
from paretopipe_worker.model.capture import Captured, capture
from paretopipe_worker.model.inputs import example_inputs
from paretopipe_worker.model.partition import Partitioned, find_cuts
from paretopipe_worker.model.sources import classifiers, default_input
from paretopipe_worker.model.verifying import verified
from tests import ROOT

PAGE = ROOT / "docs" / "models.md"
HEADING = "## Torchvision's classifiers\n"
TITLES = (
    "model",
    "input",
    "block cuts",
    "with several tensors",
    "op cuts",
    "difference",
    "seconds",
)


@dataclass(frozen=True)
class Counts:
    """How many cuts a program has.

    `several` is how many of those at granularity `block` several tensors cross.
    """

    block: int
    several: int
    op: int

    @classmethod
    def of(cls, captured: Captured) -> Counts:
        """Count the cuts of a captured model."""
        parts = Partitioned(captured.program, captured.tensors)
        block, op = (find_cuts(parts, granularity) for granularity in ("block", "op"))
        return cls(len(block), sum(len(cut.tensors) > 1 for cut in block), len(op))


def row(name: str) -> str:
    """Measure a classifier's row."""
    shape = default_input(name)
    taken = [InputSpec((1, *shape), "float32")]
    model = zoo.build(name, seed=0)
    inputs = [example_inputs(taken, seed=0, index=index) for index in (0, 1)]
    start = time.process_time()
    captured = capture(model, inputs[0])
    seconds = time.process_time() - start
    error = verified(model, captured, inputs).error
    cells = (
        f"`{name}`",
        "x".join(map(str, shape)),
        *astuple(Counts.of(captured)),
        f"{error:.0e}" if error else "none",
        f"{seconds:.1f}",
    )
    return f"| {' | '.join(map(str, cells))} |"


def said(text: str) -> dict[str, Counts]:
    """What a page says of each classifier, by name."""
    rows = re.findall(r"^\| `(\w+)` \| \S+ \| (\d+) \| (\d+) \| (\d+) \|", text, re.MULTILINE)
    return {name: Counts(*map(int, counts)) for name, *counts in rows}


def section(rows: Iterable[str]) -> Iterator[str]:
    """Lines of the page's last section."""
    yield f"""{HEADING}
All {len(classifiers())} of them, each for one input of its default size: the number of cuts at
granularity `block`, and how many of these several tensors cross; the number of cuts at `op`, each
of which one tensor crosses. The difference is the largest between what the program and the model
return on two inputs, relative to the largest value; none means that all bits are the same. Seconds
are the processor time that capturing took, on one thread.

`python -m tests.model.table` measured this, with random weights, on a machine with
{os.cpu_count()} cores ({platform.machine()}) and torch {torch.__version__.partition("+")[0]}.
"""
    yield f"| {' | '.join(TITLES)} |"
    yield f"|---|---|{'---:|' * (len(TITLES) - 2)}"
    yield from rows


def rows(names: Iterable[str]) -> Iterator[str]:
    """Measure one after the other, and print each."""
    torch.set_num_threads(1)
    for name in names:
        found = row(name)
        print(found, flush=True)
        yield found


if __name__ == "__main__":
    measured = list(rows(sys.argv[1:] or classifiers()))
    if not sys.argv[1:]:
        above, _, _ = PAGE.read_text().partition(HEADING)
        PAGE.write_text(above + "\n".join(section(measured)) + "\n")
