"""Whether a host has what the plan needs of it: disk, memory, tools, a GPU."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from paretopipe_worker.fitness.answers import Answer, OfUser
from paretopipe_worker.fitness.findings import Finding
from paretopipe_worker.plan import executing, refusals
from paretopipe_worker.plan import plan as plans
from paretopipe_worker.plan.fleet import Host
from paretopipe_worker.plan.plan import Plan
from paretopipe_worker.plan.refusals import Refusal

_MB = 1_000_000


def disk(host: str, told: OfUser, package_bytes: int, sent: int | None) -> Iterator[Finding]:
    """Whether what the host is sent fits on its disk.

    Parameters
    ----------
    package_bytes
        Size of the worker package, unpacked.
    sent
        Bytes that it is sent for a plan (:func:`sent_bytes`); None without a plan.
    """
    found = told.disk
    if not found.writable:
        yield Finding(
            host,
            "disk",
            f"{told.user} may not write to worker_home {found.path}, or to the folder that it is "
            "to be made in",
        )
    # What is there from before may be what is to be sent: it is not sent twice.
    need = package_bytes + max(0, (sent or 0) - found.held_bytes)
    if found.free_bytes < need:
        parts = f"{_mb(package_bytes)} MB for the worker package"
        if sent is not None:
            parts += f", {_mb(sent)} MB for programs, tensors and the plan"
        yield Finding(
            host,
            "disk",
            f"{_mb(found.free_bytes)} MB are free at worker_home {found.path}, and {_mb(need)} MB "
            f"are needed ({parts}); records and Python packages come on top",
        )


def sent_bytes(plan: Plan, host: str, cache: Path, refused: Collection[str]) -> int:
    """Bytes of programs and tensors that a host is sent, as far as the controller knows them.

    Of tensors these are the ones that its stages hold. Files that the controller makes later count
    nothing.

    Parameters
    ----------
    cache
        Where the controller keeps programs.
    refused
        Ids of points that are not measured.
    """
    folder, total = plans.kept(cache), 0
    points = [point for point in plan.points if host in point.ring and point.id not in refused]
    for model in dict.fromkeys(point.model for point in points):
        held = 0
        for table in plan.tables_of(model):
            program, tensors = plans.program_files(table, folder)
            total += _size(program)
            parts: set[int] = set()
            for point in points:
                own = (point.model, point.batch, point.dtype)
                if own == (model, table.batch, table.dtype):
                    rank = point.ring.index(host)
                    if rank == 0 or rank not in executing.in_files(point):
                        parts |= set(table.parts(point.split, rank))
            mine = _size(tensors) if table.footprint is None else 0
            held = max(held, table.footprint.held_bytes(sorted(parts)) if table.footprint else mine)
        total += held
    return total


def too_large(refused: Mapping[str, Refusal], fleet: Mapping[str, Host]) -> Iterator[Finding]:
    """Points whose stages do not fit into what hosts have free: notes, since the rest is measured.

    Parameters
    ----------
    refused
        These points by id (:func:`paretopipe_worker.plan.memory.refused`).
    fleet
        The hosts that are asked, by name.
    """
    by_host: dict[str, dict[str, Refusal]] = {}
    for point, refusal in refused.items():
        by_host.setdefault(refusal.where.partition(", ")[0], {})[point] = refusal
    for name in fleet:
        for line in refusals.told(by_host.get(name, {})):
            yield Finding(name, "memory", line.removeprefix(f"{name}, "), note=True)


def devices(host: Host, told: OfUser) -> Iterator[Finding]:
    """Whether a GPU that is asked for is there: a note, since the rest is measured."""
    if host.device == "cpu":
        return
    number = int(host.device.partition(":")[2])
    if number >= len(told.gpus):
        has = "; ".join(told.gpus) or "none, or no driver (nvidia-smi does not run)"
        yield Finding(
            host.name,
            "gpu",
            f"device {host.device} is asked for, and this host has: {has}. Points that need it "
            "will be refused",
            note=True,
        )


def links(host: str, answer: Answer) -> Iterator[Finding]:
    """Whether the host can shape its links; `tc` may still be installed."""
    told, root = answer.user, answer.root
    if told is not None and (missing := [tool for tool in ("ip", "tc") if tool not in told.tools]):
        if not answer.given.install:
            yield Finding(
                host,
                "netem",
                f"{' and '.join(missing)} are not installed (package iproute2), and common_install "
                "is false",
            )
        return
    if root is not None:
        if root.netem.problem is not None:
            yield Finding(host, "netem", root.netem.problem)
        for text in root.netem.warnings:
            yield Finding(host, "netem", text, note=True)


def _size(path: Path) -> int:
    """Size of a file; 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def _mb(size: int) -> str:
    """Bytes as a number of MB."""
    mb = size / _MB
    return f"{mb:.0f}" if mb >= 100 else f"{mb:.3g}"
