"""How accurately the userspace relay shapes a link, beside the kernel's htb where both can.

Two namespaces on this machine have a relay each. What was asked of the link is compared with what
is measured over the data port, first on an idle machine, then on a busy one, where a process
computes on every core as the stages of a local sweep do. If the machine has netem it is hidden from
the worker. On a busy machine both the relay and the measuring process are late; `late_p99_ms`
counts only the relay. `cpu_share` is the share of one core that both relays take. Rows called
computing say how much longer than their CPU time the computing processes take while the link is
full: the engine and the measuring process, which is the same for both engines, hinder them.
"""

from __future__ import annotations

import contextlib
import mmap
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
from tests.helpers.shaped_link import (
    DATA_PORT,
    FRAME,
    PAYLOAD,
    WithoutNetem,
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
DISTURBED = 1.05
"""A stage whose computing takes more than this times its CPU time counts as disturbed."""
COMPUTING = "computing"
TCP = TcpSettings("cubic")
ITEMS = """
import mmap, sys, time
with open(sys.argv[1], "r+b") as file:
    words = memoryview(mmap.mmap(file.fileno(), 16)).cast("Q")
while True:
    wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
    for _ in range(100_000):
        pass
    words[0] += time.perf_counter_ns() - wall
    words[1] += time.thread_time_ns() - cpu
"""
"""Compute for some milliseconds over and over, adding up their wall time and CPU time."""

Row = dict[str, Any]


def measure(quick: bool) -> tuple[Rows, Sequence[Check]]:
    """Measure every condition, idle and busy; with `quick` only a few."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, shaped_link(Path(folder)) as made:
        link = WithoutNetem(made.hosts, made.folder, lease_s=3600)
        rows += [{"cores": "idle", **row} for row in _conditions(link, quick)]
        with _computing(Path(folder)) as work:
            rows += [{"cores": "busy", **row} for row in _conditions(link, quick)]
            rows += [{"cores": "busy", **row} for row in _computed(link, work, quick)]
    return rows, [check for row in rows for check in _checks(row)] + list(_beside(rows))


def _conditions(link: WithoutNetem, quick: bool) -> Iterator[Row]:
    """One row per condition and quantity."""
    for delay_ms in DELAYS_MS[1:2] if quick else DELAYS_MS:
        yield _row(link, Condition(delay_ms=delay_ms), "round trip", 2 * delay_ms, _round_trip)
    count = 40 if quick else 200
    yield _row(link, JITTER, "jitter", JITTER.jitter_ms, lambda link: _jitter(link, count))
    count = 300 if quick else 3000
    yield _row(link, LOSS, "loss", LOSS.loss_percent, lambda link: _loss(link, count), count=count)
    for rate in RATES_MBIT[1:2] if quick else RATES_MBIT:
        for condition in _by_either(rate):
            yield _row(
                link,
                condition,
                "goodput",
                rate * PAYLOAD / FRAME,
                lambda link, rate=rate: _goodput(link, rate, 0.5 if quick else 3),
            )
    for size_kb in TRANSFERS_KB[:1] if quick else TRANSFERS_KB:
        for condition in _by_either(20):
            yield _row(
                link,
                condition,
                f"{size_kb} KB",
                must_take_ms(size_kb << 10, 20),
                lambda link, size=size_kb << 10: _transfer(link, size),
            )


def _computed(link: WithoutNetem, work: Work, quick: bool) -> Iterator[Row]:
    """How much longer computing takes than its CPU time while a link is full, by its engine."""
    seconds = 1 if quick else 5

    def fill(link: WithoutNetem, rate_mbit: float) -> float:
        with _connected(link) as data:
            transfer_ms(data, int(rate_mbit * 1e6 / 8 * 0.2))
            return work.during(lambda: transfer_ms(data, int(rate_mbit * 1e6 / 8 * seconds)))

    for rate in RATES_MBIT[1:2] if quick else RATES_MBIT:
        for condition in _by_either(rate):
            yield _row(link, condition, COMPUTING, 1.0, lambda link, rate=rate: fill(link, rate))


def _by_either(rate_mbit: float) -> tuple[Condition, Condition]:
    """A rate that htb keeps, and nearly the same condition for which a relay is needed."""
    return Condition(rate_mbit=rate_mbit), Condition(rate_mbit=rate_mbit, delay_ms=0.01)


def _row(
    link: WithoutNetem,
    condition: Condition,
    quantity: str,
    asked: float,
    measuring: Callable[[WithoutNetem], float],
    **more: Any,
) -> Row:
    """Shape both hosts anew, measure, and read what the first host's relay counted meanwhile."""
    for rank in (0, 1):
        link.restore(rank=rank)
        words = link.asking(condition, tcp=TCP, rank=rank)
        if condition.only_rate:  # for htb, however low it is
            words.remove("--emulate")
        engine = link.call("apply", *words, rank=rank)["engine"]
    keepers = [keeper for rank in (0, 1) for keeper in link.keepers(rank)]
    cpu_s, begin = sum(map(_cpu_s, keepers)), time.monotonic()
    value = measuring(link)
    took_s = time.monotonic() - begin
    counted = link.counters() if engine == "relay" else None
    return {
        "engine": engine,
        "quantity": quantity,
        "delay_ms": condition.delay_ms,
        "rate_mbit": condition.rate_mbit,
        "asked": asked,
        "measured": value,
        "late_p99_ms": (counted.late_ns(0.99) or 0) / 1e6 if counted else None,
        "forwarded": counted.forwarded if counted else None,
        "cpu_share": (sum(map(_cpu_s, keepers)) - cpu_s) / took_s,
        **more,
    }


def _round_trip(link: WithoutNetem) -> float:
    """Median round trip in milliseconds of a small message, one under way at a time."""
    with _connected(link) as data:
        first_ms = transfer_ms(data, 8)
        count = max(15, min(130, int(6000 / first_ms)))
        return statistics.median(transfer_ms(data, 8) for _ in range(count))


def _jitter(link: WithoutNetem, count: int) -> float:
    """Standard deviation in milliseconds of the delays of datagrams that do not queue."""
    return statistics.stdev(took_s * 1e3 for _, took_s in datagrams(*link.hosts, count, 0.05))


def _loss(link: WithoutNetem, count: int) -> float:
    """Percent of datagrams that did not arrive."""
    return 100 * (1 - len(datagrams(*link.hosts, count, 0.001)) / count)


def _goodput(link: WithoutNetem, rate_mbit: float, seconds: float) -> float:
    """Mbit/s of one long transfer, after a ramp."""
    size = int(rate_mbit * 1e6 / 8 * seconds)
    with _connected(link) as data:
        transfer_ms(data, size // 3)
        return size * 8e-3 / transfer_ms(data, size)


def _transfer(link: WithoutNetem, size: int) -> float:
    """Median milliseconds of single transfers, each after a pause."""
    with _connected(link) as data:
        transfer_ms(data, 1 << 20)
        took = []
        for _ in range(7):
            time.sleep(0.1)
            took.append(transfer_ms(data, size))
        return statistics.median(took)


@contextlib.contextmanager
def _connected(link: WithoutNetem) -> Iterator[Any]:
    """A connection over the data port whose other end answers."""
    serve(link.hosts[1], DATA_PORT)
    with connect(*link.hosts, DATA_PORT) as data:
        yield data


class Work:
    """The times of the computing processes, which each writes to a file."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._words = []
        for path in files:
            with path.open("r+b") as file:
                self._words.append(memoryview(mmap.mmap(file.fileno(), 16)).cast("Q"))

    def during(self, what: Callable[[], object]) -> float:
        """Wall time over CPU time of the items while something is done."""
        before = self._sums()
        what()
        wall_ns, cpu_ns = (now - then for now, then in zip(self._sums(), before, strict=True))
        return wall_ns / cpu_ns

    def _sums(self) -> list[int]:
        """Wall time and CPU time so far, of all processes."""
        return [sum(column) for column in zip(*self._words, strict=True)]


@contextlib.contextmanager
def _computing(folder: Path) -> Iterator[Work]:
    """Keep every core busy."""
    files = [folder / f"work-{number}" for number in range(os.cpu_count() or 1)]
    for file in files:
        file.write_bytes(bytes(16))
    spinning = [subprocess.Popen([sys.executable, "-c", ITEMS, file]) for file in files]
    try:
        yield Work(files)
    finally:
        for each in spinning:
            each.kill()
            each.wait()


def _cpu_s(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _checks(row: Row) -> Iterator[Check]:
    """Compare a row with the accuracy that is promised for an otherwise idle machine."""
    name = f"{row['cores']}, {row['engine']}, {row['quantity']}"
    name += f" at {row['rate_mbit']:g} Mbit/s" if row["rate_mbit"] else f", {row['asked']:g} asked"
    off = row["measured"] - row["asked"]
    if row["late_p99_ms"] is not None:
        yield Check(f"{name}: late, p99, ms", row["late_p99_ms"], LATE_MS, "lower")
    if row["quantity"] == COMPUTING:
        yield Check(f"{name}: of its CPU time", row["measured"], DISTURBED, "lower")
    if row["cores"] == "busy":
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


def _beside(rows: Sequence[Row]) -> Iterator[Check]:
    """The ratio of computing times beside the relay and beside htb, at the same rate."""
    took = {
        (row["rate_mbit"], row["engine"]): row["measured"]
        for row in rows
        if row["quantity"] == COMPUTING
    }
    for rate in sorted({rate for rate, _ in took}):
        ratio = took[rate, "relay"] / took[rate, "htb"]
        yield Check(
            f"busy, {COMPUTING} at {rate:g} Mbit/s: relay over htb", ratio, DISTURBED, "lower"
        )


if __name__ == "__main__":
    main("relay", measure, __doc__ or "")
