"""What root runs on a host, from an archive that only root can change: ``python3 -I -S ARCHIVE``.

The archive holds this module and the rooms that it imports, which need the standard library alone.
Nothing here reads the environment or the folders of the user who logs in. What that user says comes
as arguments and by standard input.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

from paretopipe_worker.host import governor
from paretopipe_worker.shaping import command as link_command

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
"""All that commands started from here, such as ``tc``, get to see."""


class FolderError(ValueError):
    """A folder for root's files cannot be used; the text says why, and what is allowed."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; it reports what it refuses on stderr and with exit status 2."""
    os.environ.clear()
    os.environ.update(ENVIRONMENT)
    os.umask(0o022)  # stages, which an ordinary user runs, read the state folder
    parser = argparse.ArgumentParser(prog="paretopipe", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    link_command.add_parser(commands)
    governor.add_parser(commands)
    options = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        if "state_dir" in options:
            own(options.state_dir, make=not options.check)
        return run(options)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2


def own(folder: Path, *, make: bool) -> None:
    """Hold that nobody else can write to a folder; `make` it where it is missing.

    Raises
    ------
    FolderError
        When it is no folder, belongs to another user, or others may write to it.
    """
    if make:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o755)
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode):
        raise FolderError(f"{folder}: is no folder; a folder that belongs to root is allowed")
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise FolderError(
            f"{folder}: belongs to user {found.st_uid} and has mode {found.st_mode & 0o7777:04o}; "
            f"a folder of user {os.geteuid()} is allowed to which nobody else may write. Another "
            "program or user made it: remove it, or name another by netem_state_dir and "
            "worker_state_dir"
        )


if __name__ == "__main__":
    sys.exit(main())
