"""What uninstalling removes from a host, and what it leaves there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.sweeps import Checkout, Done, checkout

pytestmark = pytest.mark.slow

HERE = """\
all:
  children:
    stages:
      hosts:
        here: {{ansible_connection: local, data_address: 127.0.0.1}}
      vars:
        ansible_python_interpreter: "{{{{ ansible_playbook_python }}}}"
        ansible_become: false  # it is root already, or there is nothing for which it must be
        my_folder: {folder}
        worker_home: "{{{{ my_folder }}}}/home"
        worker_root_dir: "{{{{ my_folder }}}}/root"
        worker_state_dir: "{{{{ my_folder }}}}/state"
        netem_state_dir: "{{{{ my_folder }}}}/state"
"""

OURS = (
    *("home/site-0123456789ab/paretopipe_worker/plan.py", "home/runs/run/secret"),
    *("home/requirements-runtimes.txt", "root/paretopipe-0123456789ab.pyz", "state/keeper.log"),
)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout."""
    return checkout(tmp_path_factory.mktemp("uninstalled") / "checkout")


def uninstall(copy: Checkout, folder: Path, *words: str) -> Done:
    """Uninstall what a folder of this computer holds."""
    hosts = copy.write("here.yml", HERE.format(folder=folder))
    playbook = (".venv/bin/ansible-playbook", "playbooks/uninstall.yml", "-i", hosts)
    return copy.run(*playbook, *words)


def changes(done: Done) -> int:
    """How many changes were made on the host."""
    [count] = re.findall(r"^here +: ok=\d+ +changed=(\d+)", done.succeeded().output, re.MULTILINE)
    return int(count)


def files(folder: Path) -> set[str]:
    """Every file and link in a folder."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    return {str(path.relative_to(folder)) for path in found}


def test_what_this_project_made_is_removed_and_a_persons_own_files_are_left(
    copy: Checkout, tmp_path: Path
) -> None:
    for name in (*OURS, "home/notes/today.txt", "outside/kept.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    # What a link leads to is not this project's.
    (tmp_path / "home/runs/run/data").symlink_to(tmp_path / "outside")
    before = files(tmp_path)
    assert changes(uninstall(copy, tmp_path, "--check")) > 0
    assert files(tmp_path) == before
    done = uninstall(copy, tmp_path)
    assert changes(done) > 0
    assert f"left in {tmp_path}/home, since this project did not make it: notes" in done.output
    assert files(tmp_path) == {"home/notes/today.txt", "outside/kept.txt"}
    assert {path.name for path in tmp_path.iterdir()} == {"home", "outside"}
    assert changes(uninstall(copy, tmp_path)) == 0


def test_the_home_itself_is_no_folder_of_the_workers(copy: Checkout, tmp_path: Path) -> None:
    home = Path.home()
    done = uninstall(copy, tmp_path, "-e", f"worker_home={home}")
    done.refused(f"nothing is removed from {home}; allowed is the absolute path of a folder inside")
