"""How close a pipeline comes to what its parts allow, and what running it costs per item.

Real stage processes over loopback addresses, one thread per stage. Two bounds are held against
what was measured: throughput against ``1 / max(stage, wire)``, one-in-flight latency against the
sum of stages and wire. The parts come from the same phase (stages) and, alternating with the
points, from apart: each stage alone in this process, the wire as a bare socket exchange of the
same payloads. A last part puts waits that hold no core in place of compute: what is then left
over ``max(stage, wire)`` is the pipeline's own cost per item.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from paretopipe_worker import models, records
from paretopipe_worker.compute import compute
from paretopipe_worker.context import Shares
from paretopipe_worker.link import state
from paretopipe_worker.partition import TracedModel, split
from paretopipe_worker.plan import Point, Session
from paretopipe_worker.records import Item, Record
from paretopipe_worker.rendezvous import joined
from paretopipe_worker.source import Source
from paretopipe_worker.stage import header
from tests.benchmarks.report import Check, Rows, main
from tests.benchmarks.wire import Wire, wire
from tests.sessions import Lab, lab

MODEL = "mobilenet_v2"
WAITS_MS = (0, 2, 5, 20)
REPEATS = 10
PHASES = {"min_items": 30, "min_s": 1.0, "max_s": 20, "retries": 0}


def measure(quick: bool) -> tuple[Rows, Sequence[Check]]:
    """Every block cut of the model, then every wait; few of both to be quick."""
    cuts = ["features.3"] if quick else "all"
    waits_ms = WAITS_MS[1:2] if quick else WAITS_MS
    phases = PHASES | ({"min_items": 6, "min_s": 0.1} if quick else {})
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, wire() as bare:
        computed = _session(Path(folder) / "model", MODEL, cuts, phases, bare)
        waits = [
            {"wait_ms": wait, **row}
            for wait in waits_ms
            for row in _session(
                Path(folder) / f"wait-{wait}",
                f"tests.synthetic:wait_{wait}_ms",
                "all",
                phases,
                bare,
            )
        ]

    def medians(key: str) -> float:
        return statistics.median(row[key] for row in computed)

    checks = [
        Check(
            "throughput over same-phase bound, median", medians("throughput_ratio"), 0.95, "higher"
        ),
        Check("latency over same-phase sum, median", medians("latency_ratio"), 1.06, "lower"),
        *(
            Check(
                f"own cost per item, wait {row['wait_ms']} ms, {row['payload_bytes']} bytes, ms",
                row["period_ms"] - max(row["stage_ms"], row["wire_ms"]),
                0.5 + 0.02 * row["wire_ms"],
                "lower",
            )
            for row in waits
        ),
    ]
    return [*computed, *waits], checks


def _session(
    folder: Path, model: str, cuts: str | list[str], phases: dict[str, Any], bare: Wire
) -> list[dict[str, Any]]:
    """One session over all block cuts, led from here, with each cut's parts around its point."""
    made = lab(folder, {"models": [model], "splits": {"cuts": cuts}, "phases": phases})
    [session] = made.plan.sessions
    source, other = session.placement
    path = made.results / "records" / source / records.file_name(session.id, 1)
    child = made.start(session, other)
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(records.Writer(path))
        link = state.read(None)
        writer.write(header(made.plan, session, 1, source, link))
        context, channels = stack.enter_context(
            joined(made.plan, session, 1, 0, made.cache / "weights", link, writer, Shares())
        )
        leader = Source(context, channels, made.results / "progress.jsonl")
        example = models.example_input(made.plan.tables[0].input, seed=0, index=0)
        points = [p for p in map(made.plan.point, session.points) if p.split[0][0] != "@"]
        apart = {}
        for number, point in enumerate(points, start=1):
            with torch.inference_mode():
                before = _apart(point, context.traced(point), example, bare)
                leader.measure(point, number)
                after = _apart(point, context.traced(point), example, bare)
            apart[point.id] = tuple(map(statistics.mean, zip(before, after, strict=True)))
        leader.dismiss()
    assert child.wait(timeout=30) == 0
    return [_row(made, session, point, apart[point.id]) for point in points]


def _apart(
    point: Point, traced: TracedModel, example: torch.Tensor, bare: Wire
) -> tuple[float, float, float, float]:
    """Seconds of stage 0, stage 1, the wire there and back, and the busier hop alone."""
    times: list[list[float]] = [[], []]
    for _ in range(REPEATS):
        tensors = (example.clone(),)
        for rank, stage in enumerate(split(traced, point.split)):
            done = compute(stage, tensors, 1.0)
            tensors = done.tensors
            times[rank].append((done.computed_ns - done.start_ns) / 1e9)
    there, back = point.hop_bytes
    return (
        statistics.median(times[0]),
        statistics.median(times[1]),
        bare.exchange(there, back, REPEATS),
        max(bare.stream(there, REPEATS), bare.stream(back, REPEATS)),
    )


def _items(made: Lab, session: Session, host: str, point: Point, phase: str) -> list[Item]:
    """One host's items of a phase."""
    path = made.results / "records" / host / records.file_name(session.id, 1)
    lines: Iterator[Record] = records.read(path)
    return [
        line
        for line in lines
        if isinstance(line, Item) and (line.point, line.phase) == (point.id, phase)
    ]


def _row(made: Lab, session: Session, point: Point, apart: tuple[float, ...]) -> dict[str, Any]:
    """One cut: what was measured, over what its parts allow."""
    stages: dict[str, list[float]] = {}
    for phase in ("latency", "throughput"):
        stages[phase] = [
            statistics.mean(
                (item.computed_ns - item.start_ns) / 1e6
                for item in _items(made, session, host, point, phase)
            )
            for host in session.placement
        ]
    apart0_ms, apart1_ms, wire_ms, hop_ms = (value * 1e3 for value in apart)
    source = session.placement[0]
    latency_ms = statistics.mean(
        (item.latency_ns or 0) / 1e6 for item in _items(made, session, source, point, "latency")
    )
    done = [i.done_ns or 0 for i in _items(made, session, source, point, "throughput")]
    period_ms = (done[-1] - done[0]) / (len(done) - 1) / 1e6
    return {
        "model": point.model,
        "split": point.split[0],
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
    main("pipeline", measure, __doc__ or "")
