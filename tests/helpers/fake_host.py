"""A made-up host: the files of ``proc``, ``sys`` and ``usr`` that the worker reads, in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CORE = 2
"""The core that the reading thread is said to run on."""


@dataclass(frozen=True)
class FakeHost:
    """A host below `root`; what is not laid out it does not tell."""

    root: Path

    def __post_init__(self) -> None:
        self.file("proc/stat", "cpu  100 0 100 9000 0 0 0 0 0 0\ncpu0 1 2 3\n")

    def file(self, path: str, text: str) -> Path:
        """Lay out one file."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        return target

    def clock(self, mhz: float, governor: str = "performance", cores: str = "") -> None:
        """Let the core that computes have this clock, and idle ones a low one.

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
        """Let the thermal zones tell these, in thousandths of a degree."""
        for zone, text in zones.items():
            self.file(f"sys/class/thermal/{zone}/temp", text)

    def swapped(self, pages_in: int, pages_out: int) -> None:
        """Count this many pages swapped since the boot."""
        self.file("proc/vmstat", f"pgpgin 7\npswpin {pages_in}\npswpout {pages_out}\nzswpin 9\n")

    def firmware(self, script: str) -> None:
        """Let ``vcgencmd`` be this shell script."""
        self.file("usr/bin/vcgencmd", f"#!/bin/sh\n{script}\n").chmod(0o755)

    def throttling(self, bits: int) -> None:
        """Let the firmware's bits be these."""
        self.firmware(f'[ "$1" = get_throttled ] && echo "throttled={bits:#x}"')
