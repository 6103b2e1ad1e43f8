"""Energy of a leg where a host tells only its power: samples, held against a calculation by hand.

The files are those that https://docs.kernel.org/hwmon/ina2xx.html lists, whose units stand in
https://docs.kernel.org/hwmon/sysfs-interface.html: millivolts, milliamperes, microwatts. Where the
answer of ``vcgencmd pmic_read_adc`` was recorded stands in :mod:`tests.helpers.pmic`.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from paretopipe_worker.host import energy, powers
from paretopipe_worker.host.counters import UnknownEnergyError
from paretopipe_worker.host.energy import Meter
from paretopipe_worker.host.powers import LEAST_SAMPLES, STILL_SAMPLES, Power, Sampler, joules
from tests.helpers.fake_host import FakeHost
from tests.helpers.pmic import PMIC, PMIC_W
from tests.helpers.waiting import until

MISSING = 'error=1 error_msg="Command not registered"'
"""What the firmware of a Raspberry Pi 4 answers."""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    """A host without GPU and without counters, which is sampled a thousand times a second."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(powers, "MONITOR_HZ", 1000.0)
    return FakeHost(tmp_path)


def chip(host: FakeHost, number: int, **files: object) -> None:
    """Write a chip of hwmon, each of its files at once, since it may be read meanwhile."""
    for name, value in files.items():
        path = f"sys/class/hwmon/hwmon{number}/{name}"
        host.file(f"{path}.new", f"{value}\n").replace(host.root / path)


def answering(host: FakeHost, text: str, status: int = 0) -> None:
    """Have the host's ``vcgencmd`` answer this to ``pmic_read_adc`` alone."""
    host.file("adc", text)
    host.firmware(f'[ "$1" = pmic_read_adc ] || exit 3; cat {host.root}/adc; exit {status}')


def read_w(host: FakeHost) -> float:
    """The host's power."""
    found = powers.power(host.root)
    assert found is not None
    return found.read_w()


def after(count: int, meter: Meter) -> None:
    """Wait until a meter has taken so many samples."""
    sampler = meter._sampler
    assert sampler is not None
    until(lambda: len(sampler._samples) >= count, "samples are taken")


def spaced(watts: list[float], seconds: float) -> list[tuple[int, float]]:
    """Samples with so many seconds between each and the next."""
    return [(round(number * seconds * 1e9), value) for number, value in enumerate(watts)]


def test_energy_is_the_area_below_the_samples() -> None:
    # Ten seconds at 2 W, then five in which it rises to 4 W: 20 J + 15 J.
    samples = [(second * 10**9, 2.0) for second in range(11)] + [(15 * 10**9, 4.0)]
    assert joules("a chip", samples) == pytest.approx(35.0)


@pytest.mark.parametrize(
    ("watts", "reason"),
    [
        ([1.0, 2.0], "a chip: 2 samples in 0.1 s; at least 10 are needed"),
        ([1.0] * (LEAST_SAMPLES - 2) + [2.0], "9 samples"),
        ([3.0] * STILL_SAMPLES, r"a chip stood still at 3 W for 1.9 s \(20 samples\)"),
        ([0.0] * LEAST_SAMPLES, "stood still at 0 W"),
    ],
)
def test_samples_that_do_not_tell_the_energy_have_a_reason(watts: list[float], reason: str) -> None:
    with pytest.raises(UnknownEnergyError, match=reason):
        joules("a chip", spaced(watts, 0.1))


def test_few_samples_of_one_value_are_a_steady_power() -> None:
    assert joules("a chip", spaced([3.0] * (STILL_SAMPLES - 1), 0.5)) == pytest.approx(27.0)


@pytest.mark.parametrize("name", ["ina219", "ina226", "ina260"])
def test_a_power_monitor_s_power_is_in_microwatts(host: FakeHost, name: str) -> None:
    chip(host, 0, name="cpu_thermal", temp1_input=40_000)
    chip(host, 3, name=name, power1_input=4_725_000, in1_input=5_000, curr1_input=1)
    assert read_w(host) == 4.725
    assert Meter(host.root).end(0).source == f"hwmon {name} power"


def test_without_power_it_is_volts_times_amperes(host: FakeHost) -> None:
    chip(host, 1, name="ina219", in0_input=9, in1_input=5_060, curr1_input=750)
    assert read_w(host) == pytest.approx(5.06 * 0.75)


def test_what_is_no_such_monitor_tells_no_power(host: FakeHost) -> None:
    chip(host, 0, name="amdgpu", power1_input=4_725_000)
    chip(host, 1, name="ina219", in1_input=5_060)
    assert Meter(host.root).end(1).reason == energy.NOTHING


def test_of_several_monitors_none_is_taken(host: FakeHost) -> None:
    chip(host, 0, name="ina219", power1_input=1)
    chip(host, 1, name="ina226", power1_input=1)
    found = Meter(host.root).end(1)
    assert (found.joules, found.source) == (None, "hwmon")
    assert found.reason == (
        "hwmon has several power monitors, which may overlap: ina219 (hwmon0), ina226 (hwmon1)"
    )


def test_the_power_chip_s_rails_are_added(host: FakeHost) -> None:
    answering(host, PMIC)
    assert read_w(host) == pytest.approx(PMIC_W, abs=1e-6)
    found = powers.power(host.root)
    assert found is not None and found.source == "pmic_partial"
    assert found.scope.startswith("12 rails of the board's power chip, without USB")


def test_a_monitor_of_the_whole_board_goes_before_the_power_chip(host: FakeHost) -> None:
    answering(host, PMIC)
    chip(host, 1, name="ina260", power1_input=7_000_000)
    assert read_w(host) == 7.0


def test_counters_go_before_both(host: FakeHost) -> None:
    answering(host, PMIC)
    chip(host, 1, name="ina260", power1_input=7_000_000)
    chip(host, 2, name="aem1", energy1_input=7)
    meter = Meter(host.root)
    chip(host, 2, energy1_input=2_000_007)
    assert (found := meter.end(1)).joules == 2.0 and found.samples is None


def test_a_pi_without_power_chip_tells_no_power(host: FakeHost) -> None:
    answering(host, MISSING)
    assert Meter(host.root).end(1).reason == energy.NOTHING


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("Can't open device file: /dev/vcio", 255, 'answered "Can\'t open device file: /dev/vcio"'),
        ("VDD_CORE_A current(7)=0.8A\n", 0, "amperes and volts of rails are expected"),
        ("", 0, "answered ''"),
    ],
)
def test_a_power_chip_that_does_not_tell_is_told(
    host: FakeHost, text: str, status: int, said: str
) -> None:
    answering(host, text, status)
    found = Meter(host.root).end(1)
    assert (found.joules, found.source, found.samples) == (None, "pmic_partial", None)
    assert found.reason is not None and said in found.reason and "pmic_read_adc" in found.reason


def test_a_rail_that_is_missing_later_is_told(host: FakeHost) -> None:
    answering(host, PMIC)
    found = powers.power(host.root)
    assert found is not None
    answering(host, PMIC.replace("HDMI_V", "HDMI_X"))
    with pytest.raises(UnknownEnergyError, match="tells other rails now: HDMI"):
        found.read_w()


def test_a_leg_s_power_is_sampled_from_its_begin_to_its_end(host: FakeHost) -> None:
    chip(host, 1, name="ina226", power1_input=2_000_000)
    begin = time.perf_counter()
    meter = Meter(host.root)
    after(STILL_SAMPLES, meter)
    chip(host, 1, power1_input=4_000_000)
    after(3 * STILL_SAMPLES, meter)
    found = meter.end(5)
    seconds = time.perf_counter() - begin
    assert found.reason is None and found.joules is not None
    assert 2 * found.seconds < found.joules < 4 * found.seconds
    assert 0 < found.seconds <= seconds
    assert (found.items, found.rate_hz) == (5, 1000.0)
    assert found.samples is not None and found.samples > 3 * STILL_SAMPLES


@pytest.mark.parametrize("spoil", ["gone", "words"])
def test_a_reader_that_fails_midway_leaves_the_energy_unknown(host: FakeHost, spoil: str) -> None:
    chip(host, 1, name="ina226", power1_input=2_000_000)
    meter = Meter(host.root)
    after(LEAST_SAMPLES, meter)
    file = host.root / "sys/class/hwmon/hwmon1/power1_input"
    if spoil == "gone":
        file.unlink()
        said = f"{file}: No such file or directory"
    else:
        chip(host, 1, power1_input="x")
        said = f"{file}: holds 'x'; a number is expected"
    found = meter.end(5)
    assert (found.joules, found.reason, found.samples) == (None, said, None)


def test_the_thread_that_computes_takes_no_sample() -> None:
    threads = []

    def read() -> float:
        threads.append(threading.current_thread())
        return 1.0

    sampler = Sampler(Power("a chip", "all", 1000.0, read))
    until(lambda: len(threads) > LEAST_SAMPLES, "samples are taken")
    samples = sampler.end()
    assert len(samples) == len(threads) and threading.main_thread() not in threads
    assert not threads[0].is_alive()


def test_samples_are_as_far_apart_as_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    real: Callable[..., bool] = threading.Event.wait

    def wait(event: threading.Event, timeout: float | None = None) -> bool:
        if timeout is not None:
            waits.append(timeout)
        return real(event, timeout and timeout / 1000)

    monkeypatch.setattr(threading.Event, "wait", wait)
    sampler = Sampler(Power("a chip", "all", 4.0, lambda: 1.0))
    until(lambda: len(waits) > 5, "samples are taken")
    sampler.end()
    assert 0.2 < waits[0] <= 0.25
