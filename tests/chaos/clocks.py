"""Clocks of hosts that can be stepped: libfaketime shows them to stages and supervisors alone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
"""Debian's package faketime."""

_PYTHON = """\
#!/bin/sh
export LD_PRELOAD={library} FAKETIME_TIMESTAMP_FILE={offset} FAKETIME_NO_CACHE=1
export FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME_DONT_RESET=1
exec {python} "$@"
"""


def stepped(root: Path, hosts: Sequence[str]) -> str:
    """Make a Python for each host whose wall clock can be stepped.

    Returns
    -------
    Its path, with Ansible's name of the host as a template.
    """
    for host in hosts:
        step(root, host, 0)
        python = root / f"python-{host}"
        python.write_text(
            _PYTHON.format(
                library=FAKETIME,
                offset=_offset(root, host),
                python=Path(sys.prefix, "bin/python"),
            )
        )
        python.chmod(0o755)
    return f"{root}/python-{{{{ inventory_hostname }}}}"


def step(root: Path, host: str, seconds: int) -> None:
    """Set how far a host's clock is ahead of the machine's."""
    written = _offset(root, host).with_suffix(".new")
    written.write_text(f"{seconds:+d}\n")
    written.rename(_offset(root, host))


def _offset(root: Path, host: str) -> Path:
    """The file that says how far a host's clock is ahead."""
    return root / f"clock-{host}"
