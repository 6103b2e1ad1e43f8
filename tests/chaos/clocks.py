"""Wall clocks of hosts that can be stepped, as their stages and supervisors read them.

Python loads a module that adds an offset to `time.time`. Debian's libfaketime would not do: with a
clock that is ahead its sleeps fail (EINVAL), which a clock that is really stepped does not cause.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

_PYTHON = """\
#!/bin/sh
export PYTHONPATH='{folder}'"${{PYTHONPATH:+:$PYTHONPATH}}"
exec '{python}' "$@"
"""
_SITECUSTOMIZE = """\
import time

now_s, now_ns = time.time, time.time_ns

def ahead():
    with open({offset!r}) as file:
        return int(file.read())

time.time = lambda: now_s() + ahead()
time.time_ns = lambda: now_ns() + ahead() * 10**9
"""


def stepped(root: Path, hosts: Sequence[str]) -> str:
    """Make a Python for each host whose wall clock can be stepped.

    Returns
    -------
    Its path, with Ansible's name of the host as a template.
    """
    for host in hosts:
        folder = root / f"clock-{host}"
        folder.mkdir()
        step(root, host, 0)
        offset = str(_offset(root, host))
        (folder / "sitecustomize.py").write_text(_SITECUSTOMIZE.format(offset=offset))
        python = folder / "python"
        python.write_text(_PYTHON.format(folder=folder, python=Path(sys.prefix, "bin/python")))
        python.chmod(0o755)
    return f"{root}/clock-{{{{ inventory_hostname }}}}/python"


def step(root: Path, host: str, seconds: int) -> None:
    """Set by how many seconds a host's clock is ahead of the machine's."""
    written = _offset(root, host).with_suffix(".new")
    written.write_text(str(seconds))
    written.rename(_offset(root, host))


def _offset(root: Path, host: str) -> Path:
    """The file that says by how much a host's clock is ahead."""
    return root / f"clock-{host}/ahead"
