"""What this machine is, as far as a result depends on it: read-only, for the records."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from pathlib import Path

import torch

from paretopipe_worker import __version__

_ALLOCATOR = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")


def versions() -> dict[str, str]:
    """Versions of what computes and measures here."""
    return {
        "paretopipe": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "kernel": platform.release(),
    }


def host() -> dict[str, object]:
    """Processor, memory, threads and allocator as they are in this process."""
    return {
        "machine": platform.machine(),
        "cpu": _cpu_field("model name", "Model"),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "threads": torch.get_num_threads(),
        "allocator": {name: os.environ.get(name) for name in _ALLOCATOR},
    }


def numerics() -> str:
    """What must agree between two hosts for their results to agree to the last bit.

    Threads and processor features choose the kernels, and with them the order of additions.
    """
    features = hashlib.sha256(_cpu_field("flags", "Features").encode()).hexdigest()[:12]
    return " ".join(
        (
            platform.machine(),
            torch.backends.cpu.get_cpu_capability(),
            features,
            f"threads={torch.get_num_threads()}",
            f"torch={torch.__version__}",
        )
    )


def process_start_ns() -> int:
    """When this process was started, on its ``perf_counter_ns`` clock (to 10 ms)."""
    # Field 22 of /proc/PID/stat, counted behind the command, which may hold spaces (proc(5)).
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - started_s
    return time.perf_counter_ns() - round(age_s * 1e9)


def _cpu_field(*names: str) -> str:
    """The first of these fields of /proc/cpuinfo, whose names differ between architectures."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in names:
            return value.strip()
    return ""
