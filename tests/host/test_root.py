"""What root runs on a host: an archive, isolated from whatever the user who logs in may change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT
from tests.helpers.role_code import module

BUILD = module(ROOT / "roles/worker/files/build.py")
PLANTED = "import pathlib; pathlib.Path({mark!r}).touch()\n"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive that role worker installs."""
    made: Path = tmp_path_factory.mktemp("root") / "paretopipe.pyz"
    made.write_bytes(BUILD.archive(ROOT))
    return made


def call(archive: Path, *words: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the archive as role worker has root run it."""
    command = [sys.executable, "-I", "-S", archive, *words]
    return subprocess.run(command, capture_output=True, text=True, **options)  # type: ignore[call-overload,no-any-return]


def test_the_same_sources_make_the_same_archive(archive: Path) -> None:
    assert BUILD.archive(ROOT) == archive.read_bytes()


def test_nothing_that_a_user_plants_in_environment_or_folder_is_run(
    archive: Path, tmp_path: Path
) -> None:
    mark, home, tools = (tmp_path / name for name in ("mark", "home", "tools"))
    planted = PLANTED.format(mark=str(mark))
    for name in ("sitecustomize", "usercustomize", "json", "paretopipe_worker"):
        (home / f"{name}.py").parent.mkdir(exist_ok=True)
        (home / f"{name}.py").write_text(planted)
    tools.mkdir()
    for name in ("tc", "ip", "unshare"):
        (tools / name).write_text(f"#!/bin/sh\ntouch '{mark}'\n")
        (tools / name).chmod(0o755)
    environment = {
        **os.environ,
        **{"PYTHONPATH": str(home), "PYTHONSTARTUP": str(home / "json.py"), "HOME": str(home)},
        "PATH": f"{tools}:{os.environ['PATH']}",
    }
    code = ("-c", "import json")  # what was planted would run, if it were looked for
    subprocess.run([sys.executable, *code], env=environment, cwd=home, check=True)
    assert mark.exists()
    mark.unlink()
    state = ("--state-dir", tmp_path / "state")
    for words in (("governor", "restore", *state), ("link", "restore", "--check", *state)):
        done = call(archive, *words, env=environment, cwd=home)
        assert done.returncode == 0, done.stderr
        assert not json.loads(done.stdout)["changed"]
    assert not mark.exists()


def test_the_state_is_kept_in_a_folder_to_which_nobody_else_may_write(
    archive: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    restore = ("governor", "restore", "--state-dir", state)
    assert call(archive, *restore, "--check").returncode == 0
    assert not state.exists()
    assert call(archive, *restore, umask=0).returncode == 0
    assert state.stat().st_mode & 0o777 == 0o755
    state.chmod(0o777)
    refused = call(archive, *restore)
    assert refused.returncode == 2
    assert (
        f"{state}: belongs to user {os.geteuid()} and has mode 0777; a folder of" in refused.stderr
    )
    state.chmod(0o755)
    state.rename(tmp_path / "elsewhere")
    state.symlink_to(tmp_path / "elsewhere")
    refused = call(archive, *restore)
    assert (refused.returncode, "is no folder" in refused.stderr) == (2, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_no_place_for_the_state(archive: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    os.chown(state, 4242, 4242)
    refused = call(archive, "link", "restore", "--state-dir", state)
    assert (refused.returncode, "belongs to user 4242" in refused.stderr) == (2, True)
