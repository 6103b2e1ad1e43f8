"""A run in one file: opened without this project, and not changed without notice."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import zipfile
from pathlib import Path

import pytest
import yaml

from analysis import manifest
from analysis.archive import ArchiveError, opened, seal
from analysis.run import read
from paretopipe_worker.plan import spec
from tests.helpers.fake_plan import TWO_LINKS, make, tiny_table
from tests.helpers.fake_run import FakeRun

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with its manifest, and a secret that nobody may get."""
    plan = make(tiny_table(), run="kept", links=TWO_LINKS)
    made = FakeRun(tmp_path / "results" / "kept", plan, items=8).all_sessions().path
    variables = {"pi": {"data_address": "10.0.0.1", "ansible_password": "hunter2", "threads": 1}}
    document = manifest.manifest(read(made), None, variables)
    (made / "manifest.json").write_text(json.dumps(document), encoding="utf-8")
    (made / "secret").write_text("hunter2", encoding="utf-8")
    return made


@pytest.fixture
def sealed(run: Path, tmp_path: Path) -> Path:
    return seal(run, tmp_path / "kept.zip")


def test_an_archive_holds_the_run_and_what_repeats_it(run: Path, sealed: Path) -> None:
    before = read(run)
    with opened(sealed) as data:
        after = read(data / "run")
        assert after.plan == before.plan
        assert after.items.equals(before.items)
        asked = yaml.safe_load((data / "experiment.yml").read_text(encoding="utf-8"))
        assert spec.parse(asked) == before.plan.experiment
        hosts = yaml.safe_load((data / "inventory.yml").read_text(encoding="utf-8"))
    stages = hosts["all"]["children"]["stages"]["hosts"]
    assert stages["pi"] == {"data_address": "10.0.0.1", "threads": 1}
    assert list(stages) == [host.name for host in before.plan.hosts]


def test_no_secret_is_in_an_archive(sealed: Path) -> None:
    with zipfile.ZipFile(sealed) as archive:
        assert not [name for name in archive.namelist() if name.endswith("/secret")]
        assert not [name for name in archive.namelist() if b"hunter2" in archive.read(name)]


def test_anyone_can_check_it_without_this_project(sealed: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(sealed) as archive:
        archive.extractall(tmp_path / "there")
    [bag] = (tmp_path / "there").iterdir()
    command = ["sha256sum", "--check", "--quiet", "manifest-sha256.txt"]
    subprocess.run(command, cwd=bag, check=True, capture_output=True)
    text = (bag / "manifest-sha256.txt").read_text(encoding="utf-8")
    held = {str(path.relative_to(bag)) for path in (bag / "data").rglob("*") if path.is_file()}
    assert {line.split(maxsplit=1)[1] for line in text.splitlines()} == held


def changed(sealed: Path, folder: Path, how: str) -> Path:
    """The archive with one of its files changed, removed or added."""
    with zipfile.ZipFile(sealed) as archive:
        archive.extractall(folder / "in")
    [bag] = (folder / "in").iterdir()
    victim = next(bag.glob("data/run/records/pi/*.jsonl"))
    if how == "change":
        victim.write_text(victim.read_text(encoding="utf-8").replace("1", "2", 1), encoding="utf-8")
    elif how == "remove":
        victim.unlink()
    else:
        victim.with_name("more.jsonl").write_text("{}", encoding="utf-8")
    return Path(shutil.make_archive(str(folder / how), "zip", folder / "in", bag.name))


@pytest.mark.parametrize("how", ["change", "remove", "add"])
def test_a_changed_archive_is_refused(sealed: Path, tmp_path: Path, how: str) -> None:
    other = changed(sealed, tmp_path, how)
    with (
        pytest.raises(ArchiveError, match=r"was changed after it was sealed: .*jsonl"),
        opened(other),
    ):
        pass


def test_what_leads_out_of_the_folder_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for name, mode in (("../evil", 0o644), ("/evil", 0o644), ("kept/link", stat.S_IFLNK | 0o777)):
        file = tmp_path / "evil.zip"
        with zipfile.ZipFile(file, "w") as archive:
            member = zipfile.ZipInfo(name)
            member.external_attr = mode << 16
            archive.writestr(member, "/etc")
        with pytest.raises(ArchiveError, match="leads out of its folder"), opened(file):
            pass
    assert not (tmp_path.parent / "evil").exists()


def test_other_files_are_named_with_the_reason(run: Path, sealed: Path, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="a sealed archive is never written again"):
        seal(run, sealed)
    (run / "manifest.json").unlink()
    with pytest.raises(ArchiveError, match="has no manifest that can be read"):
        seal(run, tmp_path / "other.zip")
    (tmp_path / "text.zip").write_text("no archive", encoding="utf-8")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("a/b", "")
    for name, said in (
        ("text.zip", "cannot be read: File is not a zip file"),
        ("lost.zip", "cannot be read: .*No such file"),
        ("empty.zip", "is no archive of a run"),
    ):
        with pytest.raises(ArchiveError, match=said), opened(tmp_path / name):
            pass
