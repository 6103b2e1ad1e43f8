"""An archive from somebody else: it fills no disk, leads nowhere, and runs no code by itself."""

from __future__ import annotations

import contextlib
import re
import shutil
import stat
import struct
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from analysis import archive, reproduce
from analysis.archive import ArchiveError, opened
from tests import ROOT

MOST = 1_000_000


def packed(file: Path, *members: tuple[str, int, bytes]) -> Path:
    """A ZIP of members: name, mode, and what it holds."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for name, mode, content in members:
            member = zipfile.ZipInfo(name)
            member.external_attr = mode << 16
            member.compress_type = zipfile.ZIP_DEFLATED
            made.writestr(member, content)
    return file


def refused(file: Path, said: str) -> None:
    """Hold that an archive is refused, and that nothing of it was unpacked."""
    with pytest.raises(ArchiveError, match=said) as error, opened(file):
        pass
    assert str(error.value).startswith(f"{file}: ")


def test_a_bomb_is_refused_by_what_it_would_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = packed(tmp_path / "bomb.zip", ("kept/data/zeros", 0o644, bytes(50 * MOST)))
    assert bomb.stat().st_size < MOST
    monkeypatch.setattr(zipfile.ZipFile, "extractall", lambda *_: pytest.fail("it was unpacked"))
    monkeypatch.setattr(archive, "_MOST_BYTES", MOST)
    refused(bomb, rf"would take {50 * MOST} bytes; allowed: {MOST}")
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * MOST))
    refused(bomb, rf"would take {50 * MOST} bytes; allowed: {2 * MOST}, of what is free in ")


def test_more_files_than_any_run_has_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "_MOST_MEMBERS", 3)
    members = [(f"kept/{number}", 0o644, b"") for number in range(4)]
    refused(packed(tmp_path / "many.zip", *members), "holds 4 files; allowed: 3")


def test_a_file_that_holds_more_than_it_claims_is_cut_off_there(tmp_path: Path) -> None:
    whole = packed(tmp_path / "liar.zip", ("kept/data/zeros", 0o644, bytes(MOST))).read_bytes()
    claimed = whole.replace(struct.pack("<I", MOST), struct.pack("<I", 10))
    (tmp_path / "liar.zip").write_bytes(claimed)
    refused(tmp_path / "liar.zip", "cannot be read: Bad CRC-32")


@pytest.mark.parametrize("kind", [stat.S_IFBLK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_devices_and_pipes_are_refused(tmp_path: Path, kind: int) -> None:
    file = packed(tmp_path / "odd.zip", ("kept/odd", kind | 0o644, b""))
    refused(file, "holds 'kept/odd', which is neither a file nor a folder")


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    twice = ("kept/a", 0o644, b"one"), ("kept/a", 0o644, b"two")
    with pytest.warns(UserWarning, match="Duplicate name"):
        file = packed(tmp_path / "twice.zip", *twice)
    refused(file, "holds 'kept/a' twice")


def test_one_that_needs_a_password_is_refused(tmp_path: Path) -> None:
    whole = bytearray(packed(tmp_path / "locked.zip", ("kept/a", 0o644, b"one")).read_bytes())
    for head, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        whole[whole.index(head) + flags] |= 1
    (tmp_path / "locked.zip").write_bytes(whole)
    refused(tmp_path / "locked.zip", "cannot be read: .*encrypted")


OWN = {"name": "own", "factory": "os:system", "arguments": {"command": "touch pwned"}}


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (OWN, "model own: the function os:system"),
        ("net.pt2", "model net: the file .*/net.pt2"),
        (
            {"name": "evil:net", "path": "evil.py"},
            "model evil:net: the function evil:net in .*/evil.py",
        ),
        ({"name": "resnet18", "requirements": ["evil"]}, "model resnet18: pip installs 'evil'"),
    ],
)
def test_an_experiment_whose_models_are_code_is_not_measured_unasked(
    tmp_path: Path, model: Any, said: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    data = tmp_path / "bag" / "data"
    data.mkdir(parents=True)
    (data / "experiment.yml").write_text(yaml.safe_dump({"models": [model]}), encoding="utf-8")
    [found] = archive.code(data, ROOT)
    monkeypatch.setattr(reproduce, "opened", lambda _: contextlib.nullcontext(data))
    monkeypatch.setattr(reproduce, "sweep", lambda *_, **__: pytest.fail("a sweep was begun"))
    assert reproduce.main(["--from", "a.zip", "-i", "inventory/local"]) == 2
    error = capsys.readouterr().err
    assert found in error and "allow it with --allow-code" in error
    assert re.match(said, found), found


def test_models_of_libraries_and_of_this_project_are_measured(tmp_path: Path) -> None:
    models = ["resnet18", "paretopipe_worker.model.tiny:network", "timm/resnet18"]
    (tmp_path / "experiment.yml").write_text(yaml.safe_dump({"models": models}), encoding="utf-8")
    assert archive.code(tmp_path, ROOT) == []
