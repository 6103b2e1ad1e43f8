"""A background load of bounded size, which keeps a host busy while a session is measured."""

from __future__ import annotations

import math
import subprocess

TOOL = "stress-ng"

TOLD = "PARETOPIPE_LOAD"
"""Environment variable by which a supervisor tells its stage what else it runs."""


def command(cores: int, memory_mb: float | None, seconds: float) -> tuple[str, ...]:
    """Program and arguments of a load that ends by itself.

    Parameters
    ----------
    cores
        Processes that compute without pause. Where there is `memory_mb`, one of them writes to so
        much memory, in MB of a million bytes, again and again.
    seconds
        When it ends at the latest.
    """
    words = [TOOL, "--quiet", "--no-rand-seed", f"--timeout={math.ceil(seconds)}"]
    computing = cores if memory_mb is None else cores - 1
    if computing:
        words += [f"--cpu={computing}"]
    if memory_mb is not None:
        words += ["--vm=1", f"--vm-bytes={round(memory_mb * 1e6)}b", "--vm-keep"]
    return tuple(words)


def version() -> str | None:
    """The tool's version; None where it is not installed."""
    try:
        done = subprocess.run([TOOL, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.partition("version ")[2].split(" ")[0].strip() or None
