"""What the userspace relay makes of a condition: asked against measured, idle and with busy cores.

Two namespaces on this machine, a relay in each, measured over the data port like a stage's
tensors. Where the machine has netem it is hidden from the worker. A busy machine has a process
that computes on every core, as the stages of a local sweep do; what is late then is the relay and
the measuring process, of which only the relay's part is counted in `late_p99_ms`.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from paretopipe_worker.link.conditions import Condition, TcpSettings
from tests.benchmarks.report import Check, Rows, main
from tests.shaped_link import (
    DATA_PORT,
    FRAME,
    PAYLOAD,
    Relayed,
    connect,
    datagrams,
    must_take_ms,
    serve,
    shaped_link,
    transfer_ms,
)

DELAYS_MS = (1.0, 10.0, 50.0, 200.0)
RATES_MBIT = (5.0, 20.0, 100.0)
TRANSFERS_KB = (8, 32, 128, 512)
JITTER = Condition(delay_ms=20, jitter_ms=5)
LOSS = Condition(loss_percent=5)
LATE_MS = 2.0
TCP = TcpSettings("cubic")
SPIN = "while True: pass"

Row = dict[str, Any]


def measure(quick: bool) -> tuple[Rows, Sequence[Check]]:
    """Every condition on an idle machine, then on a busy one; few of them to be quick."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, shaped_link(Path(folder)) as made:
        link = Relayed(made.hosts, made.folder, lease_s=3600)
        for load in ("idle", "busy"):
            with _computing() if load == "busy" else contextlib.nullcontext():
                rows += [{"load": load, **row} for row in _conditions(link, quick)]
    return rows, [check for row in rows for check in _checks(row)]


def _conditions(link: Relayed, quick: bool) -> Iterator[Row]:
    """One row per condition and quantity."""
    for delay_ms in DELAYS_MS[1:2] if quick else DELAYS_MS:
        yield _row(link, Condition(delay_ms=delay_ms), "round trip", 2 * delay_ms, _round_trip)
    count = 40 if quick else 200
    yield _row(link, JITTER, "jitter", JITTER.jitter_ms, lambda link: _jitter(link, count))
    count = 300 if quick else 3000
    yield _row(link, LOSS, "loss", LOSS.loss_percent, lambda link: _loss(link, count), count=count)
    for rate in RATES_MBIT[1:2] if quick else RATES_MBIT:
        yield _row(
            link,
            Condition(rate_mbit=rate),
            "goodput",
            rate * PAYLOAD / FRAME,
            lambda link, rate=rate: _goodput(link, rate, 0.5 if quick else 3),
        )
    for size_kb in TRANSFERS_KB[:1] if quick else TRANSFERS_KB:
        yield _row(
            link,
            Condition(rate_mbit=20),
            f"{size_kb} KB",
            must_take_ms(size_kb << 10, 20),
            lambda link, size=size_kb << 10: _transfer(link, size),
        )


def _row(
    link: Relayed,
    condition: Condition,
    quantity: str,
    asked: float,
    measuring: Callable[[Relayed], float],
    **more: Any,
) -> Row:
    """Shape both hosts anew, measure, and see what the first host's relay did meanwhile."""
    for rank in (0, 1):
        link.restore(rank=rank)
        link.apply(condition, tcp=TCP, rank=rank)
    [keeper] = link.keepers()
    cpu_s, begin = _cpu_s(keeper), time.monotonic()
    value = measuring(link)
    took_s = time.monotonic() - begin
    counted = link.counters()
    return {
        "quantity": quantity,
        "delay_ms": condition.delay_ms,
        "rate_mbit": condition.rate_mbit,
        "asked": asked,
        "measured": value,
        "late_p99_ms": (counted.late_ns(0.99) or 0) / 1e6,
        "forwarded": counted.forwarded,
        "cpu_share": (_cpu_s(keeper) - cpu_s) / took_s,
        **more,
    }


def _round_trip(link: Relayed) -> float:
    """Median round trip in milliseconds of a small message, one under way at a time."""
    with _connected(link) as data:
        first_ms = transfer_ms(data, 8)
        count = max(15, min(130, int(6000 / first_ms)))
        return statistics.median(transfer_ms(data, 8) for _ in range(count))


def _jitter(link: Relayed, count: int) -> float:
    """Standard deviation in milliseconds of one-way delays, too far apart to wait for another."""
    return statistics.stdev(took_s * 1e3 for _, took_s in datagrams(*link.hosts, count, 0.05))


def _loss(link: Relayed, count: int) -> float:
    """Percent of datagrams that did not come."""
    return 100 * (1 - len(datagrams(*link.hosts, count, 0.001)) / count)


def _goodput(link: Relayed, rate_mbit: float, seconds: float) -> float:
    """Mbit/s of one long transfer, after a ramp."""
    size = int(rate_mbit * 1e6 / 8 * seconds)
    with _connected(link) as data:
        transfer_ms(data, size // 3)
        return size * 8e-3 / transfer_ms(data, size)


def _transfer(link: Relayed, size: int) -> float:
    """Median milliseconds of single transfers, each after a pause."""
    with _connected(link) as data:
        transfer_ms(data, 1 << 20)
        took = []
        for _ in range(7):
            time.sleep(0.1)
            took.append(transfer_ms(data, size))
        return statistics.median(took)


@contextlib.contextmanager
def _connected(link: Relayed) -> Iterator[Any]:
    """A connection over the data port that answers."""
    serve(link.hosts[1], DATA_PORT)
    with connect(*link.hosts, DATA_PORT) as data:
        yield data


@contextlib.contextmanager
def _computing() -> Iterator[None]:
    """Keep every core busy."""
    count = os.cpu_count() or 1
    spinning = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for each in spinning:
            each.kill()
            each.wait()


def _cpu_s(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _checks(row: Row) -> Iterator[Check]:
    """Hold a row against the accuracy that is promised while the machine is otherwise idle."""
    name = f"{row['load']}, {row['quantity']}"
    name += f" at {row['rate_mbit']:g} Mbit/s" if row["rate_mbit"] else f", {row['asked']:g} asked"
    off = row["measured"] - row["asked"]
    yield Check(f"{name}: relay late, p99, ms", row["late_p99_ms"], LATE_MS, "lower")
    if row["load"] == "busy":
        return
    if row["quantity"] == "round trip":
        yield Check(f"{name}: above, ms", off, 3.0, "lower")
        yield Check(f"{name}: not below, ms", off, 0.0, "higher")
    elif row["quantity"] == "goodput":
        yield Check(f"{name}: relative error", abs(off) / row["asked"], 0.05, "lower")
    elif row["quantity"] == "loss":
        share = row["asked"] / 100
        deviation = 100 * (share * (1 - share) / row["count"]) ** 0.5
        yield Check(f"{name}: error in standard deviations", abs(off) / deviation, 3.0, "lower")
    elif row["quantity"] == "jitter":
        yield Check(f"{name}: relative error", abs(off) / row["asked"], 0.2, "lower")
    else:
        yield Check(f"{name}: error, ms", abs(off), max(1.0, 0.05 * row["asked"]), "lower")


if __name__ == "__main__":
    main("relay", measure, __doc__ or "")
