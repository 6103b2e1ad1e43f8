"""Sources that tell only a host's power at a moment, and the energy that follows from samples.

Sources
-------
hwmon
    Current and power monitors of Texas Instruments of the kernel's driver ina2xx
    (``Documentation/hwmon/ina2xx.rst``): ``power1_input`` in microwatts, or ``in1_input`` in
    millivolts times ``curr1_input`` in milliamperes where there is no such file.
pmic_partial
    The power management chip of a Raspberry Pi 5, as ``vcgencmd pmic_read_adc`` tells it: amperes
    times volts, summed over the rails that have both. The supply (``EXT5V``) and the battery of the
    clock (``BATT``) have a voltage alone. What USB ports and HATs take is not seen, nor what is
    lost before the rails: it is a part of the board's power.

A thread of the stage process takes the samples, never the one that computes.
``tests/benchmarks/energy.py`` measures what that costs the stage.
"""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from paretopipe_worker.host.counters import BEHIND_SENSOR, UnknownEnergyError, number_in
from paretopipe_worker.host.sensors import line, vcgencmd

MONITOR_HZ = 10.0
PMIC_HZ = 5.0
"""Samples per second. Asking the firmware starts a program, and while it starts no other thread of
Python runs: ten times a second took more than a hundredth of MobileNetV2's time."""

LEAST_SAMPLES = 10
"""Samples without which a leg has no energy. The first and the last are taken while nothing
computes, so that of few samples the mean is too low."""

STILL_SAMPLES = 20
"""Samples of one value from which on a source is taken to stand still: the power of a host that
computes varies by more than the sensors resolve."""

_CHIP = re.compile(r"ina2\d\d")
_RAIL = re.compile(r"(\S+)_([AV]) (?:current|volt)\(\d+\)=(-?\d+\.\d+)\2(?!\S)")
_UNKNOWN_COMMAND = "not registered"
_FIRMWARE_S = 2.0


class Power(NamedTuple):
    """A source of power in watts.

    `scope` says in words whose power it is, and `rate_hz` how often it is sampled. `read_w` raises
    :class:`~paretopipe_worker.host.counters.UnknownEnergyError`.
    """

    source: str
    scope: str
    rate_hz: float
    read_w: Callable[[], float]


class Sampler:
    """Samples a power at its rate, from the moment at which this is made.

    The first sample has been taken when this returns.
    """

    def __init__(self, power: Power) -> None:
        self._power = power
        self._samples: list[tuple[int, float]] = []
        self._reason: str | None = None
        self._begun, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=power.source, daemon=True)
        self._thread.start()
        self._begun.wait()

    def end(self) -> list[tuple[int, float]]:
        """Take a last sample, and return all: ``perf_counter_ns`` and watts of each.

        Raises
        ------
        UnknownEnergyError
            When the source could not be read meanwhile.
        """
        self._over.set()
        self._thread.join()
        if self._reason is not None:
            raise UnknownEnergyError(self._reason)
        return self._samples

    def _run(self) -> None:
        """Take samples until the end, or until the source does not tell."""
        due_s = time.perf_counter()
        try:
            while True:
                last = self._over.is_set()
                self._sample()
                self._begun.set()
                if last:
                    return
                # After a sample that took longer than the pause, the next ones are not caught up.
                due_s = max(due_s + 1 / self._power.rate_hz, time.perf_counter())
                self._over.wait(due_s - time.perf_counter())
        except UnknownEnergyError as error:
            self._reason = str(error)
        except Exception as error:
            self._reason = f"{self._power.source}: {type(error).__name__}: {error}"
        finally:
            self._begun.set()

    def _sample(self) -> None:
        """Take one sample; its time is the middle of the reading."""
        begin_ns = time.perf_counter_ns()
        watts = self._power.read_w()
        self._samples.append(((begin_ns + time.perf_counter_ns()) // 2, watts))


def joules(source: str, samples: list[tuple[int, float]]) -> float:
    """The energy between the first sample and the last, by trapezoids.

    Parameters
    ----------
    samples
        Nanoseconds and watts of each, in the order of time.

    Raises
    ------
    UnknownEnergyError
        When there are too few samples, or the power stood still.
    """
    seconds = (samples[-1][0] - samples[0][0]) / 1e9
    if len(samples) < LEAST_SAMPLES:
        raise UnknownEnergyError(
            f"{source}: {len(samples)} samples in {seconds:.3g} s; at least {LEAST_SAMPLES} are "
            "needed"
        )
    values = {watts for _, watts in samples}
    if len(values) == 1 and (len(samples) >= STILL_SAMPLES or values == {0.0}):
        raise UnknownEnergyError(
            f"{source} stood still at {samples[0][1]:g} W for {seconds:.3g} s ({len(samples)} "
            "samples)"
        )
    return sum(
        (after_ns - before_ns) / 1e9 * (before_w + after_w) / 2
        for (before_ns, before_w), (after_ns, after_w) in pairwise(samples)
    )


@cache
def power(root: Path) -> Power | None:
    """The power of the host below `root`; None where nothing tells it. Looked for only once."""
    return _monitor(root) or _pmic(root)


def _monitor(root: Path) -> Power | None:
    """The only INA2xx; of several it is not known which of them is behind another."""
    chips = [
        folder
        for folder in sorted((root / "sys/class/hwmon").glob("hwmon*"))
        if _CHIP.fullmatch(line(folder / "name") or "") and _powers(folder)
    ]
    if not chips:
        return None
    named = [f"{line(chip / 'name')} ({chip.name})" for chip in chips]
    if len(chips) == 1:
        name = f"hwmon {line(chips[0] / 'name')} power"
        return Power(name, BEHIND_SENSOR, MONITOR_HZ, partial(_watts, name, _powers(chips[0])))

    def refuse() -> float:
        raise UnknownEnergyError(
            f"hwmon has several power monitors, which may overlap: {', '.join(named)}"
        )

    return Power("hwmon", BEHIND_SENSOR, MONITOR_HZ, refuse)


def _powers(chip: Path) -> tuple[Path, ...]:
    """The files whose product is a chip's power in microwatts; none where it lacks them."""
    for names in (("power1_input",), ("in1_input", "curr1_input")):
        files = tuple(chip / name for name in names)
        if all(file.exists() for file in files):
            return files
    return ()


def _watts(source: str, files: tuple[Path, ...]) -> float:
    """The product of the numbers in these files, in microwatts, as watts."""
    power_uw = 1
    for file in files:
        power_uw *= number_in(file)
    return power_uw / 1e6


def _pmic(root: Path) -> Power | None:
    """The chip of a Raspberry Pi 5; None on hosts whose firmware has no such command."""
    program = vcgencmd(root)
    if program is None:
        return None
    try:
        rails = set(_rails(program))
    except UnknownEnergyError as error:
        if _UNKNOWN_COMMAND in str(error):
            return None
        rails = set()  # it is there, and the first sample will say what keeps it from telling

    def read_w() -> float:
        found = _rails(program)
        if rails and found.keys() != rails:
            missing = ", ".join(sorted(rails ^ found.keys()))
            raise UnknownEnergyError(f"{program} pmic_read_adc: tells other rails now: {missing}")
        return sum(amperes * volts for amperes, volts in found.values())

    scope = (
        f"{len(rails) or 'the'} rails of the board's power chip, without USB, HATs and what is "
        "lost before the rails"
    )
    return Power("pmic_partial", scope, PMIC_HZ, read_w)


def _rails(program: Path) -> dict[str, tuple[float, float]]:
    """Amperes and volts of every rail of which the firmware tells both."""
    where = f"{program} pmic_read_adc"
    try:
        # Of one pipe it is cheaper to read than of two.
        done = subprocess.run(
            [program, "pmic_read_adc"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=_FIRMWARE_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UnknownEnergyError(f"{where}: {error}") from error
    text = done.stdout.decode(errors="replace")
    told: dict[str, dict[str, float]] = {"A": {}, "V": {}}
    for rail, unit, value in _RAIL.findall(text):
        told[unit][rail] = float(value)
    amperes, volts = told["A"], told["V"]
    if done.returncode or not amperes.keys() & volts.keys():
        raise UnknownEnergyError(
            f"{where}: answered {' '.join(text.split())[:80]!r}; amperes and volts of rails are "
            "expected"
        )
    return {rail: (amperes[rail], volts[rail]) for rail in amperes if rail in volts}
