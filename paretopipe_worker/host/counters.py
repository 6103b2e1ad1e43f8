"""Counters of the energy that a host uses, and what they counted between two readings.

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

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from paretopipe_worker.host.sensors import line

MOST_W = 1000
"""Power that one package cannot exceed for as long as a leg takes."""

BEHIND_SENSOR = "what is behind the sensor"
_PACKAGE, _GPU = "package of processors, without memory outside it", "board of the GPU"


class UnknownEnergyError(ValueError):
    """A source does not tell the energy; the text says which source and why."""


class Counter(NamedTuple):
    """A counter of energy in microjoules.

    `scope` says in words what it counts. `range_uj` is the count after which it begins again at 0;
    None where it does not, or where that is not known. `read_uj` raises
    :class:`UnknownEnergyError`.
    """

    source: str
    scope: str
    read_uj: Callable[[], int]
    range_uj: int | None = None


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
            read_uj = partial(number_in, zone / "energy_uj")
            found.append(Counter(f"rapl {name}", _PACKAGE, read_uj, range_uj))
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
    found = [Counter(f"nvml {number}", _GPU, partial(read_uj, number)) for number in numbers]
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
        return tuple(
            Counter(f"hwmon {_label(file)}", BEHIND_SENSOR, partial(number_in, file))
            for file in files
        )

    def refuse() -> int:
        names = ", ".join(map(_label, files))
        raise UnknownEnergyError(f"hwmon has several counters, which may overlap: {names}")

    return (Counter("hwmon", BEHIND_SENSOR, refuse),)


def _label(file: Path) -> str:
    """The chip's name, and the counter's label where it has one."""
    label = line(file.with_name(file.name.replace("_input", "_label")))
    return f"{line(file.with_name('name')) or file.parent.name} {label or file.name[:-6]}"


def number_in(file: Path) -> int:
    """The number in one of the kernel's files.

    Raises
    ------
    UnknownEnergyError
        When the file cannot be read, or holds something else.
    """
    try:
        text = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UnknownEnergyError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError:
        text = ""
    if not text.isdecimal():
        raise UnknownEnergyError(f"{file}: holds {text[:40]!r}; a number is expected")
    return int(text)
