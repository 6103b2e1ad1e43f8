"""What a fleet installs is resolved for each host, and said with its size before it is fetched."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from paretopipe_worker.wheels.choosing import Choice, Choices, Host, choose
from paretopipe_worker.wheels.needs import Described
from paretopipe_worker.wheels.resolving import Sources
from tests.helpers.indexes import Index, fleet_of_wheels, serving, wheel

WANTED = {"torch": "2.0", "quick": "2.0"}
RUNTIMES = {"runner": "1.0"}
X86 = Described(
    machine="x86_64", bits=64, python="3.11", libc="glibc", libc_version="2.36", page_bytes=4096
)
PI = X86.model_copy(update={"machine": "aarch64", "page_bytes": 16384, "libc_version": "2.41"})
GPU = X86.model_copy(update={"driver": "550.54.14", "capability": "8.6"})


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    """PyPI and PyTorch, both of which tell how large their wheels are."""
    fleet_of_wheels(tmp_path / "root")
    with serving(tmp_path / "root", "json", "head") as served:
        yield served


def sources(index: Index, **fields: object) -> Sources:
    """Where hosts get packages in a lab with these indexes."""
    own = {"index": f"{index.url}/pypi", "torch_index": f"{index.url}/pytorch"}
    return Sources(**(own | fields))


def chosen(tmp_path: Path, *hosts: Host) -> Choices:
    """Choose for a fleet without a wheelhouse."""
    return choose(hosts, WANTED, RUNTIMES, tmp_path / "no house", tmp_path / "cache")


def versions(choice: Choice) -> dict[str, str]:
    """Versions of what a host installs."""
    return {each.name: each.version for each in choice.wheels}


def test_each_host_gets_exactly_what_its_architecture_and_its_device_need(
    tmp_path: Path, index: Index
) -> None:
    own = sources(index)
    hosts = (Host("pi", PI, "cpu", own), Host("x", X86, "cpu", own), Host("g", GPU, "cuda", own))
    found = chosen(tmp_path, *hosts)
    assert found.problems == {}
    plain = {"torch": "2.0+cpu", "quick": "2.0", "sympy": "1.0", "filelock": "1.0"}
    assert versions(found.hosts["pi"]) == plain | {"onarm": "1.0"}
    assert versions(found.hosts["x"]) == plain
    gpu = {"torch": "2.0+cu126", "quick": "2.0", "sympy": "1.0", "nvidia-cublas": "1.0"}
    assert versions(found.hosts["g"]) == gpu
    assert index.fetched == []
    files = [each.file for each in found.hosts["pi"].wheels if each.name == "torch"]
    assert files == ["torch-2.0+cpu-py3-none-manylinux_2_28_aarch64.whl"]


def test_sizes_are_told_by_the_index_or_by_the_server_or_said_to_be_unknown(tmp_path: Path) -> None:
    fleet_of_wheels(tmp_path / "root")
    size = sum(
        next((tmp_path / "root").glob(path)).stat().st_size
        for path in (
            "pytorch/cpu/torch/*x86*",
            "pypi/quick/*x86*",
            "pypi/sympy/*",
            "pypi/filelock/*",
        )
    )
    for how in ("json", "head"):
        with serving(tmp_path / "root", how) as index:
            told = chosen(tmp_path / how, Host("x", X86, "cpu", sources(index))).hosts["x"].told
        assert told.startswith("x86_64, glibc 2.36, Python 3.11: torch 2.0+cpu and 3 more, "), told
        assert f"{size / 1e6:.1f} MB to download from 127.0.0.1:" in told
    with serving(tmp_path / "root") as index:
        told = chosen(tmp_path / "none", Host("x", X86, "cpu", sources(index))).hosts["x"].told
    assert "0.0 MB and filelock, quick, sympy, torch of unknown size" in told


def test_a_host_without_a_gpu_is_refused_what_only_gpus_use(tmp_path: Path, index: Index) -> None:
    found = chosen(tmp_path, Host("pi", PI, "cpu", sources(index, torch_index="")))
    assert found.hosts == {}
    assert "has no GPU by the inventory (device: cpu)" in found.problems["pi"]
    assert "1 libraries for GPUs among them" in found.problems["pi"]
    assert "worker_torch_index_url" in found.problems["pi"]


def test_a_gpu_is_refused_a_torch_for_the_cpu(tmp_path: Path, index: Index) -> None:
    wheel(index.root / "pypi/torch", "torch", "2.0+cpu", "py3-none-manylinux_2_28_x86_64")
    found = chosen(tmp_path, Host("g", GPU, "cuda:0", sources(index, torch_index="")))
    assert "have torch for the CPU only" in found.problems["g"]


def test_wheels_in_a_folder_of_this_computer_are_sent(tmp_path: Path, index: Index) -> None:
    tag = "py3-none-manylinux_2_28_x86_64"
    own = wheel(tmp_path / "links", "torch", "2.0+cpu", tag)
    links = (str(tmp_path / "links"),)
    host = Host("x", X86, "cpu", sources(index, torch_index="", links=links))
    choice = chosen(tmp_path, host).hosts["x"]
    assert choice.files == [str(own)]
    assert re.search(
        r"torch 2\.0\+cpu and 1 more, 0\.0 MB to send .*, 0\.0 MB to download", choice.told
    )
    [line] = [line for line in choice.lines("/home/Ada L/w") if line.startswith("torch")]
    assert line.startswith(f"torch @ file:///home/Ada%20L/w/torch-2.0%2Bcpu-{tag}.whl#sha256=")


def test_what_is_there_is_neither_fetched_nor_asked_for(tmp_path: Path) -> None:
    there = PI.model_copy(update={"installed": {"torch": "2.0+cpu", "quick": "2.0"}})
    away = Sources("http://127.0.0.1:9/pypi", "http://127.0.0.1:9/pytorch")
    found = chosen(tmp_path, Host("pi", there, "cpu", away))
    assert (found.hosts["pi"].told, found.problems) == ("has its packages", {})


def test_only_what_is_lacking_is_fetched(tmp_path: Path, index: Index) -> None:
    there = X86.model_copy(update={"installed": {"torch": "2.0", "quick": "2.0", "sympy": "1.0"}})
    host = Host("x", there, "cpu", sources(index), more=("runner",))
    # Its torch, of whatever build, stays; what that build needs has its own reason to be there.
    assert versions(chosen(tmp_path, host).hosts["x"]) == {"runner": "1.0", "filelock": "1.0"}


def test_hosts_that_are_alike_ask_an_index_once(tmp_path: Path, index: Index) -> None:
    chosen(tmp_path, *(Host(f"pi{n}", PI, "cpu", sources(index)) for n in range(50)))
    assert [path for path in index.asked if path.endswith("/torch/")] == ["GET /pytorch/cpu/torch/"]


def test_without_an_index_every_host_says_so_and_the_kinds_to_collect_for_are_listed(
    tmp_path: Path,
) -> None:
    away = Sources("http://127.0.0.1:9/pypi", "http://127.0.0.1:9/pytorch")
    pis = [Host(f"pi{n}", PI, "cpu", away) for n in range(3)]
    found = chosen(tmp_path, *pis, Host("g", GPU, "cuda:0", away))
    assert list(found.problems) == ["pi0", "pi1", "pi2", "g"]
    assert all(
        "lacks torch, quick, and no index can be reached: " in w for w in found.problems.values()
    )
    assert found.targets == [
        {"machine": "aarch64", "python": "3.11", "glibc": "2.41"},
        {
            **{"machine": "x86_64", "python": "3.11", "glibc": "2.36", "device": "cuda:0"},
            **{"driver": "550.54.14", "capability": "8.6"},
        },
    ]


def test_no_password_of_an_index_is_shown(tmp_path: Path, index: Index) -> None:
    url = f"{index.url}/pypi".replace("//", "//ada:sesame@")
    away = "http://ada:sesame@127.0.0.1:9/pypi"
    hosts = [
        Host("refused", X86, "cpu", Sources(url, "")),
        Host("away", X86, "cpu", Sources(away, "")),
        Host("none", X86, "cpu", Sources(url, f"{url}/nothing")),
    ]
    found = chosen(tmp_path, *hosts)
    assert list(found.problems) == ["refused", "away", "none"]
    assert "sesame" not in str(found.problems), found.problems


def test_a_version_that_no_index_has_is_named(tmp_path: Path, index: Index) -> None:
    hosts = [Host("x", X86, "cpu", sources(index))]
    found = choose(hosts, {"quick": "3.0"}, {}, tmp_path / "no house", tmp_path / "cache")
    assert "there are no such wheels for x86_64, glibc 2.36, Python 3.11" in found.problems["x"]
    assert "quick" in found.problems["x"] and found.targets == []


def test_what_a_person_has_set_for_uv_decides_nothing(
    tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/other")
    monkeypatch.setenv("UV_OFFLINE", "1")
    assert chosen(tmp_path, Host("x", X86, "cpu", sources(index))).problems == {}


def test_the_command_line_needs_neither_pydantic_nor_packaging_to_start() -> None:
    code = (
        "import sys, paretopipe_worker.__main__\n"
        "print({'pydantic', 'packaging', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
