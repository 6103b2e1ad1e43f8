"""How close a pipeline comes to the bounds that its parts set, and what it costs per item.

Real stage processes run, one thread per stage, over loopback addresses or, where a link is shaped,
in two network namespaces. What was measured is compared with two bounds: throughput with
``1 / max(stage, wire)``, and latency with the sum of the stages and the wire. The times of the
stages come from the same leg. For comparison all parts are also measured apart, before and after
each point: each stage alone in the source's process, the wire as a bare socket exchange of the same
payloads over the same link. In a last part stages wait without a core instead of computing: the
time per item beyond ``max(stage, wire)`` is then the pipeline's own cost.

The whole grid takes four hours: ``--model``, ``--batch``, ``--link``, ``--backend`` and ``--cuts``
choose a piece of it. Every session runs in processes of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from paretopipe_worker.execution.api import Passing
from paretopipe_worker.execution.eager import Eager
from paretopipe_worker.link.conditions import Condition
from paretopipe_worker.model.inputs import example_input
from paretopipe_worker.model.partition import Partitioned, split
from paretopipe_worker.plan.experiment import MIN_ITEMS
from paretopipe_worker.plan.plan import Point
from paretopipe_worker.plan.window import rate_per_s
from paretopipe_worker.transport.backends import BACKENDS
from tests.benchmarks.report import Check, Rows, parser, show
from tests.benchmarks.wire import Wire, wire
from tests.helpers.sessions import Finished, Inside, lab, led, on_link
from tests.helpers.shaped_link import DATA_PORT, shaped_link

MODELS = ("mobilenet_v2", "resnet18")
BATCHES = (1, 8)
LINKS = {"none": None, "100mbit": 100.0, "20mbit": 20.0}
"""Rates of the links in Mbit/s, by name; None is the unshaped loopback network."""
BUILT = tuple(BACKENDS)
WAITS_MS = (0, 2, 5, 20)
REPEATS = 8
WIRE_S = 2.0
"""Seconds that all bare exchanges of one payload may take, unless there is only one."""
WIRE_PORT = DATA_PORT + 100
PHASES = {"min_items": 15, "min_s": 1.0, "max_s": 120, "retries": 0}
SHAPED = {**PHASES, "min_items": MIN_ITEMS}
"""Fewer items, since one may take ten seconds over the slowest link."""
QUICK = {"min_items": MIN_ITEMS, "min_s": 0.1, "max_s": 20, "retries": 0}
SESSION_S = 3600


@dataclass(frozen=True)
class Piece:
    """One session to measure."""

    model: str
    batch: int
    link: str
    backend: str
    cuts: list[str] | str
    quick: bool

    @property
    def phases(self) -> dict[str, Any]:
        """How long legs last, as the experiment's phases."""
        return QUICK if self.quick else PHASES if LINKS[self.link] is None else SHAPED

    @property
    def repeats(self) -> int:
        """How often each part is measured apart, before and after a point."""
        return 3 if self.quick else REPEATS


def arguments() -> argparse.Namespace:
    """Parse what to measure; without options that is everything."""
    made = parser("pipeline", __doc__ or "")
    made.add_argument("--model", nargs="*", choices=MODELS, default=MODELS)
    made.add_argument("--batch", nargs="*", type=int, choices=BATCHES, default=BATCHES)
    made.add_argument("--link", nargs="*", choices=LINKS, default=tuple(LINKS))
    made.add_argument("--backend", nargs="*", choices=BUILT, default=BUILT)
    made.add_argument("--cuts", nargs="*", default="all", help="cuts of the models; default: all")
    made.add_argument("--waits-only", action="store_true", help="no models, only the waits")
    made.add_argument("--no-waits", action="store_true", help="only the models")
    return made.parse_args()


def measure(options: argparse.Namespace) -> tuple[Rows, Sequence[Check]]:
    """Measure every chosen piece, each in a process of its own; with `--quick` only a few."""
    if options.quick:
        options.model, options.batch, options.link = MODELS[:1], (1,), ("none",)
        options.backend, options.cuts = ("tcp",), ["features.3"]
    rows: list[dict[str, Any]] = []
    for link, backend in itertools.product(options.link, options.backend):
        pieces = [
            Piece(model, batch, link, backend, options.cuts, options.quick)
            for model, batch in itertools.product(options.model, options.batch)
        ]
        waits = [
            Piece(f"tests.helpers.synthetic:wait_{wait}_ms", 1, link, backend, "all", options.quick)
            for wait in (WAITS_MS[1:2] if options.quick else WAITS_MS)
        ]
        chosen = [*([] if options.waits_only else pieces), *([] if options.no_waits else waits)]
        rows += [row for piece in chosen for row in _apiece(piece)]
    return rows, _checks(rows)


def _apiece(piece: Piece) -> list[dict[str, Any]]:
    """Rows of a piece, from a process that runs its source."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.pipeline", "--piece", json.dumps(asdict(piece))],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=SESSION_S,
    )
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def _checks(rows: list[dict[str, Any]]) -> list[Check]:
    """The targets, for each backend."""
    checks = []
    for backend in dict.fromkeys(row["backend"] for row in rows):
        own = [row for row in rows if row["backend"] == backend]
        computed = [row for row in own if not row["model"].startswith("tests.")]
        if computed:
            ratios = [row["throughput_ratio"] for row in computed]
            checks += [
                Check(
                    f"{backend}: throughput over same-leg bound, median",
                    statistics.median(ratios),
                    0.98,
                    "higher",
                ),
                Check(
                    f"{backend}: throughput over same-leg bound, lowest cut",
                    min(ratios),
                    0.95,
                    "higher",
                ),
            ]
        for batch, limit in zip(BATCHES, (1.03, 1.01), strict=True):
            sums = [row["latency_ratio"] for row in computed if row["batch"] == batch]
            if sums:
                name = f"{backend}: latency over same-leg sum, batch {batch}, median"
                checks.append(Check(name, statistics.median(sums), limit, "lower"))
        checks += [
            Check(
                f"{backend}: own cost per item, {row['model'].partition(':')[2]}, {row['link']}, "
                f"{row['payload_bytes']} bytes, ms",
                row["period_ms"] - max(row["stage_ms"], row["wire_ms"]),
                0.3 + 0.02 * row["wire_ms"],
                "lower",
            )
            for row in own
            if row not in computed
        ]
    return checks


@contextlib.contextmanager
def _places(link: str, folder: Path) -> Iterator[tuple[dict[str, Any], Inside, Inside]]:
    """Shape the link; yield the two hosts' addresses, and how to start processes on each."""
    rate = LINKS[link]
    if rate is None:
        # Both have the same address, since rpc takes the first one of an interface.
        loopback = {name: {"data_address": "127.0.0.1"} for name in ("edge", "server")}
        yield loopback, contextlib.nullcontext, contextlib.nullcontext
        return
    with shaped_link(folder) as made:
        made.lease_s = SESSION_S
        for rank in (0, 1):
            asked = made.asking(Condition(rate_mbit=rate), rank=rank)
            asked[asked.index("--ports") + 1] = f"{DATA_PORT},{WIRE_PORT}"
            done = made.call("apply", *asked, rank=rank)
            assert isinstance(done, dict), done
        yield on_link(made.hosts), made.hosts[0].entered, made.hosts[1].entered


def session(piece: Piece) -> list[dict[str, Any]]:
    """Lead one session from this process; measure the parts of each cut around its point."""
    torch.set_num_threads(1)
    experiment = {
        "models": [piece.model],
        "batch": piece.batch,
        "backends": [piece.backend],
        "splits": {"cuts": piece.cuts},
        "phases": piece.phases,
    }
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        hosts, source_side, other_side = stack.enter_context(_places(piece.link, folder))
        made = lab(folder, experiment, **hosts)
        [planned] = made.plan.sessions
        own = made.plan.host(planned.placement[0]).data_address
        with source_side():
            port = WIRE_PORT if LINKS[piece.link] else 0
            bare = stack.enter_context(wire((own, port), other_side))
        leader = stack.enter_context(led(made, planned, source_side, other_side))
        context = leader.context
        example = example_input(made.plan.tables[0].inputs[0], seed=0, index=0)
        points = [p for p in map(made.plan.point, planned.points) if p.split[0][0] != "@"]
        apart = {}
        for number, point in enumerate(points, start=1):
            with torch.inference_mode():
                before = _apart(piece, point, context.model(point), example, bare)
                leader.measure(point, number)
                after = _apart(piece, point, context.model(point), example, bare)
            apart[point.id] = tuple(map(statistics.mean, zip(before, after, strict=True)))
        found = Finished(made, planned)
        return [_row(piece, found, point, apart[point.id]) for point in points]


def _apart(
    piece: Piece, point: Point, model: Partitioned, example: torch.Tensor, bare: Wire
) -> tuple[float, float, float, float]:
    """Seconds of stage 0, stage 1, the wire there and back, and the busier hop alone."""
    times: list[list[float]] = [[], []]
    for _ in range(piece.repeats):
        tensors: tuple[torch.Tensor, ...] = (example.clone(),)
        for rank, stage in enumerate(split(model, point.split)):
            done = (Eager(stage) if stage else Passing()).run(tensors)
            tensors = done.tensors
            times[rank].append((done.computed_ns - done.start_ns) / 1e9)
    there, back = point.hop_bytes
    rate = LINKS[piece.link]
    most = piece.repeats if rate is None else int(WIRE_S * rate * 1e6 / 8 / max(there, back))
    count = max(1, min(piece.repeats, most))
    return (
        statistics.median(times[0]),
        statistics.median(times[1]),
        bare.exchange(there, back, count),
        max(bare.stream(there, count), bare.stream(back, count)),
    )


def _row(piece: Piece, found: Finished, point: Point, apart: tuple[float, ...]) -> dict[str, Any]:
    """One cut: what was measured, over the bounds that its parts set."""
    cut = point.split[0]
    stages: dict[str, list[float]] = {}
    for phase in ("latency", "throughput"):
        stages[phase] = [
            statistics.mean(
                (item.computed_ns - item.start_ns) / 1e6 for item in found.items(rank, cut, phase)
            )
            for rank in range(len(found.session.placement))
        ]
    apart0_ms, apart1_ms, wire_ms, hop_ms = (value * 1e3 for value in apart)
    latency_ms = statistics.mean(
        (item.latency_ns or 0) / 1e6 for item in found.items(0, cut, "latency")
    )
    done = [item.done_ns or 0 for item in found.items(0, cut, "throughput")]
    period_ms = 1e3 / (rate_per_s(done, int(point.window)) or math.nan)
    return {
        "model": point.model,
        "batch": point.batch,
        "link": piece.link,
        "backend": point.backend,
        "split": cut,
        "payload_bytes": point.hop_bytes[0],
        "latency_ms": latency_ms,
        "period_ms": period_ms,
        "stage_ms": max(stages["throughput"]),
        "wire_ms": hop_ms,
        "throughput_ratio": max(*stages["throughput"], hop_ms) / period_ms,
        "throughput_ratio_apart": max(apart0_ms, apart1_ms, hop_ms) / period_ms,
        "latency_ratio": latency_ms / (sum(stages["latency"]) + wire_ms),
        "latency_ratio_apart": latency_ms / (apart0_ms + apart1_ms + wire_ms),
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--piece"]:
        print(json.dumps(session(Piece(**json.loads(sys.argv[2])))))
    else:
        chosen = arguments()
        show("pipeline", chosen, *measure(chosen))
