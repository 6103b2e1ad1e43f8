"""What a plan takes on disks: the records of a run, and the files of its models."""

from __future__ import annotations

from pathlib import Path

import orjson

from paretopipe_worker.plan import plan as plans
from paretopipe_worker.plan.plan import Plan, Point
from paretopipe_worker.plan.sending import Sending
from paretopipe_worker.plan.window import LEAST
from paretopipe_worker.records.lines import Item

_NS = 10**15
"""A time on a clock that has run for eleven days."""

_LINE_BYTES = len(
    orjson.dumps(
        Item(
            point="0" * 12,
            phase="throughput",
            seq=1000,
            ready_ns=_NS,
            start_ns=_NS,
            computed_ns=_NS,
            sent_ns=_NS,
            compute_ns=10**7,
            cpu_ns=10**7,
            done_ns=_NS,
            latency_ns=10**8,
            packed_ns=_NS,
            departed_ns=_NS,
        ),
        option=orjson.OPT_APPEND_NEWLINE,
    )
)
"""Bytes of the record of one item at one rank."""


def told(plan: Plan, cache: Path) -> str:
    """What the run takes on disks, in a line for people.

    Parameters
    ----------
    cache
        Where the controller keeps programs.
    """
    return (
        f"about {_size(records_bytes(plan))} of records, on the controller and by parts on the "
        f"hosts; {_size(files_bytes(plan, cache))} of programs and tensors on the controller, of "
        "which hosts are sent those of their stages"
    )


def records_bytes(plan: Plan) -> int:
    """Predicted bytes of a run's records: those of the items of each leg at each rank.

    Half the time of a point is taken for each of its two legs. In the throughput leg as many items
    are taken to come home in the time of one as the window holds, so this is rather too much.
    """
    of_point = {point.id: _items(point) * len(point.ring) * _LINE_BYTES for point in plan.points}
    return round(sum(of_point[point] for session in plan.sessions for point in session.points))


def files_bytes(plan: Plan, cache: Path) -> int:
    """Bytes of the programs and tensors of a plan's models that the controller keeps now."""
    sending = Sending(plan)
    for session in plan.sessions:
        sending.add(session)
    names = {name for files in sending.files.values() for name in files}
    paths = [plans.kept(cache) / name for name in names]
    return sum(path.stat().st_size for path in paths if path.exists())


def _items(point: Point) -> float:
    """Items of the legs of one replicate of a point."""
    window = point.window if isinstance(point.window, int) else LEAST
    latency_s = max(point.predicted_latency_s, 1e-4)
    return point.predicted_s / 2 / latency_s * (1 + window)


def _size(number: float) -> str:
    """Bytes for people."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{max(1, round(number / 1e6))} MB"
