"""Energy of a leg: what counters say, held against a calculation by hand.

The trees are those of the kernel's documentation:
https://docs.kernel.org/power/powercap/powercap.html (zones of ``intel-rapl``) and
https://docs.kernel.org/hwmon/sysfs-interface.html (``energyN_input``). That NVML counts
millijoules, on GPUs from Volta on, stands at ``nvmlDeviceGetTotalEnergyConsumption`` in
https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from paretopipe_worker.host import counters, energy
from paretopipe_worker.host.counters import Counter, UnknownEnergyError, used_uj
from paretopipe_worker.host.energy import Meter, at_rest
from paretopipe_worker.records.energy import Energy
from tests.helpers.fake_host import FakeHost

RANGE_UJ = 262_143_328_850
"""As Intel's desktop processors have it."""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    """A host without GPU that has no counter of energy."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    return FakeHost(tmp_path)


def zone(host: FakeHost, number: str, name: str, count_uj: int | str) -> None:
    """Write a zone of powercap."""
    folder = f"sys/class/powercap/{number}"
    host.file(f"{folder}/name", f"{name}\n")
    host.file(f"{folder}/energy_uj", f"{count_uj}\n")
    host.file(f"{folder}/max_energy_range_uj", f"{RANGE_UJ}\n")


def powercap(host: FakeHost, first_uj: int, second_uj: int, rest_uj: int) -> None:
    """Two packages, and what must not be added to them."""
    zone(host, "intel-rapl:0", "package-0", first_uj)
    zone(host, "intel-rapl:1", "package-1", second_uj)
    zone(host, "intel-rapl:0:0", "core", rest_uj)
    zone(host, "intel-rapl:0:1", "dram", rest_uj)
    zone(host, "intel-rapl:2", "psys", rest_uj)
    zone(host, "intel-rapl-mmio:0", "package-0", rest_uj)
    host.file("sys/class/powercap/intel-rapl/enabled", "1\n")


def hwmon(host: FakeHost, number: int, **files: object) -> None:
    """Write a chip of hwmon."""
    for name, value in files.items():
        host.file(f"sys/class/hwmon/hwmon{number}/{name}", f"{value}\n")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[int]]:
    """Each GPU's next counts in millijoules; the library is real, its answers are made up.

    A GPU without counts is one from before Volta.
    """
    nvml: Any = pytest.importorskip("pynvml")
    counts: dict[int, list[int]] = {}

    def total(number: int) -> int:
        if not counts[number]:
            raise nvml.NVMLError(nvml.NVML_ERROR_NOT_SUPPORTED)
        return counts[number].pop(0)

    monkeypatch.setattr(nvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(nvml, "nvmlDeviceGetCount", lambda: len(counts))
    monkeypatch.setattr(nvml, "nvmlDeviceGetHandleByIndex", lambda number: number)
    monkeypatch.setattr(nvml, "nvmlDeviceGetTotalEnergyConsumption", total)
    return counts


def test_a_host_without_counter_says_so(host: FakeHost) -> None:
    found = Meter(host.root).end(7)
    assert found == Energy(None, energy.NOTHING, None, found.seconds, 7)
    assert 0 < found.seconds < 60


def test_a_host_without_counter_does_not_rest(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy, "REST_S", 1e9)
    assert at_rest(host.root).reason == energy.NOTHING


def test_a_host_s_rest_is_what_it_used_while_the_process_waited(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone(host, "intel-rapl:0", "package-0", 1_000_000)
    waited = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        zone(host, "intel-rapl:0", "package-0", 13_000_000)

    monkeypatch.setattr("time.sleep", wait)
    found = at_rest(host.root)
    assert (found.joules, found.items, waited) == (12.0, 0, [energy.REST_S])


def test_packages_are_added_and_nothing_is_counted_twice(host: FakeHost) -> None:
    powercap(host, 1_000_000, 5_000_000, 10_000_000)
    meter = Meter(host.root)
    powercap(host, 4_500_000, 5_250_000, 90_000_000)
    found = meter.end(1)
    # (4.5 - 1.0) J + (5.25 - 5.0) J
    assert (found.joules, found.reason) == (3.75, None)
    assert found.source == "rapl package-0 + rapl package-1"
    assert found.scope == "package of processors, without memory outside it"
    assert (found.rate_hz, found.samples) == (None, None)


def test_a_count_that_begins_again_is_corrected_by_its_range(host: FakeHost) -> None:
    zone(host, "intel-rapl:0", "package-0", RANGE_UJ - 3)
    meter = Meter(host.root)
    zone(host, "intel-rapl:0", "package-0", 7)
    assert meter.end(1).joules == pytest.approx(10e-6)


@pytest.mark.parametrize(
    ("before", "after", "range_uj", "seconds", "found"),
    [
        (100, 350, None, 1, 250),
        (RANGE_UJ - 5_000_000, 25_000_000, RANGE_UJ, 1, 30_000_000),
        (0, 1_000_000, RANGE_UJ, 262, 1_000_000),
        (5, 5, None, 1, "stood still at 5 uJ for 1 s"),
        (5, 5, RANGE_UJ, 1, "stood still"),
        (9, 5, None, 1, "went from 9 to 5 uJ in 1 s: it went backwards"),
        # Somebody set it to 0: no package uses 252 kJ in a second.
        (10_000_000_000, 0, RANGE_UJ, 1, "cannot have reached its range"),
        (2 * RANGE_UJ, 5, RANGE_UJ, 1, "cannot have reached its range"),
        (0, 1_000_000, RANGE_UJ, 264, "may have passed its range"),
        (1_000_000, 0, RANGE_UJ, 600, "may have passed its range"),
    ],
)
def test_what_a_counter_counted_is_known_or_there_is_a_reason(
    before: int, after: int, range_uj: int | None, seconds: float, found: int | str
) -> None:
    counter = Counter("rapl package-0", "a package", lambda: 0, range_uj)
    if isinstance(found, int):
        assert used_uj(counter, before, after, seconds) == found
        return
    with pytest.raises(UnknownEnergyError, match=f"^rapl package-0 .*{found}"):
        used_uj(counter, before, after, seconds)


@pytest.mark.parametrize("broken_first", [True, False])
@pytest.mark.parametrize("count", ["", "a lot", "-5", "²"])
def test_one_counter_that_does_not_tell_leaves_the_sum_unknown(
    host: FakeHost, count: str, broken_first: bool
) -> None:
    zone(host, "intel-rapl:0", "package-0", count if broken_first else 0)
    zone(host, "intel-rapl:1", "package-1", 0)
    meter = Meter(host.root)
    zone(host, "intel-rapl:0", "package-0", 3 if broken_first else count)
    zone(host, "intel-rapl:1", "package-1", 4)
    found = meter.end(1)
    assert found.joules is None and found.source == "rapl package-0 + rapl package-1"
    assert found.reason is not None
    assert found.reason.endswith(f"intel-rapl:0/energy_uj: holds {count!r}; a number is expected")


def test_a_counter_that_may_not_be_read_is_told_by_its_file(host: FakeHost) -> None:
    zone(host, "intel-rapl:0", "package-0", 0)
    file = host.root / "sys/class/powercap/intel-rapl:0/energy_uj"
    file.unlink()
    file.mkdir()  # root, which may run the tests, could read a file of mode 0400
    assert Meter(host.root).end(1).reason == f"{file}: Is a directory"


def test_gpus_count_in_millijoules_and_are_added_to_the_packages(
    tmp_path: Path, gpus: dict[int, list[int]]
) -> None:
    host = FakeHost(tmp_path)
    zone(host, "intel-rapl:0", "package-0", 0)
    # The first count of each is read as the GPU is looked for.
    gpus |= {0: [900, 1000, 1750], 1: [], 2: [5, 5, 12]}
    meter = Meter(host.root)
    zone(host, "intel-rapl:0", "package-0", 2_000_000)
    found = meter.end(1)
    # 2 J + (1.75 - 1.0) J + (0.012 - 0.005) J
    assert found.joules == pytest.approx(2.757) and found.reason is None
    assert found.source == "rapl package-0 + nvml 0 + nvml 2"
    assert found.scope == "package of processors, without memory outside it + board of the GPU"


def test_a_gpu_that_is_lost_meanwhile_leaves_the_energy_unknown(
    tmp_path: Path, gpus: dict[int, list[int]]
) -> None:
    gpus[0] = [900, 1000]
    found = Meter(tmp_path).end(1)
    assert (found.joules, found.reason) == (None, "nvml 0: Not Supported")


def test_a_counter_of_hwmon_counts_where_there_is_no_other(host: FakeHost) -> None:
    hwmon(host, 3, name="aem1", energy1_input=7_000_000)
    hwmon(host, 4, name="ina219", power1_input=5_000_000)
    meter = Meter(host.root)
    hwmon(host, 3, energy1_input=19_500_000)
    found = meter.end(1)
    assert (found.joules, found.source) == (12.5, "hwmon aem1 energy1")
    counters.counters.cache_clear()
    powercap(host, 0, 0, 0)
    assert Meter(host.root).end(1).source == "rapl package-0 + rapl package-1"


def test_of_several_counters_of_hwmon_none_is_taken(host: FakeHost) -> None:
    labels = {"energy1_label": "Ecore000", "energy2_label": "Esocket0"}
    hwmon(host, 0, name="amd_energy", energy1_input=1, energy2_input=2, **labels)
    found = Meter(host.root).end(1)
    assert (found.joules, found.source) == (None, "hwmon")
    assert found.reason == (
        "hwmon has several counters, which may overlap: amd_energy Ecore000, amd_energy Esocket0"
    )
