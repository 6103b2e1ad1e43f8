"""Ansible action: fetch a file of records from a host, and never more than fits.

Ansible's own `fetch` takes whatever a host offers, until the controller's disk is full. Here the
host is asked for the size first. While the file comes, the kernel lets no process that takes part
write a larger one, since a host may say what it likes.
"""

from __future__ import annotations

import resource
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError  # type: ignore[import-untyped]
from ansible.plugins.action import ActionBase  # type: ignore[import-untyped]

SPEC: dict[str, dict[str, Any]] = {
    "src": {"type": "str", "required": True},
    "dest": {"type": "str", "required": True},
}
MOST_BYTES = 4 << 30
"""The largest file that is fetched. One of 10,000 points has a few hundred megabytes."""

MOST_SPARED_BYTES = 1 << 30
"""What a fetch leaves free on the controller's disk, or a tenth of a smaller disk: for other
records, and tables."""

MAY_GROW_BYTES = 64 << 20
"""By how much a file may be larger than the host has just said: a stage may still write to it."""

SIZE = "if [ -f {src} ]; then stat -L -c %s {src}; else echo none; fi"
"""The script that asks for a file's size. A pipe or device is no file: it might never end."""

METHODS = ("sftp", "scp")
"""How files come by SSH. Ansible's last resort, `piped`, would hold them in memory."""


class ActionModule(ActionBase):  # type: ignore[misc]
    """Fetch the file `src` of the host to `dest`, which is whole or not there.

    A file that is not there is no failure: the stage may never have begun.
    """

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Fetch it; fail where it is too large or the host is not reached."""
        super().run(tmp, task_vars)
        _, given = self.validate_argument_spec(argument_spec=SPEC)
        src, dest = str(given["src"]), Path(given["dest"])
        host = str((task_vars or {})["inventory_hostname"])
        half = dest.with_suffix(".part")
        try:
            size = self._size(src)
            if size is None:
                return {"changed": False}
            dest.parent.mkdir(parents=True, exist_ok=True)
            disk = shutil.disk_usage(dest.parent)
            spared = min(MOST_SPARED_BYTES, disk.total // 10)
            if size > (most := max(0, min(MOST_BYTES, disk.free - spared))):
                raise AnsibleError(
                    f"has {size} bytes; at most {most} are fetched, so that {spared} stay free in "
                    f"{dest.parent}"
                )
            with no_larger_file_than(min(most, size + MAY_GROW_BYTES)):
                self._transfer(src, half)
            # Under its own name there is never a file that came only in part.
            half.rename(dest)
        except (AnsibleError, OSError) as error:
            with suppress(OSError):
                half.unlink(missing_ok=True)
            return {"failed": True, "msg": f"{host}: {src} was not fetched: {error}"}
        return {"changed": True}

    def _size(self, src: str) -> int | None:
        """Ask the host for the size of a file; None where it has none of this name."""
        script = SIZE.format(src=shlex.quote(src))
        told = self._low_level_execute_command(script, sudoable=False)
        said = str(told["stdout"]).strip()
        if said == "none":
            return None
        if told["rc"] != 0 or not said.isdecimal():
            raise AnsibleError(f"its size is unknown: {told['stderr'].strip() or said[:60]}")
        return int(said)

    def _transfer(self, src: str, half: Path) -> None:
        """Have the connection write the file, by a way that writes while it reads."""
        connection = self._connection
        if connection.transport != "ssh" or connection.get_option("ssh_transfer_method") != "smart":
            connection.fetch_file(src, str(half))
            return
        for method in METHODS:
            connection.set_option("ssh_transfer_method", method)
            try:
                connection.fetch_file(src, str(half))
                return
            except AnsibleError:
                if method == METHODS[-1]:
                    raise
            finally:
                connection.set_option("ssh_transfer_method", "smart")


@contextmanager
def no_larger_file_than(most_bytes: int) -> Iterator[None]:
    """Have the kernel refuse larger files to this process and to those that it starts meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
