"""What is recorded of a machine, and what must not be."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from paretopipe_worker.host import facts
from paretopipe_worker.host.machine import cpu_field, free_bytes, machine, network
from paretopipe_worker.plan import code
from tests.helpers.fake_host import FakeHost
from tests.helpers.namespaces import INTERFACE, joined_pair, reason_without_namespaces

COMMAND_LINE = (
    "isolcpus=2,3 ro console=ttyS0 root=PARTUUID=ab-02 nfsroot=10.0.0.9:/x "
    "http_token=hunter2 mitigations=off -- init-password\n"
)


@pytest.fixture
def pi(tmp_path: Path) -> FakeHost:
    """A host with what a Raspberry Pi tells, and more than may be told."""
    host = FakeHost(tmp_path)
    host.file("proc/cmdline", COMMAND_LINE)
    host.file("proc/cpuinfo", "processor\t: 0\nFeatures\t: fp asimd crc32\n\nModel\t\t: Pi 5\n")
    host.file("proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0")
    host.file("proc/device-tree/serial-number", "secret-serial\0")
    host.file("proc/meminfo", "MemTotal: 8 kB\nMemAvailable: 5 kB\nSwapTotal:      2048 kB\n")
    host.file("sys/class/dmi/id/bios_version", "1.2\n")
    host.file("sys/class/dmi/id/product_serial", "secret-serial\n")
    host.file("proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456\n")
    host.firmware('[ "$1" = version ] && printf "2024/09/23 14:02:56\\nversion 26826259\\n"')
    host.clock(2400, "ondemand")
    cpufreq = "sys/devices/system/cpu/cpu0/cpufreq"
    host.file(f"{cpufreq}/scaling_driver", "cpufreq-dt\n")
    return host


def test_a_machine_is_told_by_kernel_processor_and_firmware(pi: FakeHost) -> None:
    found = machine(pi.root)
    assert found["device_tree_model"] == "Raspberry Pi 5 Model B Rev 1.0"
    assert found["firmware"] == "2024/09/23 14:02:56 version 26826259"
    assert found["cpu_features"] == ["fp", "asimd", "crc32"]
    assert found["dmi"]["bios_version"] == "1.2"
    assert found["swap_bytes"] == 2048 * 1024
    assert free_bytes(pi.root) == 5 * 1024
    assert found["cpufreq"]["scaling_driver"] == "cpufreq-dt"
    assert found["cpufreq"]["scaling_governor"] == "ondemand"
    assert cpu_field("model name", "Model", root=pi.root) == "Pi 5"


def test_of_the_kernel_s_command_line_only_known_values_are_told(pi: FakeHost) -> None:
    assert machine(pi.root)["kernel_command_line"] == (
        "isolcpus=2,3 ro console=… root=… nfsroot=… http_token=… mitigations=off"
    )


def test_nothing_that_names_one_device_or_opens_one_is_told(pi: FakeHost) -> None:
    told = json.dumps(machine(pi.root)) + json.dumps(network(pi.root))
    for secret in ("secret-serial", "hunter2", "init-password", "PARTUUID"):
        assert secret not in told


def test_a_machine_that_tells_nothing_is_null_and_no_error(tmp_path: Path) -> None:
    assert free_bytes(tmp_path) is None
    found = machine(tmp_path)
    assert found.pop("cpu_features") == []
    assert set(found.pop("cpufreq").values()) == {None}
    assert set(found.pop("dmi").values()) == {None}
    assert set(found.values()) == {None}


def test_network_settings_are_told_as_they_stand(pi: FakeHost) -> None:
    settings = network(pi.root)["sysctl"]
    assert settings["ipv4.tcp_rmem"] == "4096 131072 6291456"
    assert settings["core.busy_poll"] is None


@pytest.mark.skipif(bool(reason_without_namespaces()), reason=reason_without_namespaces())
def test_queueing_is_that_of_the_network_namespace() -> None:
    with joined_pair() as (host, _):
        host.run("tc", "qdisc", "add", "dev", INTERFACE, "root", "pfifo", "limit", "77")
        with host.entered():
            found = network()["qdiscs"]
    [ours] = [line for line in found if INTERFACE in line]
    assert "pfifo" in ours and "limit 77p" in ours


def test_without_tc_the_queueing_is_null(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    assert network()["qdiscs"] is None


def test_this_machine_is_told() -> None:
    found = facts.host()
    assert found["kernel_build"] and found["boot_id"] and found["kernel_command_line"]
    assert found["cpus"] == len(os.sched_getaffinity(0))
    json.dumps(found)


def test_versions_of_what_the_numbers_depend_on_are_told() -> None:
    found = facts.versions()
    for name in ("torch", "numpy", "safetensors", "pydantic", "PyYAML", "libc"):
        assert found[name]
    assert "GCC" in found["torch_build"] and "CXX_FLAGS" not in found["torch_build"]


def test_the_digest_of_the_package_tells_one_source_from_another(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    first = code.digest(tmp_path)
    assert code.digest(tmp_path) == first
    (tmp_path / "a.py").write_text("x = 2\n")
    second = code.digest(tmp_path)
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert len({first, second, code.digest(tmp_path)}) == 3
