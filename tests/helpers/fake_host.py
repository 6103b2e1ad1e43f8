"""A made-up host: the files of ``proc``, ``sys`` and ``usr`` that the worker reads, in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CORE = 2
"""The core that the reading thread is said to run on."""


@dataclass(frozen=True)
class FakeHost:
    """A host below `root`, which tells only what a file was written for."""

    root: Path

    def __post_init__(self) -> None:
        self.file("proc/stat", "cpu  100 0 100 9000 0 0 0 0 0 0\ncpu0 1 2 3\n")

    def file(self, path: str, text: str) -> Path:
        """Write one file."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        return target

    def clock(self, mhz: float, governor: str = "performance", cores: str = "") -> None:
        """Give the core that computes this clock, and idle cores a low one.

        `cores` are those whose clock is set together with it.
        """
        stat = ["1", "(a b) c)", "R", *["0"] * 35, str(CORE), *["0"] * 13]
        self.file("proc/thread-self/stat", " ".join(stat))
        for core in range(4):
            folder = f"sys/devices/system/cpu/cpu{core}/cpufreq"
            khz = round(mhz * 1000) if core == CORE else 600_000
            self.file(f"{folder}/scaling_cur_freq", f"{khz}\n")
            self.file(f"{folder}/scaling_governor", f"{governor}\n")
            self.file(f"{folder}/related_cpus", f"{cores}\n")

    def temperature(self, **zones: str) -> None:
        """Give the thermal zones these temperatures, in thousandths of a degree."""
        for zone, text in zones.items():
            self.file(f"sys/class/thermal/{zone}/temp", text)

    def swapped(self, pages_in: int, pages_out: int) -> None:
        """Set how many pages were swapped since the boot."""
        self.file("proc/vmstat", f"pgpgin 7\npswpin {pages_in}\npswpout {pages_out}\nzswpin 9\n")

    def firmware(self, script: str) -> None:
        """Make this shell script the host's ``vcgencmd``."""
        self.file("usr/bin/vcgencmd", f"#!/bin/sh\n{script}\n").chmod(0o755)

    def throttling(self, bits: int) -> None:
        """Set the firmware's bits."""
        self.firmware(f'[ "$1" = get_throttled ] && echo "throttled={bits:#x}"')
