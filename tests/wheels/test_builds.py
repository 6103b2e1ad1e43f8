"""Which wheels a host takes follows from what it is; no host is needed to say so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from paretopipe_worker.wheels.builds import CUDA, fitting
from paretopipe_worker.wheels.needs import (
    Described,
    Target,
    WheelsError,
    described,
    lacking,
    number,
    pins,
    target,
)
from tests import ROOT

PI = Described(
    machine="aarch64", bits=64, python="3.11", libc="glibc", libc_version="2.36", page_bytes=16384
)


def changed(**fields: object) -> Described:
    """The Pi with other fields."""
    return PI.model_copy(update=fields)


def test_a_host_without_a_gpu_in_the_inventory_gets_the_build_for_the_cpu() -> None:
    assert fitting(PI, "cpu") == ("cpu",)
    assert fitting(changed(driver="580.65.06", capability="9.0"), "cpu") == ("cpu",)


@pytest.mark.parametrize(
    ("driver", "capability", "first", "fits"),
    [
        ("580.65.06", "9.0", "cu130", 3),
        ("570.133.20", "12.0", "cu129", 1),
        ("525.60.13", "8.6", "cu129", 2),
        ("580.65.06", "6.1", "cu126", 1),
        ("560.35.03", None, "cu129", 2),
    ],
)
def test_a_gpu_gets_builds_that_its_driver_and_its_own_capability_run(
    driver: str, capability: str | None, first: str, fits: int
) -> None:
    found = fitting(changed(driver=driver, capability=capability), "cuda:0")
    assert (found[0], len(found)) == (first, fits)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "device cuda:0, and nvidia-smi finds no GPU"),
        ({"driver": "470.82.01", "capability": "8.6"}, "driver 470.82.01 on a GPU of compute"),
        ({"driver": "580.65", "capability": "3.7"}, "compute capability 3.7"),
    ],
)
def test_a_gpu_that_no_build_can_use_is_refused(fields: dict[str, str], text: str) -> None:
    with pytest.raises(WheelsError, match=text):
        fitting(changed(**fields), "cuda:0")


def test_builds_are_for_different_drivers_or_gpus_and_none_is_hidden_by_a_better_one() -> None:
    for at, build in enumerate(CUDA):
        earlier = CUDA[:at]
        assert not any(
            number(better.driver) <= number(build.driver)
            and number(better.capabilities[0]) <= number(build.capabilities[0])
            for better in earlier
        ), build.name


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"bits": 32}, "its Python has 32 bits .machine aarch64., .* worker_python"),
        ({"libc": "musl", "libc_version": ""}, "its C library is musl"),
        ({"machine": "armv7l"}, "it is a armv7l"),
    ],
)
def test_a_host_for_which_torch_has_no_wheels_is_told_what_else_it_can_do(
    fields: dict[str, object], text: str
) -> None:
    with pytest.raises(WheelsError, match=text):
        target(changed(**fields))


def test_wheels_for_an_older_glibc_serve_a_newer_one_and_not_the_other_way_round() -> None:
    old, new = Target("aarch64", "3.11", "2.9"), Target("aarch64", "3.11", "2.36")
    assert old.serves(new) and not new.serves(old)
    assert not old.serves(Target("aarch64", "3.12", "2.36"))
    assert not old.serves(Target("x86_64", "3.11", "2.36"))


def test_versions_are_compared_in_their_public_part() -> None:
    wanted = {"torch": "2.13.0", "pyyaml": "6.0.3", "numpy": "2.4.6"}
    installed = {"torch": "2.13.0+cpu", "PyYAML": "6.0.3", "numpy": "2.4.5"}
    assert lacking(wanted, installed, "cpu") == ["numpy"]
    assert lacking(wanted, installed, "cu130") == ["numpy", "torch"]
    assert lacking(wanted, installed | {"torch": "2.13.0+cu126"}, "cpu") == ["numpy"]
    assert lacking(wanted, {}, "cpu") == list(wanted)


def test_the_projects_requirements_name_one_version_each(tmp_path: Path) -> None:
    assert pins(ROOT / "requirements-worker.txt")["torch"]
    assert pins(ROOT / "requirements-runtimes.txt")["onnxruntime"]
    loose = tmp_path / "requirements.txt"
    loose.write_text("# a comment\ntorch==2.0\nnumpy>=1\n")
    with pytest.raises(WheelsError, match="line 3: 'numpy>=1' is not name==version"):
        pins(loose)


def test_this_host_describes_itself_in_words_that_are_understood(tmp_path: Path) -> None:
    script = (ROOT / "roles/worker/files/describe.py").read_bytes()
    done = subprocess.run(
        [sys.executable, "-", tmp_path], input=script, capture_output=True, check=True
    )
    found = described(json.loads(done.stdout))
    assert found.python == f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert found.installed == {}
    environment = subprocess.run(
        [sys.executable, "-", sys.prefix], input=script, capture_output=True, check=True
    )
    assert described(json.loads(environment.stdout)).installed["pydantic"]


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("echo '550.54.14, 8.6'; echo '550.54.14, 9.0'", ("550.54.14", "8.6")),
        # Drivers before 510 do not know the field; some GPUs have none.
        ("case $1 in *cap*) exit 2;; *) echo 470.82.01;; esac", ("470.82.01", None)),
        ("echo '550.54.14, [N/A]'", ("550.54.14", None)),
        ("echo 'NVIDIA-SMI has failed'; exit 9", (None, None)),
    ],
)
def test_a_gpu_is_what_nvidia_smi_says(
    tmp_path: Path, script: str, found: tuple[str | None, str | None]
) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    done = subprocess.run(
        [sys.executable, ROOT / "roles/worker/files/describe.py", tmp_path],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        check=True,
    )
    told = described(json.loads(done.stdout))
    assert (told.driver, told.capability) == found


def test_what_a_host_says_of_itself_is_not_believed_unchecked() -> None:
    told = PI.model_dump() | {"machine": "aarch64; rm -r /"}
    with pytest.raises(WheelsError, match="not understood: machine"):
        described(told)
