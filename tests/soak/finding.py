"""What a soak found: failures, leaks and drift, each in a sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from tests.helpers.trends import LEAST, Trend, trend
from tests.soak.watching import Left


@dataclass(frozen=True)
class Sweep:
    """One sweep, as the soak saw it.

    Parameters
    ----------
    number
        Counted from 1.
    at_s, seconds
        When it began, since the soak did, and how long it took.
    exit_status
        That of ``ansible-playbook``.
    asked, measured
        Points that it was to measure, and those that it did.
    point_s
        Seconds of its sessions for each measurement of a point.
    reference_ms, reference_images_s
        Latency and throughput of one and the same point; null where it was not measured.
    memory_mb
        The most that processes of each kind held together, without pages that they share with
        others: how many others there are is not the sweep's doing.
    processes, files, threads, namespaces
        The most that there were at one moment.
    records_mb
        Size of its records.
    left
        What there was after it.
    said
        The end of what it printed, where it failed.
    """

    number: int
    at_s: float
    seconds: float
    exit_status: int
    asked: int
    measured: int
    point_s: float | None
    reference_ms: float | None
    reference_images_s: float | None
    memory_mb: dict[str, float]
    processes: int
    files: int
    threads: int
    namespaces: int
    records_mb: float
    left: Left
    said: str = ""

    @property
    def failed(self) -> bool:
        """Whether it did not end well, or lacks points."""
        return self.exit_status != 0 or self.measured < self.asked


class Finding(NamedTuple):
    """What is wrong, in a sentence."""

    kind: Literal["failure", "leak", "drift"]
    text: str


class Figure(NamedTuple):
    """A figure of every sweep, which is not to grow by more than a share of itself."""

    name: str
    value: Callable[[Sweep], float | None]
    kind: Literal["leak", "drift"] = "leak"


MOST_SHARE = {"leak": 0.02, "drift": 0.05}
"""Growth over the soak, as a share of the first tenth, from which a figure is named."""

FIGURES = (
    Figure("temporary files", lambda sweep: sweep.left.temporary_files),
    Figure("disk beside results, MB", lambda sweep: sweep.left.beside_mb),
    Figure("runs on the hosts, MB for each", lambda sweep: sweep.left.runs_mb / sweep.number),
    Figure("processes left", lambda sweep: sweep.left.processes),
    Figure("namespaces left", lambda sweep: sweep.left.namespaces),
    Figure("processes at most", lambda sweep: sweep.processes),
    Figure("open files at most", lambda sweep: sweep.files),
    Figure("threads at most", lambda sweep: sweep.threads),
    Figure("namespaces at most", lambda sweep: sweep.namespaces),
    Figure("records, MB", lambda sweep: sweep.records_mb, "drift"),
    Figure("seconds per point", lambda sweep: sweep.point_s, "drift"),
    Figure("latency of the reference, ms", lambda sweep: sweep.reference_ms, "drift"),
    Figure("throughput of the reference, images/s", lambda s: s.reference_images_s, "drift"),
)


def figures(sweeps: Sequence[Sweep]) -> list[Figure]:
    """All figures: those that every soak has, and the memory of each kind of process."""
    kinds = dict.fromkeys(kind for sweep in sweeps for kind in sweep.memory_mb)

    def memory(kind: str) -> Callable[[Sweep], float | None]:
        return lambda sweep: sweep.memory_mb.get(kind)

    return [*(Figure(f"memory of {kind}, MB", memory(kind)) for kind in kinds), *FIGURES]


def trends(sweeps: Sequence[Sweep]) -> dict[str, Trend]:
    """How each figure went, without the first sweep, which fills caches.

    Figures of fewer than three sweeps are left out.
    """
    found = {}
    for figure in figures(sweeps):
        values = [value for sweep in sweeps[1:] if (value := figure.value(sweep)) is not None]
        if len(values) >= LEAST:
            found[figure.name] = trend(values)
    return found


def findings(sweeps: Sequence[Sweep]) -> list[Finding]:
    """Name what failed, what was left behind, and what grew or drifted."""
    found = [
        Finding(
            "failure",
            f"sweep {sweep.number} ended with status {sweep.exit_status} and measured "
            f"{sweep.measured} of {sweep.asked} points",
        )
        for sweep in sweeps
        if sweep.failed
    ]
    for sweep in sweeps:
        if sweep.left.processes or sweep.left.namespaces:
            text = f"{sweep.left.processes} processes and {sweep.left.namespaces} namespaces"
            found.append(Finding("leak", f"sweep {sweep.number} left {text}"))
    kinds = {figure.name: figure.kind for figure in figures(sweeps)}
    for name, went in trends(sweeps).items():
        kind = kinds[name]
        sure = went.low > 0 or (kind == "drift" and went.high < 0)
        if sure and abs(went.grown) > MOST_SHARE[kind] * abs(went.first):
            found.append(
                Finding(
                    kind,
                    f"{name}: {went.grown:+.3g} over the soak ({went.low:+.3g} to {went.high:+.3g} "
                    f"at 95 %), from {went.first:.4g} in its first tenth to {went.last:.4g} in "
                    "its last",
                )
            )
    return found
