"""Describe the machine for the records: kernel, processor, firmware, queueing.

What cannot be read is null. Nothing that identifies a device or a person is recorded: no serial
numbers, and of the kernel's command line only the values that are listed here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from paretopipe_worker.host.sensors import content, firmware, line, vcgencmd

_DMI = ("sys_vendor", "product_name", "board_name", "bios_vendor", "bios_version", "bios_date")

_CPUFREQ = ("scaling_driver", "scaling_governor", "cpuinfo_min_freq", "cpuinfo_max_freq")

_SETTINGS = {
    "transparent_hugepage": "sys/kernel/mm/transparent_hugepage/enabled",
    "clocksource": "sys/devices/system/clocksource/clocksource0/current_clocksource",
    "smt": "sys/devices/system/cpu/smt/control",
    "boost": "sys/devices/system/cpu/cpufreq/boost",
    "no_turbo": "sys/devices/system/cpu/intel_pstate/no_turbo",
    "swappiness": "proc/sys/vm/swappiness",
    "kernel_build": "proc/version",
    "boot_id": "proc/sys/kernel/random/boot_id",
}

_NETWORK = (
    *("core.default_qdisc", "core.rmem_max", "core.wmem_max", "core.busy_poll"),
    *("ipv4.tcp_autocorking", "ipv4.tcp_congestion_control", "ipv4.tcp_ecn", "ipv4.tcp_fastopen"),
    *("ipv4.tcp_limit_output_bytes", "ipv4.tcp_moderate_rcvbuf", "ipv4.tcp_mtu_probing"),
    *("ipv4.tcp_no_metrics_save", "ipv4.tcp_notsent_lowat", "ipv4.tcp_rmem", "ipv4.tcp_sack"),
    *("ipv4.tcp_slow_start_after_idle", "ipv4.tcp_timestamps", "ipv4.tcp_wmem"),
)

_BOOT_VALUES = (
    *("isolcpus", "nohz_full", "nohz", "rcu_nocbs", "irqaffinity", "maxcpus", "nr_cpus", "mem"),
    *("mitigations", "spectre_v2", "intel_pstate", "amd_pstate", "intel_idle.max_cstate"),
    *("processor.max_cstate", "cpuidle.governor", "cpufreq.default_governor", "idle", "preempt"),
    *("transparent_hugepage", "hugepages", "hugepagesz", "default_hugepagesz", "numa_balancing"),
    *("cgroup_enable", "cgroup_disable", "psi", "clocksource", "tsc", "pcie_aspm", "init_on_alloc"),
)
"""Parameters of the kernel on whose values a result may depend. Of all others only the name is
recorded, since their values may be anything."""


def machine(root: Path = Path("/")) -> dict[str, Any]:
    """Kernel, processor and firmware.

    Parameters
    ----------
    root
        Where ``proc``, ``sys`` and ``usr`` are.
    """
    cpufreq = root / "sys/devices/system/cpu/cpu0/cpufreq"
    return {
        **{name: line(root / path) for name, path in _SETTINGS.items()},
        "kernel_command_line": _command_line(line(root / "proc/cmdline")),
        "cpu_features": cpu_field("flags", "Features", root=root).split(),
        "cpufreq": {name: line(cpufreq / name) for name in _CPUFREQ},
        "device_tree_model": line(root / "proc/device-tree/model"),
        "dmi": {name: line(root / "sys/class/dmi/id" / name) for name in _DMI},
        "firmware": firmware(vcgencmd(root), "version"),
        "swap_bytes": _swap_bytes(root),
    }


def cpu_field(*names: str, root: Path = Path("/")) -> str:
    """The first of these fields in /proc/cpuinfo, whose names differ by architecture; or empty."""
    for entry in (content(root / "proc/cpuinfo") or "").splitlines():
        name, _, value = entry.partition(":")
        if name.strip() in names:
            return value.strip()
    return ""


def network(root: Path = Path("/")) -> dict[str, Any]:
    """Current queueing disciplines and settings of the network namespace."""
    folder = root / "proc/sys/net"
    settings = {name: line(folder / name.replace(".", "/")) for name in _NETWORK}
    return {
        "qdiscs": _qdiscs(),
        "sysctl": {name: value and " ".join(value.split()) for name, value in settings.items()},
    }


def _qdiscs() -> list[str] | None:
    """Lines of ``tc qdisc show``; None where it cannot be run."""
    program = shutil.which("tc", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "qdisc", "show"], capture_output=True, text=True, check=True, timeout=5
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return [entry.strip() for entry in done.stdout.splitlines()]


def _command_line(text: str | None) -> str | None:
    """The kernel's command line, with an ellipsis for each value that is not recorded."""
    if text is None:
        return None
    words = text.partition(" -- ")[0].split()  # what follows is init's
    return " ".join(_without_value(word) for word in words)


def _without_value(word: str) -> str:
    """A word of the command line as it may be recorded."""
    name, separator, _ = word.partition("=")
    return word if not separator or name in _BOOT_VALUES else f"{name}=…"


def free_bytes(root: Path = Path("/")) -> int | None:
    """Memory that new processes can have without swapping, as the kernel estimates it now."""
    return _memory(root, "MemAvailable")


def _swap_bytes(root: Path) -> int | None:
    """Total size of the swap."""
    return _memory(root, "SwapTotal")


def _memory(root: Path, field: str) -> int | None:
    """A size in /proc/meminfo, in bytes."""
    for entry in (content(root / "proc/meminfo") or "").splitlines():
        name, _, value = entry.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    return None
