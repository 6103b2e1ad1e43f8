"""The wheelhouse holds exactly what hosts need, unchanged, and says what it holds."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paretopipe_worker.wheels import house
from paretopipe_worker.wheels.answers import collected
from paretopipe_worker.wheels.choosing import Choice, Host, choose
from paretopipe_worker.wheels.needs import Described, Target, WheelsError
from paretopipe_worker.wheels.resolving import Sources, Wheel
from tests.helpers.indexes import Index, fleet_of_wheels, serving, wheel

WANTED = {"torch": "2.0", "quick": "2.0"}
X86 = Described(
    machine="x86_64", bits=64, python="3.11", libc="glibc", libc_version="2.36", page_bytes=4096
)
PI = X86.model_copy(update={"machine": "aarch64"})
GPU = X86.model_copy(update={"driver": "550.54.14", "capability": "8.6"})
AWAY = Sources("http://127.0.0.1:9/pypi", "http://127.0.0.1:9/pytorch")


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    """PyPI and PyTorch."""
    fleet_of_wheels(tmp_path / "root")
    with serving(tmp_path / "root", "json", "head") as served:
        yield served


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the wheelhouse is to be."""
    return tmp_path / "house"


def collect(index: Index, folder: Path, *hosts: Host, check: bool = False) -> dict[str, Any]:
    """Collect for some hosts, whatever their own sources are."""
    own = Sources(f"{index.url}/pypi", f"{index.url}/pytorch")
    online = [Host(h.name, h.described, h.device, own, more=h.more) for h in hosts]
    return collected(online, WANTED, {"runner": "1.0"}, folder, index.root.parent / "cache", check)


def sent(folder: Path, host: Host) -> Choice:
    """What a host is sent of it, without any index."""
    found = choose([host], WANTED, {"runner": "1.0"}, folder, folder.parent / "cache")
    assert found.problems == {}
    return found.hosts[host.name]


def test_it_holds_what_each_kind_of_host_needs_and_nothing_else(index: Index, folder: Path) -> None:
    hosts = [Host("pi", PI), Host("pi2", PI), Host("x", X86), Host("g", GPU, "cuda:0")]
    told = collect(index, folder, *hosts)
    assert "aarch64, glibc 2.36, Python 3.11, torch for cpu (pi, pi2): 5 wheels" in told["text"]
    names = {path.name for path in folder.glob("*.whl")}
    arm = {name for name in names if "aarch64" in name}
    assert arm == {
        f"{each}-py3-none-manylinux_2_28_aarch64.whl" for each in ("torch-2.0+cpu", "quick-2.0")
    }
    assert {name.partition("-")[0] for name in names - arm} == {
        *("torch", "quick", "sympy", "filelock", "onarm", "nvidia_cublas")
    }
    assert [each for each in sent(folder, Host("pi", PI)).files if "nvidia" in each] == []
    assert {path.name for path in folder.iterdir()} == names | {house.MANIFEST}


def test_in_check_mode_it_says_what_it_would_hold_and_fetches_nothing(
    index: Index, folder: Path
) -> None:
    told = collect(index, folder, Host("pi", PI), check=True)
    assert "would hold, for each kind of host:" in told["text"] and "5 wheels, 0.0" in told["text"]
    assert (told["changed"], folder.exists(), index.fetched) == (False, False, [])


def test_a_second_time_nothing_is_fetched_and_other_kinds_are_added(
    index: Index, folder: Path
) -> None:
    assert collect(index, folder, Host("pi", PI))["changed"]
    before = len(index.fetched)
    assert not collect(index, folder, Host("pi", PI))["changed"]
    assert len(index.fetched) == before == 5
    collect(index, folder, Host("x", X86))
    assert len(sent(folder, Host("pi", PI)).files) == 5
    assert len(sent(folder, Host("x", X86)).files) == 4


def test_hosts_get_their_wheels_from_it_without_an_index(index: Index, folder: Path) -> None:
    collect(index, folder, Host("pi", PI, more=("runner",)))
    newer = PI.model_copy(update={"libc_version": "2.41"})
    choice = sent(folder, Host("pi", newer, "cpu", AWAY, more=("runner",)))
    assert {Path(file).parent for file in choice.files} == {folder}
    assert {each.name for each in choice.wheels} >= {"torch", "runner", "onarm"}
    older = PI.model_copy(update={"libc_version": "2.31"})
    found = choose([Host("pi", older, "cpu", AWAY)], WANTED, {}, folder, folder.parent / "cache")
    assert "no index can be reached" in found.problems["pi"]


def test_a_wheelhouse_that_a_host_must_use_says_what_it_lacks(index: Index, folder: Path) -> None:
    collect(index, folder, Host("pi", PI))
    host = Host("x", X86, "cpu", AWAY, wheelhouse=folder)
    text = choose([host], WANTED, {}, folder, folder.parent / "cache").problems["x"]
    assert "for x86_64, glibc 2.36, Python 3.11 (cpu); it has: aarch64" in text
    newer = {"torch": "2.1", "quick": "2.0"}
    host = Host("pi", PI, "cpu", AWAY, wheelhouse=folder)
    text = choose([host], newer, {}, folder, folder.parent / "cache").problems["pi"]
    assert "no wheels of the versions that this checkout wants" in text


def test_a_wheel_that_was_changed_is_not_sent_and_is_fetched_anew(
    index: Index, folder: Path
) -> None:
    collect(index, folder, Host("x", X86))
    [path] = folder.glob("torch-*")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"!")
    found = choose([Host("x", X86, "cpu", AWAY)], WANTED, {}, folder, folder.parent / "cache")
    assert f"{path} is not what was collected" in found.problems["x"]
    collect(index, folder, Host("x", X86))
    assert path.read_bytes() == whole
    path.unlink()
    found = choose([Host("x", X86, "cpu", AWAY)], WANTED, {}, folder, folder.parent / "cache")
    assert f"{path} is missing" in found.problems["x"]


def test_a_wheel_of_another_checksum_than_the_index_names_is_not_kept(
    index: Index, folder: Path
) -> None:
    [real] = (index.root / "pypi/sympy").glob("*.whl")
    wheels = [Wheel("sympy", "1.0", f"{index.url}/pypi/sympy/{real.name}", None, "0" * 64)]
    shelves = {(Target("x86_64", "3.11", "2.36"), "cpu"): ({"sympy": "1.0"}, wheels)}
    with pytest.raises(WheelsError, match="names another SHA-256"):
        list(house.collect(folder, shelves))
    assert list(folder.iterdir()) == []


def test_wheels_of_versions_that_nothing_names_any_longer_are_removed(
    index: Index, folder: Path
) -> None:
    collect(index, folder, Host("x", X86))
    for path in (index.root / "pypi/quick").glob("*x86_64.whl"):
        path.unlink()
    wheel(index.root / "pypi/quick", "quick", "2.0.post1", "py3-none-manylinux_2_28_x86_64")
    wheel(index.root / "pypi/quick", "quick", "2.1", "py3-none-manylinux_2_28_x86_64")
    own = Sources(f"{index.url}/pypi", f"{index.url}/pytorch")
    newer = {"torch": "2.0", "quick": "2.1"}
    collected([Host("x", X86, "cpu", own)], newer, {}, folder, folder.parent / "cache2", False)
    assert [path.name.split("-")[1] for path in folder.glob("quick-*")] == ["2.1"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read"),
        ('{"schema_version": 9, "shelves": []}', "has schema 9, and 1 is known"),
        ('{"shelves": [{"machine": "x86_64"}]}', "cannot be read"),
    ],
)
def test_a_manifest_that_is_damaged_or_of_another_version_is_refused(
    folder: Path, text: str, said: str
) -> None:
    folder.mkdir()
    (folder / house.MANIFEST).write_text(text)
    with pytest.raises(WheelsError, match=said):
        house.read(folder)


def test_no_file_outside_the_folder_can_be_named(index: Index, folder: Path) -> None:
    collect(index, folder, Host("x", X86))
    manifest = json.loads((folder / house.MANIFEST).read_text())
    manifest["shelves"][0]["wheels"][0]["file"] = "../../etc/passwd.whl"
    (folder / house.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(WheelsError, match="cannot be read"):
        house.read(folder)


def test_pip_installs_from_the_folder_without_this_project(
    index: Index, folder: Path, tmp_path: Path
) -> None:
    collect(index, folder, Host("x", X86))
    command = [sys.executable, "-m", "pip", "install", "--no-index", f"--find-links={folder}"]
    options = [f"--target={tmp_path / 'site'}", "--quiet", "--no-deps", "quick", "sympy"]
    only = ["--platform", "manylinux_2_28_x86_64", "--only-binary", ":all:"]
    subprocess.run([*command, *options, *only], check=True)
    assert (tmp_path / "site/sympy.py").is_file()
