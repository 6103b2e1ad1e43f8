"""What root runs lies where nobody else can change it; the module of role worker holds that."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import ROOT
from tests.helpers.role_code import module

MODULE = module(ROOT / "roles/worker/library/root_archive.py")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def give(path: Path) -> None:
    """Give a file to another user, and not what it may link to."""
    os.chown(path, 4242, 4242, follow_symlinks=False)


def linked(folder: Path) -> None:
    """Put a link of another user's in the place of a folder."""
    folder.rename(folder.with_name("real"))
    folder.symlink_to("real")
    give(folder)


def shared(folder: Path) -> None:
    """Let a group write to a folder."""
    os.chown(folder, 0, 4242)
    folder.chmod(0o775)


WEAK: dict[str, tuple[Callable[[Path], None], str]] = {
    "another's": (give, "opt belongs to user 4242"),
    "another's link": (linked, "opt belongs to user 4242"),
    "everybody's": (lambda folder: folder.chmod(0o777), "opt may be changed by everybody"),
    "a group's": (shared, "opt may be changed by group 4242"),
}


@pytest.mark.parametrize("weaken, said", WEAK.values(), ids=WEAK)
def test_a_folder_on_the_way_that_another_could_change_is_refused(
    weaken: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    folder = tmp_path / "opt/paretopipe"
    folder.mkdir(parents=True)
    MODULE.hold(folder)
    weaken(tmp_path / "opt")
    with pytest.raises(MODULE.NotRootsError, match=said):
        MODULE.hold(folder)


def test_what_a_link_of_roots_leads_to_must_be_roots_too(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/python").touch()
    (tmp_path / "python").symlink_to("home/../home/python")
    MODULE.hold(tmp_path / "python")
    give(tmp_path / "home")
    with pytest.raises(MODULE.NotRootsError, match=r"python: its part .*home belongs to user 4242"):
        MODULE.hold(tmp_path / "python")


def test_each_version_has_its_archive_and_the_last_one_is_pointed_to(tmp_path: Path) -> None:
    folder = tmp_path / "opt/paretopipe"
    assert MODULE.install(folder, "1", b"first", check=True)
    assert not folder.exists()
    assert MODULE.install(folder, "1", b"first", check=False)
    assert not MODULE.install(folder, "1", b"first", check=False)
    assert MODULE.install(folder, "2", b"second", check=False)
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert found == {
        "paretopipe-1.pyz": b"first",
        "paretopipe-2.pyz": b"second",
        "paretopipe.pyz": b"second",
    }
    (folder / "paretopipe-2.pyz").write_bytes(b"damaged")
    assert MODULE.install(folder, "2", b"second", check=False)
    assert (folder / "paretopipe.pyz").read_bytes() == b"second"
