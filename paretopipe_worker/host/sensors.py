"""Read what a host tells of itself during a leg; what it does not tell is None."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

_THROTTLING = ("under-voltage", "frequency capped", "throttled", "hot")
"""Bits 0 to 3 of ``vcgencmd get_throttled``: what the firmware does now. Bits 16 to 19 say whether
it has done so since the boot."""

_SWAPPED = ("pswpin ", "pswpout ")
_FIRMWARE_S = 2.0


class CoreClock(NamedTuple):
    """Clock of a core, and the cores whose clock is set together with it (a cpufreq policy).

    Processors with two kinds of cores have a policy for each, at different clocks.
    """

    policy: str
    mhz: float


class Sensors:
    """Reads one host.

    Parameters
    ----------
    root
        Where ``proc``, ``sys`` and ``usr`` are.
    """

    def __init__(self, root: Path) -> None:
        self._proc, self._cpus = root / "proc", root / "sys/devices/system/cpu"
        self._zones = sorted(root.glob("sys/class/thermal/thermal_zone*/temp"))
        self._vcgencmd = vcgencmd(root)
        self.gpu_mhz: Callable[[], float | None] = _gpu_clock()

    def busy_ns(self) -> int:
        """CPU time that all processes of the machine have used since its boot."""
        words = (self._proc / "stat").read_text().split("\n", 1)[0].split()
        user, nice, system, _, _, irq, softirq, steal = map(int, words[1:9])
        ticks = user + nice + system + irq + softirq + steal
        return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")

    def cpu_clock(self) -> CoreClock | None:
        """Clock of the core that this thread last ran on."""
        core = self._core()
        khz = self._of_core(core, "scaling_cur_freq")
        if not khz or not khz.isdecimal():
            return None
        return CoreClock(self._of_core(core, "related_cpus") or str(core), int(khz) / 1000)

    def governor(self) -> str | None:
        """The frequency governor of that core."""
        return self._of_core(self._core(), "scaling_governor")

    def temperature_c(self) -> float | None:
        """Temperature of the hottest thermal zone, in degrees Celsius."""
        found = [int(text) / 1000 for path in self._zones if (text := line(path))]
        return max(found, default=None)

    def throttling(self) -> int | None:
        """Bits of ``vcgencmd get_throttled``."""
        text = firmware(self._vcgencmd, "get_throttled")
        try:
            return int(text.partition("throttled=")[2], 16) if text else None
        except ValueError:
            return None

    def swapped_pages(self) -> int | None:
        """Pages swapped in or out since the boot."""
        entries = (content(self._proc / "vmstat") or "").splitlines()
        found = [int(entry.split()[1]) for entry in entries if entry.startswith(_SWAPPED)]
        return sum(found) if len(found) == len(_SWAPPED) else None

    def forget_peak(self) -> bool:
        """Reset this process's peak of memory; return whether the kernel allowed that."""
        try:
            descriptor = os.open(self._proc / "self/clear_refs", os.O_WRONLY)
        except OSError:
            return False
        try:
            os.write(descriptor, b"5")  # proc_pid_clear_refs(5)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return True

    def peak_rss_bytes(self) -> int | None:
        """Peak resident memory of this process since it was reset."""
        for entry in (content(self._proc / "self/status") or "").splitlines():
            if entry.startswith("VmHWM:"):
                return int(entry.split()[1]) * 1024
        return None

    def _core(self) -> str | None:
        """Number of the core that this thread last ran on."""
        # Field 39 of stat, counted behind the command, which may hold spaces (proc_pid_stat(5)).
        fields = (content(self._proc / "thread-self/stat") or "").rpartition(")")[2].split()
        return fields[36] if len(fields) > 36 else None

    def _of_core(self, core: str | None, name: str) -> str | None:
        """Content of one of cpufreq's files of a core."""
        return None if core is None else line(self._cpus / f"cpu{core}/cpufreq/{name}")


@cache
def sensors(root: Path) -> Sensors:
    """The sensors of the host below `root`, which are looked for only once."""
    return Sensors(root)


def throttled(before: int | None, after: int | None) -> tuple[str, ...] | None:
    """What the firmware did at one of two readings of its bits, or between them.

    What it had only done before the first reading does not count. That it did the same again in
    between cannot be seen in that case.
    """
    if before is None or after is None:
        return None
    did = before | after | (after & ~before) >> 16
    return tuple(name for bit, name in enumerate(_THROTTLING) if did >> bit & 1)


def vcgencmd(root: Path) -> Path | None:
    """The program that queries a Raspberry Pi's firmware; None where it is not installed."""
    places = (root / folder / "vcgencmd" for folder in ("usr/bin", "opt/vc/bin"))
    return next((path for path in places if os.access(path, os.X_OK)), None)


def firmware(program: Path | None, question: str) -> str | None:
    """The firmware's answer; None where there is no program to ask it with, or it fails."""
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, question], capture_output=True, text=True, check=True, timeout=_FIRMWARE_S
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return " ".join(done.stdout.split())


def content(path: Path) -> str | None:
    """Text of one of the kernel's files; None where it is missing or cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def line(path: Path) -> str | None:
    """The same without surrounding white space and a device tree's NULs; None where empty."""
    text = content(path)
    return text.strip(" \n\t\0") or None if text is not None else None


@cache
def _gpu_clock() -> Callable[[], float | None]:
    """A function that reads the first GPU's clock in MHz: None without NVML, pynvml or a GPU."""
    try:
        import pynvml  # type: ignore[import-untyped]
    except ImportError:
        return lambda: None
    try:
        pynvml.nvmlInit()
        gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
    except pynvml.NVMLError:
        return lambda: None

    def read() -> float | None:
        try:
            return float(pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM))
        except pynvml.NVMLError:
            return None

    return read
