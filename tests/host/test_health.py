"""What a watch sees of a host during a leg, and what of that counts as a disturbance."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from paretopipe_worker.host.health import Watch, disturbances
from paretopipe_worker.host.sensors import throttled
from paretopipe_worker.records.health import Health
from tests import ROOT
from tests.helpers.fake_host import FakeHost

UNDER_VOLTAGE, CAPPED, HOT = 1, 2, 8


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    """A host that tells next to nothing."""
    return FakeHost(tmp_path)


def looking(watch: Watch) -> None:
    """Let a watch count items until it has looked again."""
    before = watch._next_ns
    spin_until(lambda: bool(watch.add(1_000_000, 1_000_000)) or watch._next_ns != before)


def spin_until(condition: Callable[[], bool], deadline_s: float = 30) -> None:
    """Compute until something is true, by a deadline."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "did not happen in time"


def test_what_a_host_does_not_tell_is_null(host: FakeHost) -> None:
    health = Watch(host.root).end()
    assert health == Health(others_cpu=health.others_cpu)
    assert disturbances(health, threads=1) == ()


def test_the_clock_is_that_of_the_core_that_computes_as_the_leg_goes_on(host: FakeHost) -> None:
    host.clock(1800)
    watch = Watch(host.root)
    host.clock(1500)
    looking(watch)
    health = watch.end()
    assert health.cpu_mhz == (1500, 1500, 1800)
    assert health.governor == "performance"


def test_a_thread_that_moves_between_two_kinds_of_cores_saw_no_clock_fall(host: FakeHost) -> None:
    host.clock(1800, cores="0 1 2 3")
    watch = Watch(host.root)
    host.clock(2400, cores="4 5")
    looking(watch)
    health = watch.end()
    assert health.cpu_mhz == (1800, 2400, 2400) and set(health.policy_mhz or {}) == {
        "0 1 2 3",
        "4 5",
    }
    assert disturbances(health, threads=1) == ()


@pytest.mark.parametrize(("by_sums", "ratio"), [(False, 1.0), (True, 1.4)])
def test_four_in_ten_items_that_take_twice_as_long_disturb_a_throughput(
    host: FakeHost, by_sums: bool, ratio: float
) -> None:
    watch = Watch(host.root, by_sums=by_sums)
    for number in range(20):
        watch.add(20_000_000 if number % 5 < 2 else 10_000_000, 10_000_000)
    health = watch.end()
    assert health.wall_over_cpu == pytest.approx(ratio)
    assert bool(disturbances(health, threads=1)) == by_sums


def test_the_temperature_is_the_highest_of_any_zone_and_moment(host: FakeHost) -> None:
    host.temperature(thermal_zone0="50000\n", thermal_zone1="41000\n")
    watch = Watch(host.root)
    host.temperature(thermal_zone0="45000\n", thermal_zone1="61500\n")
    looking(watch)
    host.temperature(thermal_zone0="52000\n", thermal_zone1="")
    assert watch.end().temperature_c == 61.5


def test_swapping_is_counted_from_the_leg_s_start(host: FakeHost) -> None:
    host.swapped(1000, 5000)
    watch = Watch(host.root)
    host.swapped(1003, 5400)
    health = watch.end()
    assert health.swapped_pages == 403
    assert disturbances(health, threads=4) == ("the host swapped 403 pages",)


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        (0, 0, ()),
        (CAPPED << 16, CAPPED << 16, ()),  # long ago
        (0, HOT << 16, ("hot",)),  # in between
        (CAPPED, CAPPED << 16, ("frequency capped",)),  # as the leg began
        (UNDER_VOLTAGE << 16, UNDER_VOLTAGE | UNDER_VOLTAGE << 16, ("under-voltage",)),  # again
        (0, 0xF000F, ("under-voltage", "frequency capped", "throttled", "hot")),
        (None, 0, None),
        (0, None, None),
    ],
)
def test_throttling_is_what_the_firmware_did_meanwhile_not_what_it_did_before(
    before: int | None, after: int | None, found: tuple[str, ...] | None
) -> None:
    assert throttled(before, after) == found


def test_a_leg_that_the_firmware_throttled_is_disturbed(host: FakeHost) -> None:
    host.throttling(HOT << 16)
    watch = Watch(host.root)
    host.throttling(HOT << 16 | CAPPED << 16 | CAPPED)
    health = watch.end()
    assert health.throttled == ("frequency capped",)
    assert disturbances(health, threads=1) == ("the firmware intervened: frequency capped",)


@pytest.mark.parametrize(
    "script", ["echo 'VCHI initialization failed' >&2; exit 255", "echo error=2", "echo throttled="]
)
def test_a_firmware_that_refuses_to_answer_tells_nothing(host: FakeHost, script: str) -> None:
    host.firmware(script)
    assert Watch(host.root).end().throttled is None


def test_what_others_used_is_the_machine_s_time_less_ours(host: FakeHost) -> None:
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    watch = Watch(host.root)
    begin_s = time.perf_counter()
    host.file("proc/stat", "cpu  150 10 120 99000 99 10 5 5 0 0\n")
    spin_until(lambda: time.perf_counter() - begin_s > 0.2)
    health = watch.end()
    elapsed_s = time.perf_counter() - begin_s
    assert health.others_cpu is not None
    # At most all of it, at least that without what this process itself used meanwhile.
    assert 100 * tick_s / elapsed_s - 1.5 <= health.others_cpu <= 100 * tick_s / 0.2


def test_sampling_is_rare_however_slow_a_sensor_is(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(host.root)
    reads = 0

    def slow() -> float:
        nonlocal reads
        reads += 1
        end_ns = time.perf_counter_ns() + 5_000_000
        spin_until(lambda: time.perf_counter_ns() > end_ns)
        return 50.0

    monkeypatch.setattr(watch._sensors, "temperature_c", slow)
    looking(watch)
    assert watch._next_ns - time.perf_counter_ns() > 4_000_000_000  # 1000 times 5 ms, less a bit
    for _ in range(1000):
        watch.add(1_000_000, 1_000_000)
    assert reads == 1


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="this kernel keeps the peak of memory"
)
def test_the_peak_of_memory_is_that_of_the_leg() -> None:
    watch = Watch()
    with mmap.mmap(-1, 96 << 20) as block:  # what the allocator keeps of others is not enough then
        block.write(os.urandom(1 << 20) * 96)
    high, low = watch.end().peak_rss_bytes, Watch().end().peak_rss_bytes
    assert high and low and low < high - (64 << 20)


def test_a_peak_that_cannot_be_begun_anew_is_null(host: FakeHost) -> None:
    host.file("proc/self/status", "Name:\tx\nVmHWM:\t  2048 kB\n")
    assert Watch(host.root).end().peak_rss_bytes is None
    refs = host.file("proc/self/clear_refs", "")
    assert Watch(host.root).end().peak_rss_bytes == 2048 * 1024
    assert refs.read_text() == "5"


def test_this_machine_tells_its_load_and_its_swapping() -> None:
    health = Watch().end()
    assert health.others_cpu is not None and health.others_cpu >= 0
    assert health.swapped_pages is not None and health.swapped_pages >= 0


def test_load_from_others_is_seen_on_this_machine() -> None:
    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        watch = Watch()
        used = f"/proc/{burner.pid}/schedstat"
        begin_ns = int(Path(used).read_text().split()[0])
        spin_until(lambda: int(Path(used).read_text().split()[0]) - begin_ns > 300_000_000)
        elapsed_s = (time.perf_counter_ns() - watch._begin_ns) / 1e9
        health = watch.end()
    finally:
        burner.kill()
        burner.wait()
    assert health.others_cpu is not None
    assert health.others_cpu * elapsed_s > 0.2


def test_a_thread_that_had_to_share_its_core_is_told() -> None:
    watch, alone = Watch(), Watch()
    cores = os.sched_getaffinity(0)
    burner = None
    try:
        os.sched_setaffinity(0, {min(cores)})
        burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(5):
            wall_ns, cpu_ns = time.perf_counter_ns(), time.thread_time_ns()
            spin_until(lambda: time.thread_time_ns() - cpu_ns > 50_000_000)  # noqa: B023
            watch.add(time.perf_counter_ns() - wall_ns, time.thread_time_ns() - cpu_ns)
    finally:
        os.sched_setaffinity(0, cores)
        if burner:
            burner.kill()
            burner.wait()
    health = watch.end()
    assert health.wall_over_cpu is not None and health.wall_over_cpu > 1.3
    [said] = disturbances(health, threads=1)
    assert "something else had the core" in said
    assert alone.end().wall_over_cpu is None


def test_how_late_stretching_ended_is_held_against_what_was_asked_for(host: FakeHost) -> None:
    watch, bare, short = (Watch(host.root) for _ in range(3))
    for overslept_ns in (0, 1_000, 149_000):
        watch.add(500_000, 500_000, 1_000_000, overslept_ns)
        bare.add(500_000, 500_000, 500_000, None)
        short.add(20_000, 20_000, 40_000, overslept_ns)
    assert watch.end().overslept == pytest.approx(0.05)
    assert bare.end().overslept is None and short.end().overslept is None


@pytest.mark.parametrize(
    ("times_ms", "by_sums", "slowed"),
    [
        ([10.0] * 8 + [16.0] * 4, True, 0.2),  # 12 on average
        ([10.0] * 8 + [16.0] * 4, False, 0.0),  # most of them are as fast as can be
        ([10.0] * 4 + [16.0] * 8, False, 0.6),
        ([0.5] * 8 + [0.9] * 8, True, None),
        ([10.0] * 4 + [16.0] * 3, True, None),
    ],
)
def test_items_that_take_more_cpu_time_than_others_show_a_slower_core(
    host: FakeHost, times_ms: list[float], by_sums: bool, slowed: float | None
) -> None:
    watch = Watch(host.root, by_sums=by_sums)
    for ms in times_ms:
        watch.add(round(ms * 1e6), round(ms * 1e6))
    assert watch.end().slowed == (None if slowed is None else pytest.approx(slowed))


NVML = r"""
int nvmlInit_v2(void) { return %(init)d; }
int nvmlInitWithFlags(unsigned flags) { return %(init)d; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **gpu) { *gpu = (void *)1; return index; }
int nvmlDeviceGetClockInfo(void *gpu, int kind, unsigned *mhz) {
    static unsigned next[] = {1410, 1980, 1755};
    static int count = 0;
    if (kind != 1) return 2;  /* NVML_CLOCK_SM */
    *mhz = next[count++ %% 3];
    return %(clock)d;
}
"""
"""A library in NVML's place, so that its real Python package is what reads the clocks."""


@pytest.mark.parametrize(
    ("init", "clock", "said"),
    [(0, 0, "(1410.0, 1980.0)"), (9, 0, "None"), (0, 3, "None")],
    ids=["a GPU", "no driver", "a GPU that does not tell"],
)
def test_the_clocks_of_a_gpu_are_read_through_nvml(
    tmp_path: Path, init: int, clock: int, said: str
) -> None:
    source = tmp_path / "nvml.c"
    source.write_text(NVML % {"init": init, "clock": clock})
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    code = "from paretopipe_worker.host.health import Watch\nw = Watch()\nprint(w.end().gpu_mhz)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == said


def test_without_the_package_of_nvml_there_is_no_gpu(host: FakeHost) -> None:
    code = "import sys; sys.modules['pynvml'] = None\n"
    code += "from paretopipe_worker.host.health import Watch\nprint(Watch().end().gpu_mhz)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "None"


def test_sensors_are_looked_for_once(host: FakeHost) -> None:
    assert Watch(host.root)._sensors is Watch(host.root)._sensors


def test_what_a_device_computes_says_nothing_of_a_core_but_may_be_stretched(
    host: FakeHost,
) -> None:
    watch = Watch(host.root)
    watch.add(5_000_000, None, asked_ns=10_000_000, overslept_ns=1_000_000)
    health = watch.end()
    assert (health.wall_over_cpu, health.overslept) == (None, 0.1)
