"""Software and hardware that a result of this process depends on, for the records."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from importlib import metadata

import torch

from paretopipe_worker import __version__
from paretopipe_worker.host.daemons import Process
from paretopipe_worker.host.machine import cpu_field, machine, network
from paretopipe_worker.host.supervise import STAGE_ENVIRONMENT

_PACKAGES = ("numpy", "nvidia-ml-py", "onnxruntime", "orjson", "pydantic", "PyYAML", "safetensors")

_STEERING = ("GLIBC_TUNABLES", "LD_PRELOAD", "OMP_NUM_THREADS", "KMP_AFFINITY", "GOMP_CPU_AFFINITY")
"""Other environment variables that change how a process computes and allocates memory."""


def versions() -> dict[str, str]:
    """Versions of the software that computes and measures here; missing packages are left out."""
    return {
        "paretopipe": __version__,
        "python": platform.python_version(),
        "python_compiler": platform.python_compiler(),
        "torch": torch.__version__,
        "torch_build": _torch_build(),
        **{name: found for name in _PACKAGES if (found := version(name)) is not None},
        "libc": " ".join(platform.libc_ver()),
        "kernel": platform.release(),
    }


def host() -> dict[str, object]:
    """Machine, memory, threads, allocator and network as this process finds them."""
    return {
        "machine": platform.machine(),
        "cpu": cpu_field("model name", "Model"),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "threads": torch.get_num_threads(),
        "allocator": {name: os.environ.get(name) for name in STAGE_ENVIRONMENT},
        "environment": {name: os.environ.get(name) for name in _STEERING},
        **machine(),
        "network": network(),
    }


def numerics() -> str:
    """What must be equal on two hosts for their results to be equal to the last bit.

    Threads and processor features choose the kernels, and with them the order of additions.
    """
    features = hashlib.sha256(cpu_field("flags", "Features").encode()).hexdigest()[:12]
    return " ".join(
        (
            platform.machine(),
            torch.backends.cpu.get_cpu_capability(),
            features,
            f"threads={torch.get_num_threads()}",
            f"torch={torch.__version__}",
        )
    )


def version(package: str) -> str | None:
    """Version of a package; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def process_start_ns() -> int:
    """When this process was started, on its ``perf_counter_ns`` clock (to 10 ms)."""
    own = Process.running(os.getpid())
    assert own is not None
    started_s = own.start_ticks / os.sysconf("SC_CLK_TCK")
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - started_s
    return time.perf_counter_ns() - round(age_s * 1e9)


def _torch_build() -> str:
    """Compiler and libraries that torch was built with, without the compiler's flags."""
    lines = [line.strip(" -") for line in torch.__config__.show().splitlines()[1:]]
    return "; ".join(line for line in lines if line and not line.startswith("Build settings"))
