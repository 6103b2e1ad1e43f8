"""Ansible module: keep the archive of what root runs where nobody but root can change it."""

from __future__ import annotations

import base64
import grp
import os
import pwd
import stat
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]

DOCUMENTATION = """
module: root_archive
short_description: Keep the archive of what root runs where nobody but root can change it
description:
  - Call it as root. The content comes with the module, through Ansible's pipelining, so that it is
    never in a file of the user who logs in.
  - Fails where somebody but root could change the folder or the Python that Ansible uses for root.
  - Supports check mode. A second call with the same arguments changes nothing.
author: The ParetoPipe developers
options:
  state:
    description:
      - With V(present) the archive is installed, with V(found) that which was installed last is
        looked for.
    type: str
    choices: [present, found]
    default: present
  folder:
    description: Folder of the archives.
    type: str
    required: true
  version:
    description: Names the archive.
    type: str
  content:
    description: The archive in base64.
    type: str
  guarded:
    description: Whether to hold that only root can change what root runs.
    type: bool
    default: true
"""

EXAMPLES = """
- name: Install what root runs
  root_archive:
    folder: /opt/paretopipe
    version: 0123456789ab
    content: "{{ lookup('ansible.builtin.file', 'root.pyz.b64') }}"
  become: true
"""

RETURN = """
command:
  description: The beginning of the command by which root runs the archive; empty if there is none.
  returned: success
  type: list
"""

SPEC: dict[str, dict[str, Any]] = {
    "state": {"type": "str", "choices": ["present", "found"], "default": "present"},
    "folder": {"type": "str", "required": True},
    "version": {"type": "str"},
    "content": {"type": "str", "no_log": True},
    "guarded": {"type": "bool", "default": True},
}
LATEST = "paretopipe.pyz"
"""Link to the archive that was installed last."""
PARTIAL = ".paretopipe"
"""Beginning of the names of files that are being written."""


class NotRootsError(Exception):
    """Somebody but root could change what root would run: what, and who."""


def hold(path: Path) -> None:
    """Hold that only root can change what a path leads to, as far as the path exists.

    Every folder and symbolic link on the way is looked at. In a folder with the sticky bit, such as
    /tmp, others may write, since they cannot replace what belongs to root.

    Raises
    ------
    NotRootsError
        When one of them belongs to another user, or others may write to it.
    """
    here, left = Path("/"), [*path.parts[1:]]
    _hold(path, here, last=not left)
    while left:
        name = left.pop(0)
        child = here.parent if name == ".." else here / name
        if not os.path.lexists(child):
            return
        _hold(path, child, last=not left)
        if child.is_symlink():
            target = child.readlink()
            here = Path("/") if target.is_absolute() else here
            left = [part for part in target.parts if part != "/"] + left
        else:
            here = child


def _hold(path: Path, part: Path, *, last: bool) -> None:
    """Hold that only root can change one folder, file or symbolic link of a path."""
    found = part.lstat()
    of = f"{path}" if part == path else f"{path}: its part {part}"
    if found.st_uid != 0:
        raise NotRootsError(f"{of} belongs to user {_name(pwd.getpwuid, found.st_uid)}")
    if stat.S_ISLNK(found.st_mode):
        return
    if found.st_mode & stat.S_IWOTH and (last or not found.st_mode & stat.S_ISVTX):
        raise NotRootsError(f"{of} may be changed by everybody")
    if found.st_mode & stat.S_IWGRP and found.st_gid != 0:
        raise NotRootsError(f"{of} may be changed by group {_name(grp.getgrgid, found.st_gid)}")


def _name(lookup: Callable[[int], Sequence[Any]], number: int) -> str:
    """The name of a user or a group, else its number."""
    try:
        return str(lookup(number)[0])
    except KeyError:
        return str(number)


def install(folder: Path, version: str, content: bytes, *, check: bool) -> bool:
    """Install an archive, and point to it; return whether anything was or would be changed."""
    path, latest = folder / f"paretopipe-{version}.pyz", folder / LATEST
    there = path.exists() and path.read_bytes() == content
    if there and latest.is_symlink() and latest.readlink() == Path(path.name):
        return False
    if not check:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        if not there:
            # Renamed into place, so that a reader sees all of it or nothing.
            with tempfile.NamedTemporaryFile(dir=folder, prefix=PARTIAL, delete=False) as file:
                file.write(content)
            Path(file.name).chmod(0o644)
            Path(file.name).replace(path)
        partial = folder / f"{PARTIAL}.link"
        partial.unlink(missing_ok=True)
        partial.symlink_to(path.name)
        partial.replace(latest)
    return True


def main() -> None:
    """Run the module."""
    needed = [("state", "present", ("version", "content"))]
    module = AnsibleModule(SPEC, required_if=needed, supports_check_mode=True)
    given, folder = module.params, Path(module.params["folder"])
    if not folder.is_absolute():
        module.fail_json(msg=f"worker_root_dir: must be an absolute path; got {str(folder)!r}")
    os.umask(0o022)
    changed, name = False, LATEST
    try:
        if given["guarded"]:
            for path in (Path(sys.executable), Path(os.__file__).parent, folder):
                hold(path)
        if given["state"] == "present":
            name = f"paretopipe-{given['version']}.pyz"
            content = base64.b64decode(given["content"])
            changed = install(folder, given["version"], content, check=module.check_mode)
        if given["guarded"]:
            hold(folder / name)
    except NotRootsError as error:
        module.fail_json(
            msg=f"{error}. Root runs nothing that another user can change. Change that with chown "
            "and chmod, or choose by worker_root_dir another folder, by ansible_python_interpreter "
            "another Python, all of whose folders belong to root"
        )
    there = (folder / name).exists()
    command = [sys.executable, "-I", "-S", str(folder / name)] if there else []
    module.exit_json(changed=changed, command=command)


if __name__ == "__main__":
    main()
