"""Energy that a host uses during a leg, as the difference of counters that the host keeps.

A counter is read just before a leg and just after it. Nothing is sampled in between, so that
reading costs the measurement nothing. What has no counter and tells only its power at a moment is
not read.

Sources
-------
rapl
    Packages of the kernel's powercap (``Documentation/power/powercap/powercap.rst``): zones
    ``intel-rapl:N``, for AMD's processors too. Zones inside a package and the whole platform's
    ``psys`` are left out, since they count the same again. So is ``intel-rapl-mmio``, which shows
    the same packages another time.
nvml
    All GPUs of NVIDIA that count their energy, which they do from Volta on.
hwmon
    ``energyN_input`` of the kernel's hwmon (``Documentation/hwmon/sysfs-interface.rst``), on hosts
    without the two others, since what such a counter counts may be part of theirs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from paretopipe_worker.host.sensors import line
from paretopipe_worker.records.energy import Energy

MOST_W = 1000
"""Power that one package cannot exceed for as long as a leg takes."""


class UnknownEnergyError(ValueError):
    """A counter does not tell the energy; the text says which counter and why."""


class Counter(NamedTuple):
    """A counter of energy in microjoules.

    `range_uj` is the count after which it begins again at 0; None where it does not, or where that
    is not known. `read_uj` raises :class:`UnknownEnergyError`.
    """

    source: str
    read_uj: Callable[[], int]
    range_uj: int | None = None


class Meter:
    """The energy of one host from the moment at which this is made.

    Parameters
    ----------
    root
        Where ``sys`` is.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._counters = counters(root)
        self._reason = None if self._counters else "the host has no counter of energy"
        self._before: list[int] = []
        try:
            self._before = [counter.read_uj() for counter in self._counters]
        except UnknownEnergyError as error:
            self._reason = str(error)
        self._begin_ns = time.perf_counter_ns()

    def end(self, items: int) -> Energy:
        """Read the counters again, and return what was used in between.

        Parameters
        ----------
        items
            Items that the stage handled in that time.
        """
        seconds = (time.perf_counter_ns() - self._begin_ns) / 1e9
        joules, reason = None, self._reason
        if reason is None:
            try:
                joules = self._used_uj(seconds) / 1e6
            except UnknownEnergyError as error:
                reason = str(error)
        source = " + ".join(counter.source for counter in self._counters) or None
        return Energy(joules, reason, source, seconds, items)

    def _used_uj(self, seconds: float) -> int:
        """What all counters counted; one that does not tell leaves the whole unknown."""
        pairs = zip(self._counters, self._before, strict=True)
        return sum(used_uj(counter, at, counter.read_uj(), seconds) for counter, at in pairs)


def used_uj(counter: Counter, before: int, after: int, seconds: float) -> int:
    """Microjoules that a counter counted between two readings.

    Parameters
    ----------
    seconds
        Time between the readings.

    Raises
    ------
    UnknownEnergyError
        When the counter stood still; when it went backwards and does not begin again, or not so
        soon; or when it may have begun again unseen.
    """
    used, range_uj = after - before, counter.range_uj
    went = f"{counter.source} went from {before} to {after} uJ in {seconds:.3g} s"
    if used == 0:
        raise UnknownEnergyError(f"{counter.source} stood still at {after} uJ for {seconds:.3g} s")
    if range_uj is None:
        if used < 0:
            raise UnknownEnergyError(f"{went}: it went backwards")
        return used
    most = MOST_W * seconds * 1e6
    if used < 0:
        used += range_uj
        if not 0 <= used <= most:
            raise UnknownEnergyError(
                f"{went}: it cannot have reached its range of {range_uj} uJ with {MOST_W} W at most"
            )
    if used + range_uj <= most:
        raise UnknownEnergyError(
            f"{went}: it may have passed its range of {range_uj} uJ unseen with {MOST_W} W at most"
        )
    return used


@cache
def counters(root: Path) -> tuple[Counter, ...]:
    """The counters of the host below `root` that are to be added, looked for only once."""
    return (*_packages(root), *_gpus()) or _hwmon(root)


def _packages(root: Path) -> list[Counter]:
    """One counter for each package of processors."""
    found = []
    for zone in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
        name = line(zone / "name") or ""
        if name.startswith("package-"):
            largest = line(zone / "max_energy_range_uj") or ""
            range_uj = int(largest) if largest.isdecimal() else None
            found.append(Counter(f"rapl {name}", partial(_count, zone / "energy_uj"), range_uj))
    return found


def _gpus() -> list[Counter]:
    """One counter for each GPU that has one; none without NVML, pynvml or such a GPU."""
    try:
        import pynvml  # type: ignore[import-untyped]
    except ImportError:
        return []

    def read_uj(number: int) -> int:
        try:
            gpu = pynvml.nvmlDeviceGetHandleByIndex(number)
            return int(pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu)) * 1000  # millijoules
        except pynvml.NVMLError as error:
            raise UnknownEnergyError(f"nvml {number}: {error}") from error

    try:
        pynvml.nvmlInit()
        numbers = range(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return []
    found = [Counter(f"nvml {number}", partial(read_uj, number)) for number in numbers]
    return [counter for counter in found if _tells(counter)]


def _tells(counter: Counter) -> bool:
    """Whether a counter can be read."""
    try:
        counter.read_uj()
    except UnknownEnergyError:
        return False
    return True


def _hwmon(root: Path) -> tuple[Counter, ...]:
    """The only counter of hwmon; of several it is not known whether they count the same."""
    files = sorted((root / "sys/class/hwmon").glob("hwmon*/energy*_input"))
    if len(files) <= 1:
        return tuple(Counter(f"hwmon {_label(file)}", partial(_count, file)) for file in files)

    def refuse() -> int:
        names = ", ".join(map(_label, files))
        raise UnknownEnergyError(f"hwmon has several counters, which may overlap: {names}")

    return (Counter("hwmon", refuse),)


def _label(file: Path) -> str:
    """The chip's name, and the counter's label where it has one."""
    label = line(file.with_name(file.name.replace("_input", "_label")))
    return f"{line(file.with_name('name')) or file.parent.name} {label or file.name[:-6]}"


def _count(file: Path) -> int:
    """The number in one of the kernel's files."""
    try:
        text = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UnknownEnergyError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError:
        text = ""
    if not text.isdecimal():
        raise UnknownEnergyError(f"{file}: holds {text[:40]!r}; a number is expected")
    return int(text)
